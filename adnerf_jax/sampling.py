"""Where along a ray to look: even intervals, then intervals where weights say something is (paper, section 3.2)."""

import jax
import jax.numpy as jnp
from jax import Array


def even_edges(near: Array, far: Array, intervals: int) -> Array:
    """Edges that cut [near, far] into equal intervals.

    Args:
      near, far: [...].
      intervals: N.

    Returns:
      [..., N + 1].
    """
    s = jnp.linspace(0.0, 1.0, intervals + 1)
    return near[..., None] * (1.0 - s) + far[..., None] * s


def resample_edges(edges: Array, weights: Array, intervals: int, key: Array | None, padding: float) -> Array:
    """Edges of new intervals that hold equal shares of the weights (inverse transform sampling).

    Written without a search: for a few dozen intervals, looking at all of them is several times faster on any device.

    Args:
      edges: [..., N + 1], increasing.
      weights: [..., N], non-negative.
      intervals: M.
      key: shifts all M + 1 quantiles of a ray by one random fraction of a step; None: no shift.
      padding: added to each weight, so that nothing is ever quite unseen.

    Returns:
      [..., M + 1], non-decreasing, within the given edges. Constants for the gradient.
    """
    share = weights + padding
    share = share / share.sum(-1, keepdims=True)
    cdf = jnp.cumsum(share, axis=-1) - share
    u = (jnp.arange(intervals + 1) + 0.5) / (intervals + 1)
    if key is None:
        u = jnp.broadcast_to(u, (*weights.shape[:-1], intervals + 1))
    else:
        shift = jax.random.uniform(key, (*weights.shape[:-1], 1), minval=-0.5, maxval=0.5)
        u = u + shift / (intervals + 1)
    # The inverse of the cumulative distribution, as the sum of what each interval adds on the way up to u.
    passed = jnp.clip((u[..., :, None] - cdf[..., None, :]) / jnp.maximum(share, 1e-9)[..., None, :], 0.0, 1.0)
    travelled = (passed * jnp.diff(edges)[..., None, :]).sum(-1)
    return jax.lax.stop_gradient(edges[..., :1] + travelled)


def overlapping_weight(edges: Array, outer_edges: Array, outer_weights: Array) -> Array:
    """For each interval, the total weight of the outer intervals that it touches (mip-NeRF 360, equation 12).

    Args:
      edges: [..., M + 1].
      outer_edges: [..., N + 1].
      outer_weights: [..., N].

    Returns:
      [..., M].
    """
    starts_before = outer_edges[..., None, :-1] < edges[..., 1:, None]
    ends_after = outer_edges[..., None, 1:] > edges[..., :-1, None]
    return jnp.where(starts_before & ends_after, outer_weights[..., None, :], 0.0).sum(-1)
