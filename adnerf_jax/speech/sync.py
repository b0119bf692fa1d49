"""How late the sound is against the lips.

The lips' shape is estimated from the speech features by ridge regression, once for each lag between the two; the lag at
which frames that the fit did not see are estimated best is the offset. Where a long clip of the person in step has
taught the estimate (`LipModel`), a short one can be measured.
"""

import dataclasses

import numpy as np

from adnerf_jax.common.timing import FPS
from adnerf_jax.speech.lips import principal

MOST_LAG = 15  # frames, to each side
SHORTEST = 150  # frames with a face that a measurement needs
SHORTEST_KNOWN = 20  # … of a person whose `LipModel` there is
CLEAR_FIT = 0.15  # of the lips' variance explained at the best lag …
CLEAR_MARGIN = 0.1  # … and by so much more than at any lag farther away than `NEIGHBOURHOOD`
NEIGHBOURHOOD = 4  # frames
_FOLDS = 5
_SHAPES = 2  # principal components of the lips' shape: opening and rounding
_FEATURES = 48  # principal components of the speech features
_REACH = 4  # features to each side of the lag's, tapered: 80 ms
_PENALTY = 0.3  # of the mean eigenvalue
_STILL = 1e-6  # standard deviation: nothing but rounding


@dataclasses.dataclass(frozen=True)
class Offset:
    """A measured offset.

    Attributes:
      seconds: positive where the sound is late.
      fit: share of the lips' variance that the speech explains there, at most 1.
      margin: by how much `fit` exceeds that of every lag more than 4 frames away.
      curve: float [2 K + 1], the share at −K … K frames; K is 15, less for a short clip of a known person.
    """

    seconds: float
    fit: float
    margin: float
    curve: np.ndarray

    @property
    def clear(self) -> bool:
        """Whether the measurement can be relied on."""
        return self.fit >= CLEAR_FIT and self.margin >= CLEAR_MARGIN


def measure_offset(windows: np.ndarray, lips: np.ndarray, valid: np.ndarray) -> Offset | None:
    """Measures how late the sound of a clip is.

    Args:
      windows: [N, 16, C], speech windows of all frames, row i with the 50 Hz features [2i − 8, 2i + 8).
      lips: [N, L], `articulation.lip_shapes`.
      valid: bool [N], where there is a face.

    Returns:
      the offset; None where fewer than 150 frames can be used, or where the lips or the sound never change.
    """
    frames = len(windows)
    rows = np.flatnonzero(valid)
    rows = rows[(rows >= MOST_LAG + _REACH) & (rows < frames - MOST_LAG - _REACH)]
    if len(rows) < SHORTEST:
        return None
    features = _features(windows)
    features -= features.mean(0)
    features = features @ _leading(features, _FEATURES)
    shapes = principal(lips[rows], _SHAPES)
    if min(features.std(), shapes.std()) < _STILL:
        return None
    lags = np.arange(-MOST_LAG, MOST_LAG + 1)
    return _offset(lags, np.array([_explained(features, 2 * (rows + lag), shapes) for lag in lags]))


