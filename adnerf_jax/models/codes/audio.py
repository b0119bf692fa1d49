"""The audio code: a trained encoding of the speech (paper, sections 3.2 and 3.6)."""

import dataclasses
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.timing import FRAMES_BEFORE
from adnerf_jax.common.types import EXACT, ArrayLike, Conditions
from adnerf_jax.models.audio_nets import AudioAttNet, AudioNet
from adnerf_jax.models.codes.base import Code, Constants, Recording

_FRAMES_AT_ONCE = 1000  # whose windows are in memory in float64


@dataclasses.dataclass(frozen=True)
class AudioCode(Code):
    """Speech windows of 8 neighbouring frames to one code, smoothed by attention.

    Constants: `mean` [C] and `basis` [C, K], the projection of the speech features (`whitening`).

    Attributes:
      size: W, numbers in the code.
      init_scheme: initialisation of its networks (`fields.initialisers`).
    """

    name: ClassVar[str] = "audio"
    size: int
    init_scheme: str = "uniform"

    @classmethod
    def from_settings(cls, model: Any) -> Self:
        return cls(model.audio_code, model.audio_init)

    @classmethod
    def reads(cls) -> tuple[str, ...]:
        return ()

    def fit(self, recording: Recording) -> Constants:
        mean, basis = whitening(recording.windows, recording.audio_components)
        return {"mean": mean, "basis": basis}

    def encode(self, conditions: Conditions, constants: Constants, smooth: ArrayLike | bool) -> Array:
        centred = conditions.audio - expand_leading(constants["mean"], conditions.audio.ndim)
        features = jnp.matmul(centred, constants["basis"], precision=EXACT)
        return AudioEncoder(self.size, self.init_scheme, name=self.name)(features, smooth)


class AudioEncoder(nn.Module):
    """The published networks: one code for each window, then their weighted sum over 8 neighbouring frames."""

    size: int
    init_scheme: str = "uniform"

    @nn.compact
    def __call__(self, features: Array, smooth: ArrayLike | bool) -> Array:
        """[F, 8, 16, K] to [F, size]; without `smooth`, the code of the frame's own window."""
        codes = AudioNet(code=self.size, init_scheme=self.init_scheme, name="net")(features)
        smoothed = AudioAttNet(init_scheme=self.init_scheme, name="attention")(codes)
        return jnp.where(smooth, smoothed, codes[:, FRAMES_BEFORE])


def whitening(windows: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and basis that turn speech features into their leading principal components with variance 1.

    A few hundred frames cannot teach a network which of several hundred correlated features matter. Features that
    already have this number of components were chosen by somebody (the 29 of DeepSpeech for the published networks)
    and stay as they are.

    Args:
      windows: [N, 16, C].
      components: K; fewer where C is smaller.

    Returns:
      mean [C] and basis [C, K], float32; 0 and the identity where C = K.
    """
    channels = windows.shape[-1]
    if channels == components:
        return np.zeros(channels, np.float32), np.eye(channels, dtype=np.float32)
    mean = windows.mean((0, 1), dtype=np.float64)
    scatter = np.zeros((channels, channels))
    for start in range(0, len(windows), _FRAMES_AT_ONCE):
        rows = windows[start : start + _FRAMES_AT_ONCE].reshape(-1, channels) - mean
        scatter += rows.T @ rows
    variances, vectors = np.linalg.eigh(scatter / (len(windows) * windows.shape[1] - 1))
    keep = np.argsort(variances)[::-1][: min(components, len(mean))]
    floor = 1e-6 * variances.max() + 1e-12
    return mean.astype(np.float32), (vectors[:, keep] / np.sqrt(variances[keep] + floor)).astype(np.float32)
