"""Evaluation of functions only where a mask is set, with static shapes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def map_where(mask: Array, function: Callable[[Array], Array], outputs: int, chunk: int) -> Array:
    """Evaluates a function at the places where a mask is set, chunk by chunk; zero elsewhere.

    The set places are packed first, and the number of chunks is decided on the device: shapes are static, nothing
    returns to the host, and the cost follows the number of set places.

    Args:
      mask: bool [P].
      function: int32 [chunk] places to float32 [chunk, outputs]; places past the end are clamped to P − 1.
      outputs: numbers for each place.
      chunk: places for each evaluation.

    Returns:
      float32 [P, outputs].
    """
    places = mask.shape[0]
    padded = -(-places // chunk) * chunk
    packed = jnp.nonzero(mask, size=padded, fill_value=places)[0].astype(jnp.int32)

    def evaluate(i: Array, result: Array) -> Array:
        at = jax.lax.dynamic_slice(packed, (i * chunk,), (chunk,))
        return result.at[at].set(function(jnp.minimum(at, places - 1)), mode="drop")

    chunks = (mask.sum() + chunk - 1) // chunk
    return jax.lax.fori_loop(0, chunks, evaluate, jnp.zeros((places, outputs), jnp.float32))