@dataclasses.dataclass(frozen=True)
class LipModel:
    """What a person's speech lets expect of the lips' shape: `measure_offset`'s regression, kept.

    Attributes:
      feature_mean: [C], feature_basis: [C, F], of the speech features.
      shape_mean: [L], shape_basis: [L, 2], of the lips' shape.
      input_mean: [D], weights: [D, 2], of the regression.
    """

    feature_mean: np.ndarray
    feature_basis: np.ndarray
    shape_mean: np.ndarray
    shape_basis: np.ndarray
    input_mean: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, windows: np.ndarray, lips: np.ndarray, rows: np.ndarray) -> "LipModel | None":
        """Learns from frames in which sound and lips are in step.

        Args:
          windows: [N, 16, C], speech windows of all frames.
          lips: [N, L], `articulation.lip_shapes`.
          rows: [n], the frames to learn from.

        Returns:
          the model; None where there are fewer than 150 frames, or where the lips or the sound never change.
        """
        rows = rows[(rows >= _REACH) & (rows < len(windows) - _REACH)]
        if len(rows) < SHORTEST:
            return None
        features, shapes = _features(windows), lips[rows].astype(np.float64)
        feature_mean, shape_mean = features.mean(0), shapes.mean(0)
        feature_basis = _leading(features - feature_mean, _FEATURES)
        features, shapes = (features - feature_mean) @ feature_basis, shapes - shape_mean
        shape_basis = _leading(shapes, _SHAPES)
        shapes = shapes @ shape_basis
        if min(features.std(), shapes.std()) < _STILL:
            return None
        inputs = _inputs(features, 2 * rows)
        input_mean = inputs.mean(0)
        inputs -= input_mean
        weights = np.linalg.solve(inputs.T @ inputs + _penalty(inputs), inputs.T @ shapes)
        return cls(feature_mean, feature_basis, shape_mean, shape_basis, input_mean, weights)

    def measure_offset(self, windows: np.ndarray, lips: np.ndarray, rows: np.ndarray) -> Offset | None:
        """How late the sound of a clip of this person is, real or rendered.

        The share explained is the squared correlation of the expected shape with the seen one: how far the lips move
        does not count. Each lag is judged on the frames that have sound there. Two seconds of other speech reach 0.2 by
        chance, which `clear` does not know.

        Args:
          windows: [N, 16, C], speech windows.
          lips: [n, L], `articulation.lip_shapes` of some frames, aligned as those that the model was fitted to.
          rows: [n], which frames of the sound they are.

        Returns:
          the offset; None for fewer than 20 frames, or where the lips or the sound never change.
        """
        if len(rows) < SHORTEST_KNOWN:
            return None
        features = (_features(windows) - self.feature_mean) @ self.feature_basis
        places = np.clip(np.arange(len(windows)), _REACH // 2, len(windows) - 1 - _REACH // 2)
        expected = (_inputs(features, 2 * places) - self.input_mean) @ self.weights
        seen = (lips - self.shape_mean) @ self.shape_basis
        if min(expected.std(0).max(), seen.std(0).max()) < _STILL:
            return None
        most = min(MOST_LAG, len(rows) // 3)
        lags = np.arange(-most, most + 1)
        return _offset(lags, np.array([_agreement(expected, seen, rows + lag) for lag in lags]))


def _agreement(expected: np.ndarray, seen: np.ndarray, at: np.ndarray) -> float:
    """Squared correlation, with its sign, of shapes seen [n, 2] with those expected [N, 2] at places `at` [n]."""
    inside = (at >= 0) & (at < len(expected))
    a, b = expected[at[inside]], seen[inside]
    a, b = a - a.mean(0), b - b.mean(0)
    correlation = (a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12)
    return float(correlation * abs(correlation))


def _offset(lags: np.ndarray, curve: np.ndarray) -> Offset:
    """The offset from the share explained at each lag in frames."""
    best = int(curve.argmax())
    # The top is flat: a parabola through five lags finds its middle between frames.
    around = slice(max(best - 2, 0), best + 3)
    bend, slope, _ = np.polyfit(lags[around] - lags[best], curve[around], 2)
    between = float(np.clip(-slope / (2 * bend), -1.0, 1.0)) if bend < 0 else 0.0
    far = np.abs(lags - lags[best]) > NEIGHBOURHOOD
    return Offset(float(lags[best] + between) / FPS, float(curve[best]), float(curve[best] - curve[far].max()), curve)


def _features(windows: np.ndarray) -> np.ndarray:
    """The 50 Hz features [2 N, C] of windows [N, 16, C]."""
    return windows[:, 8:10].reshape(2 * len(windows), -1).astype(np.float64)


def _leading(centred: np.ndarray, count: int) -> np.ndarray:
    """The leading principal directions [D, count] of values [N, D]."""
    _, basis = np.linalg.eigh(centred.T @ centred)
    return basis[:, -count:]


def _inputs(features: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The features around `at` [n], tapered: [n, D]."""
    around = np.arange(-_REACH, _REACH + 1)
    taper = np.exp(-0.5 * (around / 2.0) ** 2)
    return (features[at[:, None] + around] * taper[:, None]).reshape(len(at), -1)


def _penalty(inputs: np.ndarray) -> np.ndarray:
    return _PENALTY * np.square(inputs).sum() / min(inputs.shape) * np.eye(inputs.shape[1])


def _explained(features: np.ndarray, at: np.ndarray, shapes: np.ndarray) -> float:
    """Share of the variance of shapes [n, M] that features around `at` [n] explain in folds of time left out."""
    inputs = _inputs(features, at)
    inputs -= inputs.mean(0)
    penalty = _penalty(inputs)
    fold = np.arange(len(at)) * _FOLDS // len(at)
    error = 0.0
    for k in range(_FOLDS):
        seen, unseen = fold != k, fold == k
        mean = shapes[seen].mean(0)
        gram = inputs[seen].T @ inputs[seen] + penalty
        weights = np.linalg.solve(gram, inputs[seen].T @ (shapes[seen] - mean))
        error += np.square(inputs[unseen] @ weights + mean - shapes[unseen]).sum()
    return 1.0 - error / np.square(shapes - shapes.mean(0)).sum()


def moved_earlier(samples: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """Sound [T] that starts so much earlier (later where negative), as long as before, silence where none is left."""
    shift = round(seconds * rate)
    moved = np.zeros_like(samples)
    if shift >= 0:
        moved[: max(len(samples) - shift, 0)] = samples[shift:]
    else:
        moved[-shift:] = samples[:shift]
    return moved
