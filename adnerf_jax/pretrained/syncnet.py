"""SyncNet (Chung and Zisserman, "Out of time", 2016): embeddings of lips and speech that are close if synchronised.

The network of the published `syncnet_v2.model`. The user provides the file; its weights are not fetched. It has two
towers of convolutions with batch normalisation and ReLU, followed by two linear layers each.
"""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.errors import UserError
from adnerf_jax.pretrained import torch_pickle

CLIP = 5  # frames per embedding of lips
SIDE = 224  # pixels, of these frames
COEFFICIENTS, STEPS = 13, 20  # per embedding of speech: cepstral coefficients, and time steps at 100 Hz
EMBEDDING = 1024
_EPSILON = 1e-5  # epsilon of the batch normalisation: PyTorch's default


class _Layer(NamedTuple):
    """A convolution with batch normalisation and ReLU, then max pooling if `window` is not empty."""

    place: int  # in the published `nn.Sequential`
    kernel: tuple[int, ...]
    channels: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    window: tuple[int, ...] = ()
    window_stride: tuple[int, ...] = ()
    window_padding: tuple[int, ...] = ()


_SPEECH = (
    _Layer(0, (3, 3), 64, (1, 1), (1, 1)),
    _Layer(4, (3, 3), 192, (1, 1), (1, 1), (3, 3), (1, 2), (0, 0)),
    _Layer(8, (3, 3), 384, (1, 1), (1, 1)),
    _Layer(11, (3, 3), 256, (1, 1), (1, 1)),
    _Layer(14, (3, 3), 256, (1, 1), (1, 1), (3, 3), (2, 2), (0, 0)),
    _Layer(18, (5, 4), 512, (1, 1), (0, 0)),
)
_LIPS = (
    _Layer(0, (5, 7, 7), 96, (1, 2, 2), (0, 0, 0), (1, 3, 3), (1, 2, 2), (0, 0, 0)),
    _Layer(4, (1, 5, 5), 256, (1, 2, 2), (0, 1, 1), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    _Layer(8, (1, 3, 3), 256, (1, 1, 1), (0, 1, 1)),
    _Layer(11, (1, 3, 3), 256, (1, 1, 1), (0, 1, 1)),
    _Layer(14, (1, 3, 3), 256, (1, 1, 1), (0, 1, 1), (1, 3, 3), (1, 2, 2), (0, 0, 0)),
    _Layer(18, (1, 6, 6), 512, (1, 1, 1), (0, 0, 0)),
)
_TOWERS = {"aud": (_SPEECH, 1), "lip": (_LIPS, 3)}


class SyncNet:
    """The network with its weights.

    Args:
      path: the published `syncnet_v2.model`, or another state dictionary of that network.

    Raises:
      UserError: the file cannot be read, or holds another network.
    """

    def __init__(self, path: str | pathlib.Path):
        state = torch_pickle.load(path)
        try:
            towers = {name: _tower(state, name) for name in _TOWERS}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} does not hold SyncNet's weights ({error}): give the published syncnet_v2.model"
            ) from None
        self._towers = towers
        self._speech = jax.jit(lambda tower, x: _embed(tower, x[..., None], _SPEECH))
        self._lips = jax.jit(lambda tower, x: _embed(tower, x[..., ::-1].astype(jnp.float32), _LIPS))

    def lips(self, clips: np.ndarray) -> np.ndarray:
        """Embeddings [n, 1024] of clips of five consecutive frames, uint8 RGB [n, 5, 224, 224, 3]."""
        return np.asarray(self._lips(self._towers["lip"], jnp.asarray(clips)))

    def speech(self, coefficients: np.ndarray) -> np.ndarray:
        """Embeddings [n, 1024] of speech, given as cepstral coefficients at 100 Hz, float [n, 13, 20]."""
        return np.asarray(self._speech(self._towers["aud"], jnp.asarray(coefficients, jnp.float32)))


def _embed(tower: dict, x: jax.Array, layers: tuple[_Layer, ...]) -> jax.Array:
    for layer, (kernel, bias) in zip(layers, tower["convolutions"], strict=True):
        space = "DHW"[-len(layer.kernel) :]
        layout = (f"N{space}C", f"{space}IO", f"N{space}C")
        x = jax.lax.conv_general_dilated(
            x, kernel, layer.stride, [(p, p) for p in layer.padding], dimension_numbers=layout
        )
        x = jax.nn.relu(x + expand_leading(bias, x.ndim))
        if layer.window:
            x = jax.lax.reduce_window(
                x,
                -jnp.inf,
                jax.lax.max,
                (1, *layer.window, 1),
                (1, *layer.window_stride, 1),
                [(0, 0), *((p, p) for p in layer.window_padding), (0, 0)],
            )
    (first, first_bias), (second, second_bias) = tower["linear"]
    x = jax.nn.relu(x.reshape(len(x), -1) @ first + first_bias[None])
    return x @ second + second_bias[None]


def _tower(state: dict, name: str) -> dict:
    """Convolutions and linear layers of a tower, with the batch norms folded into them."""
    layers, before = _TOWERS[name]
    convolutions = []
    for layer in layers:
        kernel, bias = _folded(state, f"netcnn{name}.{layer.place}", f"netcnn{name}.{layer.place + 1}")
        _expect(kernel, (layer.channels, before, *layer.kernel), f"netcnn{name}.{layer.place}")
        convolutions.append((jnp.asarray(np.moveaxis(kernel, (0, 1), (-1, -2))), jnp.asarray(bias)))
        before = layer.channels
    first = _folded(state, f"netfc{name}.0", f"netfc{name}.1")
    second = tuple(np.asarray(state[f"netfc{name}.3.{part}"], np.float32) for part in ("weight", "bias"))
    _expect(first[0], (512, 512), f"netfc{name}.0")
    _expect(second[0], (EMBEDDING, 512), f"netfc{name}.3")
    linear = [(jnp.asarray(weight.T), jnp.asarray(bias)) for weight, bias in (first, second)]
    return {"convolutions": convolutions, "linear": linear}


def _folded(state: dict, layer: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a layer, with the batch norm `norm` that follows it folded into them."""
    weight, bias = (np.asarray(state[f"{layer}.{part}"], np.float64) for part in ("weight", "bias"))
    scale, shift, mean, variance = (
        np.asarray(state[f"{norm}.{part}"], np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    _expect(bias, weight.shape[:1], layer)
    for values in (scale, shift, mean, variance):
        _expect(values, weight.shape[:1], norm)
    gain = scale / np.sqrt(variance + _EPSILON)
    folded = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
    return folded.astype(np.float32), ((bias - mean) * gain + shift).astype(np.float32)


def _expect(values: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if values.shape != tuple(shape):
        raise ValueError(f"{name} has shape {values.shape} instead of {tuple(shape)}")
