"""Measurement of the offset between sound and lips.

The lips' shape is predicted from the speech features by ridge regression, for each lag between the two; the offset is
the lag with the smallest cross-validated error. A regression that was fitted to a long synchronised clip of the same
person (`LipModel`) can measure short clips.
"""

import dataclasses

import numpy as np

from adnerf_jax.common.timing import FPS, WINDOW
from adnerf_jax.speech.lips import principal_components

MAX_LAG = 15  # frames, in each direction
MIN_FRAMES = 150  # frames with a face that a measurement needs
MIN_FRAMES_WITH_MODEL = 20  # with a `LipModel` of the person
MIN_FIT = 0.15  # least share of the lips' variance explained at the best lag in a clear measurement
MIN_MARGIN = 0.1  # least excess over the share at lags more than `PEAK_RADIUS` away in a clear measurement
PEAK_RADIUS = 4  # frames
_FOLDS = 5
_SHAPES = 2  # principal components of the lips' shape: opening and rounding
_FEATURES = 48  # principal components of the speech features
_REACH = 4  # features on each side of the lag that the regression reads, tapered: 80 ms
_PENALTY = 0.3  # as a multiple of the mean eigenvalue
_CONSTANT = 1e-6  # signals with a smaller standard deviation are constant but for rounding


@dataclasses.dataclass(frozen=True)
class Offset:
    """A measured offset.

    Attributes:
      seconds: positive if the sound is late.
      fit: share of the lips' variance that the speech explains at this offset, at most 1.
      margin: `fit` minus the largest share at a lag more than `PEAK_RADIUS` frames away.
      curve: float [2 K + 1], the share at −K … K frames; K is `MAX_LAG`, or less for a short clip and a `LipModel`.
    """

    seconds: float
    fit: float
    margin: float
    curve: np.ndarray

    @property
    def clear(self) -> bool:
        """Whether the curve has a clear peak, so that the measurement can be relied on."""
        return self.fit >= MIN_FIT and self.margin >= MIN_MARGIN


def measure_offset(windows: np.ndarray, lips: np.ndarray, valid: np.ndarray) -> Offset | None:
    """Measures how late the sound of a clip is.

    Args:
      windows: [N, 16, C], speech windows of all frames, row i with the 50 Hz features [2i − 8, 2i + 8).
      lips: [N, L], from `lips.lip_shapes`.
      valid: bool [N], whether the frame has a face.

    Returns:
      the offset; None if fewer than `MIN_FRAMES` frames can be used, or if the lips or the sound are constant.
    """
    frames = len(windows)
    rows = np.flatnonzero(valid)
    rows = rows[(rows >= MAX_LAG + _REACH) & (rows < frames - MAX_LAG - _REACH)]
    if len(rows) < MIN_FRAMES:
        return None
    features = _features_of_windows(windows)
    features -= features.mean(0)
    features = features @ _principal_directions(features, _FEATURES)
    shapes = principal_components(lips[rows], _SHAPES)
    if min(features.std(), shapes.std()) < _CONSTANT:
        return None
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    return _find_peak(lags, np.array([_explained_variance(features, 2 * (rows + lag), shapes) for lag in lags]))


