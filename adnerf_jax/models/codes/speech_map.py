"""Linear maps from the speech to what was measured in the frames: fitted once, never trained."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.timing import FRAMES_BEFORE
from adnerf_jax.common.types import EXACT, ArrayLike
from adnerf_jax.speech.lips import centre_taper, fit_ridge

# Frames that a map is fitted to, at most: more change it little, and memory grows with their square.
_MOST_FRAMES = 4000
# Weights of the frames i−1, i, i+1 in the estimate for frame i.
_SHARES = (0.25, 0.5, 0.25)
SMOOTHING = "mean of three frames, weighted 1:2:1"


def fit_speech_map(windows: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The ridge regression (`speech.lips.fit_ridge`) of targets [N, M] on speech windows [N, 16, C].

    Returns:
      `weights` [16, C, M] and `bias` [M] of the map from a window as it is, float32.
    """
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _MOST_FRAMES)).astype(int))
    windows, targets = windows[chosen], targets[chosen]
    mean = windows.mean((0, 1), dtype=np.float64)
    taper = centre_taper(windows.shape[1])[:, None]
    weights, bias = fit_ridge(((windows - mean) * taper).reshape(len(windows), -1), targets)
    weights = weights.reshape(*windows.shape[1:], -1) * taper[..., None]
    return {
        "weights": weights.astype(np.float32),
        "bias": (bias - np.einsum("c,tcm->m", mean, weights)).astype(np.float32),
    }


def apply_speech_map(audio: ArrayLike, weights: ArrayLike, bias: ArrayLike) -> Array:
    """The estimate [F, M] from the windows [F, 8, 16, C] around each frame, smoothed over three frames."""
    around, shares = audio[:, FRAMES_BEFORE - 1 : FRAMES_BEFORE + 2], jnp.array(_SHARES)
    now = jnp.einsum("fwtc,w->ftc", around, shares, precision=EXACT)
    return jnp.einsum("ftc,tcm->fm", now, weights, precision=EXACT) + bias[None]
