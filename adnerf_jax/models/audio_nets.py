"""From speech windows to one code a frame (paper, sections 3.2, 3.6; published `AudioNet` and `AudioAttNet`)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.types import EXACT
from adnerf_jax.models.fields import SharedDense, initialisers

SLOPE = 0.02


class TimeConvolution(nn.Module):
    """Width-3 convolution over time with zero padding (1, 1); flax's 'SAME' pads (0, 1) at stride 2.

    Written as three matrix products, which every backend runs fast for such short sequences. Parameters have the
    shapes of `nn.Conv`: kernel [3, in, out], bias [out].
    """

    features: int
    stride: int = 1
    init_scheme: str = "uniform"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., T, in] to [..., ceil(T / stride), out]."""
        of_kernel, of_bias = initialisers(self.init_scheme, 3 * x.shape[-1])
        kernel = self.param("kernel", of_kernel, (3, x.shape[-1], self.features))
        bias = self.param("bias", of_bias, (self.features,))
        steps = x.shape[-2]
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
        taps = [padded[..., tap : tap + steps : self.stride, :] for tap in range(3)]
        products = jnp.matmul(jnp.concatenate(taps, axis=-1), kernel.reshape(-1, self.features), precision=EXACT)
        return products + expand_leading(bias, products.ndim)


class AudioNet(nn.Module):
    """Encodes a window of 16 speech features as one code."""

    code: int = 64
    widths: tuple[int, ...] = (32, 32, 64, 64)
    init_scheme: str = "uniform"

    @nn.compact
    def __call__(self, windows: Array) -> Array:
        """[..., 16, C] to [..., code]."""
        x = windows
        for layer, width in enumerate(self.widths):
            x = nn.leaky_relu(
                TimeConvolution(width, stride=2, init_scheme=self.init_scheme, name=f"conv{layer}")(x), SLOPE
            )
        x = x.reshape(*x.shape[:-2], -1)
        x = nn.leaky_relu(SharedDense(64, init_scheme=self.init_scheme, name="hidden")(x), SLOPE)
        return SharedDense(self.code, init_scheme=self.init_scheme, name="out")(x)


class AudioAttNet(nn.Module):
    """Smooths codes over 8 neighbouring frames with learned weights."""

    inputs: int = 32
    widths: tuple[int, ...] = (16, 8, 4, 2, 1)
    init_scheme: str = "uniform"

    @nn.compact
    def __call__(self, codes: Array) -> Array:
        """Codes of the frames i−4 … i+3, [..., 8, code], to the weighted sum [..., code] for frame i."""
        x = codes[..., : self.inputs]
        for layer, width in enumerate(self.widths):
            x = nn.leaky_relu(TimeConvolution(width, init_scheme=self.init_scheme, name=f"conv{layer}")(x), SLOPE)
        weights = nn.softmax(SharedDense(codes.shape[-2], init_scheme=self.init_scheme, name="out")(x[..., 0]), axis=-1)
        return jnp.einsum("...w,...wc->...c", weights, codes, precision=EXACT)
