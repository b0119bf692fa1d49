"""What training minimises."""

import jax
import jax.numpy as jnp
from jax import Array

from adnerf_jax.sampling import overlapping_weight


def photometric(rgb: Array, target: Array) -> Array:
    """Mean squared error over rays and channels (paper, equation 5): [..., 3] and [..., 3] to a scalar."""
    return jnp.mean(jnp.square(rgb - target))


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


def binary_entropy(opacity: Array) -> Array:
    """Mean entropy of opacities, zero where each is 0 or 1: keeps surfaces from staying half transparent."""
    p = jnp.clip(opacity, 1e-5, 1.0 - 1e-5)
    return -jnp.mean(p * jnp.log(p) + (1.0 - p) * jnp.log1p(-p))
