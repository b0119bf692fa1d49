"""LPIPS, the learned perceptual distance of two images (Zhang et al. 2018), version 0.1, on AlexNet or VGG16.

Features after five of the network's ReLUs are normalised to unit length at each pixel; their squared differences are
weighted by channel, averaged over the pixels and summed over the five layers. 0 for equal images; lower is better.
"""

import pathlib
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy._core import multiarray

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.errors import UserError
from adnerf_jax.pretrained import weights

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # for values in [−1, 1], as published


class _Plan(NamedTuple):
    """The architecture of a network.

    Attributes:
      key: key of the network in the weights file.
      kernels: sizes of the convolutions' kernels.
      channels: output channels of the convolutions.
      taps: indices of the convolutions whose activations are features.
      pooled: indices of the convolutions that are preceded by max pooling.
      window: window of the pooling; its stride is 2.
      first_stride: stride of the first convolution; 1 for the others.
    """

    key: str
    kernels: tuple[int, ...]
    channels: tuple[int, ...]
    taps: tuple[int, ...]
    pooled: tuple[int, ...]
    window: int
    first_stride: int


_PLANS = {
    "alex": _Plan("AlexNet_0", (11, 5, 3, 3, 3), (64, 192, 384, 256, 256), (0, 1, 2, 3, 4), (1, 2), 3, 4),
    "vgg": _Plan(
        "VGG16_0",
        (3,) * 13,
        (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
        (1, 3, 6, 9, 12),
        (2, 4, 7, 10),
        2,
        1,
    ),
}
NETWORKS = tuple(_PLANS)
MIN_SIDE = 32  # pixels, shortest side that leaves at least one pixel after the last pooling


class Lpips:
    """The metric on one network.

    Args:
      name: one of `NETWORKS`.
      path: file of its weights; None: the pinned file (`weights.path`).

    Raises:
      UserError: the weights cannot be fetched, or are not this network's.
    """

    def __init__(self, name: str, path: str | pathlib.Path | None = None):
        plan = _PLANS[name]
        self._convolutions, self._weights = _load(weights.path(f"lpips_{name}") if path is None else path, plan)
        self._features = jax.jit(lambda parameters, picture: _features(parameters, picture, plan))
        self._distance = jax.jit(_distance)

    def features(self, picture: np.ndarray) -> list[jax.Array]:
        """The five feature maps [h, w, C] that `distance` compares.

        Args:
          picture: float [H, W, 3] in [0, 1]; no side shorter than `MIN_SIDE`.
        """
        return self._features(self._convolutions, jnp.asarray(picture, jnp.float32))

    def distance(self, ours: list[jax.Array], theirs: list[jax.Array]) -> float:
        """The distance of two images, from their `features`."""
        return float(self._distance(self._weights, ours, theirs))

    def __call__(self, image: np.ndarray, truth: np.ndarray) -> float:
        """The distance of two images, float [H, W, 3] in [0, 1]."""
        return self.distance(self.features(image), self.features(truth))


def _features(convolutions: list[tuple[jax.Array, jax.Array]], picture: jax.Array, plan: _Plan) -> list[jax.Array]:
    shift, scale = (expand_leading(jnp.array(values), picture.ndim) for values in (_SHIFT, _SCALE))
    x = ((2.0 * picture - 1.0 - shift) / scale)[None]
    taps = []
    for i, (kernel, bias) in enumerate(convolutions):
        if i in plan.pooled:
            window = (1, plan.window, plan.window, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
        stride = plan.first_stride if i == 0 else 1
        edge = 2 if len(kernel) > 3 else 1
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(edge, edge)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + expand_leading(bias, x.ndim))
        if i in plan.taps:
            taps.append((x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))[0])
    return taps


def _distance(per_tap: list[jax.Array], ours: list[jax.Array], theirs: list[jax.Array]) -> jax.Array:
    distances = (((a - b) ** 2 @ weight).mean() for weight, a, b in zip(per_tap, ours, theirs, strict=True))
    return sum(distances, start=jnp.zeros(()))


def _load(path: str | pathlib.Path, plan: _Plan) -> tuple[list[tuple[jax.Array, jax.Array]], list[jax.Array]]:
    """Reads kernels [k, k, in, out] and biases [out] of the convolutions, and weights [C] of the five taps."""
    try:
        with open(path, "rb") as file:
            stored = _Unpickler(file).load()
        convolutions = [
            (_array(layer["kernel"], (size, size, before, after)), _array(layer["bias"], (after,)))
            for layer, size, before, after in zip(
                (stored[plan.key][f"Conv_{i}"] for i in range(len(plan.kernels))),
                plan.kernels,
                (3, *plan.channels[:-1]),
                plan.channels,
                strict=True,
            )
        ]
        per_tap = [
            _array(stored[f"NetLinLayer_{k}"]["Conv_0"]["kernel"], (1, 1, plan.channels[i], 1))[0, 0, :, 0]
            for k, i in enumerate(plan.taps)
        ]
    except Exception as error:  # an unpickler can raise anything on a damaged or hostile file
        raise UserError(f"{path} does not hold the LPIPS weights ({type(error).__name__}: {error})") from None
    return convolutions, per_tap


def _array(value: Any, shape: tuple[int, ...]) -> jax.Array:
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != np.float32:
        raise ValueError(f"an array of shape {shape} is missing")
    return jnp.asarray(value)


class _Unpickler(pickle.Unpickler):
    """Loads only arrays in dictionaries: unpickling anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return allowed[module, name]