@dataclasses.dataclass(frozen=True)
class LipModel:
    """A person's ridge regression from speech features to the shape of the lips.

    Attributes:
      feature_mean: [C], mean of the speech features.
      feature_basis: [C, F], their principal directions.
      shape_mean: [L], mean of the lips' shape.
      shape_basis: [L, 2], its principal directions.
      input_mean: [D], mean of the regression's inputs.
      weights: [D, 2], of the regression.
    """

    feature_mean: np.ndarray
    feature_basis: np.ndarray
    shape_mean: np.ndarray
    shape_basis: np.ndarray
    input_mean: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, windows: np.ndarray, lips: np.ndarray, rows: np.ndarray) -> "LipModel | None":
        """Fits the regression to frames in which sound and lips are synchronised.

        Args:
          windows: [N, 16, C], speech windows of all frames.
          lips: [N, L], from `lips.lip_shapes`.
          rows: [n], indices of the training frames.

        Returns:
          the model; None if fewer than `MIN_FRAMES` frames can be used, or if the lips or the sound are constant.
        """
        rows = rows[(rows >= _REACH) & (rows < len(windows) - _REACH)]
        if len(rows) < MIN_FRAMES:
            return None
        features, shapes = _features_of_windows(windows), lips[rows].astype(np.float64)
        feature_mean, shape_mean = features.mean(0), shapes.mean(0)
        feature_basis = _principal_directions(features - feature_mean, _FEATURES)
        features, shapes = (features - feature_mean) @ feature_basis, shapes - shape_mean
        shape_basis = _principal_directions(shapes, _SHAPES)
        shapes = shapes @ shape_basis
        if min(features.std(), shapes.std()) < _CONSTANT:
            return None
        inputs = _tapered_context(features, 2 * rows)
        input_mean = inputs.mean(0)
        inputs -= input_mean
        weights = np.linalg.solve(inputs.T @ inputs + _penalty(inputs), inputs.T @ shapes)
        return cls(feature_mean, feature_basis, shape_mean, shape_basis, input_mean, weights)

    def measure_offset(self, windows: np.ndarray, lips: np.ndarray, rows: np.ndarray) -> Offset | None:
        """Measures how late the sound of a real or rendered clip of this person is.

        The share explained is the squared correlation of the predicted with the measured shape, so that the amplitude
        of the lips' motion does not count. Each lag is evaluated on the frames that have sound at that lag. For 2 s of
        unrelated speech it reaches 0.2 by chance, more than the threshold of `Offset.clear`.

        Args:
          windows: [N, 16, C], speech windows of all frames.
          lips: [n, L], `lips.lip_shapes` of some frames, aligned to the same face as those the model was fitted to.
          rows: [n], indices of these frames.

        Returns:
          the offset; None for fewer than `MIN_FRAMES_WITH_MODEL` frames, or if the lips or the sound are constant.
        """
        if len(rows) < MIN_FRAMES_WITH_MODEL:
            return None
        features = (_features_of_windows(windows) - self.feature_mean) @ self.feature_basis
        places = np.clip(np.arange(len(windows)), _REACH // 2, len(windows) - 1 - _REACH // 2)
        predicted = (_tapered_context(features, 2 * places) - self.input_mean) @ self.weights
        measured = (lips - self.shape_mean) @ self.shape_basis
        if min(predicted.std(0).max(), measured.std(0).max()) < _CONSTANT:
            return None
        reach = min(MAX_LAG, len(rows) // 3)
        lags = np.arange(-reach, reach + 1)
        return _find_peak(lags, np.array([_squared_correlation(predicted, measured, rows + lag) for lag in lags]))


def _squared_correlation(predicted: np.ndarray, measured: np.ndarray, at: np.ndarray) -> float:
    """Squared correlation, with its sign, of shapes measured [n, 2] with those predicted [N, 2] at indices `at` [n]."""
    inside = (at >= 0) & (at < len(predicted))
    a, b = predicted[at[inside]], measured[inside]
    a, b = a - a.mean(0), b - b.mean(0)
    correlation = (a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12)
    return float(correlation * abs(correlation))


def _find_peak(lags: np.ndarray, curve: np.ndarray) -> Offset:
    """The offset at the peak of the share explained at each lag in frames."""
    best = int(curve.argmax())
    # The peak is flat: the vertex of a parabola through five lags gives its position with sub-frame precision.
    around = slice(max(best - 2, 0), best + 3)
    curvature, slope, _ = np.polyfit(lags[around] - lags[best], curve[around], 2)
    between = float(np.clip(-slope / (2 * curvature), -1.0, 1.0)) if curvature < 0 else 0.0
    far = np.abs(lags - lags[best]) > PEAK_RADIUS
    return Offset(float(lags[best] + between) / FPS, float(curve[best]), float(curve[best] - curve[far].max()), curve)


def _features_of_windows(windows: np.ndarray) -> np.ndarray:
    """The 50 Hz features float64 [2 N, C] in the centres of windows [N, 16, C]."""
    centre = WINDOW // 2
    return windows[:, centre : centre + 2].reshape(2 * len(windows), -1).astype(np.float64)


def _principal_directions(centred: np.ndarray, count: int) -> np.ndarray:
    """The leading principal directions [D, count] of centred values [N, D]."""
    _, basis = np.linalg.eigh(centred.T @ centred)
    return basis[:, -count:]


def _tapered_context(features: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The regression's inputs [n, D]: features around the indices `at` [n], with Gaussian weights."""
    around = np.arange(-_REACH, _REACH + 1)
    taper = np.exp(-0.5 * (around / 2.0) ** 2)
    return (features[at[:, None] + around] * taper[:, None]).reshape(len(at), -1)


def _penalty(inputs: np.ndarray) -> np.ndarray:
    """The ridge term [D, D] for inputs [n, D]."""
    return _PENALTY * np.square(inputs).sum() / min(inputs.shape) * np.eye(inputs.shape[1])


def _explained_variance(features: np.ndarray, at: np.ndarray, shapes: np.ndarray) -> float:
    """Share of the variance of shapes [n, M] that features around `at` [n] explain, cross-validated over time."""
    inputs = _tapered_context(features, at)
    inputs -= inputs.mean(0)
    penalty = _penalty(inputs)
    fold = np.arange(len(at)) * _FOLDS // len(at)
    error = 0.0
    for k in range(_FOLDS):
        train, held_out = fold != k, fold == k
        mean = shapes[train].mean(0)
        gram = inputs[train].T @ inputs[train] + penalty
        weights = np.linalg.solve(gram, inputs[train].T @ (shapes[train] - mean))
        error += np.square(inputs[held_out] @ weights + mean - shapes[held_out]).sum()
    return 1.0 - error / np.square(shapes - shapes.mean(0)).sum()


def moved_earlier(samples: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """Sound [T] moved earlier by `seconds` (later if negative), of the same length, padded with silence."""
    shift = round(seconds * rate)
    moved = np.zeros_like(samples)
    if shift >= 0:
        moved[: max(len(samples) - shift, 0)] = samples[shift:]
    else:
        moved[-shift:] = samples[:shift]
    return moved
