"""Broadcasting made explicit: the tests run JAX with `jax_numpy_rank_promotion="raise"`."""

import jax.numpy as jnp
from jax import Array

from adnerf_jax.common.types import ArrayLike


def expand_leading(x: ArrayLike, ndim: int) -> Array:
    """An array with axes of size 1 put before its own, up to `ndim` axes."""
    return jnp.reshape(x, (1,) * (ndim - jnp.ndim(x)) + jnp.shape(x))
