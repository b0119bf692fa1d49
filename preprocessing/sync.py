"""How late the sound is against the lips.

The lips' shape is estimated from the speech features by ridge regression, once for each lag between the two; the lag at
which frames that the fit did not see are estimated best is the offset.
"""

import dataclasses

import numpy as np

from adnerf_jax.articulation import principal
from adnerf_jax.schema import FPS

MOST_LAG = 15  # frames, to each side
SHORTEST = 150  # frames with a face that a measurement needs
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
      curve: float [31], the share at −15 … 15 frames.
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
    features = windows[:, 8:10].reshape(2 * frames, -1).astype(np.float64)
    features -= features.mean(0)
    _, basis = np.linalg.eigh(features.T @ features)
    features = features @ basis[:, -_FEATURES:]
    shapes = principal(lips[rows], _SHAPES)
    if min(features.std(), shapes.std()) < _STILL:
        return None

    lags = np.arange(-MOST_LAG, MOST_LAG + 1)
    curve = np.array([_explained(features, 2 * (rows + lag), shapes) for lag in lags])
    best = int(curve.argmax())
    # The top is flat: a parabola through five lags finds its middle between frames.
    around = slice(max(best - 2, 0), best + 3)
    bend, slope, _ = np.polyfit(lags[around] - lags[best], curve[around], 2)
    between = float(np.clip(-slope / (2 * bend), -1.0, 1.0)) if bend < 0 else 0.0
    far = np.abs(lags - lags[best]) > NEIGHBOURHOOD
    return Offset(float(lags[best] + between) / FPS, float(curve[best]), float(curve[best] - curve[far].max()), curve)


def _explained(features: np.ndarray, at: np.ndarray, shapes: np.ndarray) -> float:
    """Share of the variance of shapes [n, M] that features around `at` [n] explain in folds of time left out."""
    around = np.arange(-_REACH, _REACH + 1)
    taper = np.exp(-0.5 * (around / 2.0) ** 2)
    inputs = (features[at[:, None] + around] * taper[:, None]).reshape(len(at), -1)
    inputs -= inputs.mean(0)
    penalty = _PENALTY * np.square(inputs).sum() / min(inputs.shape) * np.eye(inputs.shape[1])
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
