"""The photometric loss, and PSNR."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.types import ArrayLike

PSNR_CAP = 100.0


def photometric(rgb: Array, target: ArrayLike) -> Array:
    """Mean squared error over rays and channels (paper, equation 5): [..., 3] and [..., 3] to a scalar."""
    return jnp.mean(jnp.square(rgb - target))


def psnr_of(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error over values in [0, 1], capped at 100."""
    if mean_squared_error <= 10 ** (-PSNR_CAP / 10):
        return PSNR_CAP
    return -10.0 * float(np.log10(mean_squared_error))
