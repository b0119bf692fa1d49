"""Broadcasting made explicit: the tests run JAX with `jax_numpy_rank_promotion="raise"`."""

import jax.numpy as jnp
from jax import Array


def expand_leading(x: Array, ndim: int) -> Array:
    """An array with axes of size 1 put before its own, up to `ndim` axes."""
    return jnp.reshape(x, (1,) * (ndim - jnp.ndim(x)) + jnp.shape(x))
