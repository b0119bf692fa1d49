"""Losses that train the density proposal of the `fast` family (mip-NeRF 360, section 3)."""

import jax
import jax.numpy as jnp
from jax import Array

from adnerf_jax.nerf.sampling import overlapping_weight


def excess_opacity(outer: Array, opacity: Array) -> Array:
    """Penalises opacity of the proposal [...] beyond that of the field [...], a constant here, to find empty space.

    `interlevel` only ever raises the proposal's weights: in empty space the density of the initialisation would remain,
    and every ray would count as visible.
    """
    return jnp.mean(jnp.square(jnp.maximum(outer - jax.lax.stop_gradient(opacity), 0.0)))


def interlevel(edges: Array, weights: Array, outer_edges: Array, outer_weights: Array) -> Array:
    """Makes the proposal's weights an upper bound of the field's (mip-NeRF 360, equation 13).

    Args:
      edges, weights: [..., M + 1] and [..., M], of the field: constants for this gradient.
      outer_edges, outer_weights: [..., N + 1] and [..., N], of the proposal.

    Returns:
      scalar, the mean over rays.
    """
    weights = jax.lax.stop_gradient(weights)
    excess = jnp.maximum(weights - overlapping_weight(edges, outer_edges, outer_weights), 0.0)
    return jnp.mean(jnp.sum(jnp.square(excess) / (weights + 1e-7), axis=-1))
