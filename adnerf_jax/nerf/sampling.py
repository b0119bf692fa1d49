"""Positions of samples along a ray: even ones, then by importance (paper, section 3.2)."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from adnerf_jax.common.broadcasting import expand_leading

# Terms of a sum that are added in one pass over memory.
_UNROLL = 4


def even_edges(near: Array, far: Array, intervals: int) -> Array:
    """Edges that cut [near, far] into equal intervals.

    Args:
      near, far: [...].
      intervals: N.

    Returns:
      [..., N + 1].
    """
    s = expand_leading(jnp.linspace(0.0, 1.0, intervals + 1), jnp.ndim(near) + 1)
    return near[..., None] * (1.0 - s) + far[..., None] * s


def even_samples(near: Array, far: Array, count: int, key: Array | None) -> Array:
    """Stratified positions from near to far: each is jittered between the midpoints to its neighbours.

    Args:
      near, far: [...].
      count: S.
      key: random key of the jitter; None: even positions. The last position is always far (published `render_rays`).

    Returns:
      [..., S], increasing.
    """
    t = even_edges(near, far, count - 1)
    if key is None:
        return t
    middles = 0.5 * (t[..., 1:] + t[..., :-1])
    lower = jnp.concatenate([t[..., :1], middles], axis=-1)
    upper = jnp.concatenate([middles, t[..., -1:]], axis=-1)
    share = jax.random.uniform(key, t.shape).at[..., -1].set(1.0)
    return lower + (upper - lower) * share


def inverse_cdf_samples(bins: Array, weights: Array, count: int, key: Array | None) -> Array:
    """Positions distributed by weights (paper, section 3.2; published `sample_pdf`).

    Args:
      bins: [..., N + 1], increasing.
      weights: [..., N], non-negative; 1e-5 is added to each.
      count: M.
      key: random key of uniform quantiles; None: even ones, 0 and 1 included.

    Returns:
      [..., M], in the quantiles' order. Constants for the gradient.
    """
    weights = jax.lax.stop_gradient(weights) + 1e-5
    cdf = jnp.cumsum(weights / weights.sum(-1, keepdims=True), axis=-1)
    cdf = jnp.concatenate([jnp.zeros_like(cdf[..., :1]), cdf], axis=-1)
    shape = (*weights.shape[:-1], count)
    u = jnp.broadcast_to(jnp.linspace(0.0, 1.0, count), shape) if key is None else jax.random.uniform(key, shape)
    # A linear search: faster than a binary search for a few dozen bins.
    right = (cdf[..., None, :] <= u[..., :, None]).sum(-1)
    below, above = jnp.maximum(right - 1, 0), jnp.minimum(right, cdf.shape[-1] - 1)

    def at(values: Array, index: Array) -> Array:
        return jnp.take_along_axis(values, index, axis=-1, mode="clip")

    low, step = at(cdf, below), at(cdf, above) - at(cdf, below)
    share = (u - low) / jnp.where(step < 1e-5, 1.0, step)
    start = at(bins, below)
    return jax.lax.stop_gradient(start + share * (at(bins, above) - start))


def resample_edges(edges: Array, weights: Array, intervals: int, key: Array | None, padding: float) -> Array:
    """Edges of new intervals that hold equal shares of the weights (inverse transform sampling).

    Written without a search: for a few dozen intervals, evaluating all of them is several times faster on any device.

    Args:
      edges: [..., N + 1], increasing.
      weights: [..., N], non-negative.
      intervals: M.
      key: shifts all M + 1 quantiles of a ray by one random fraction of a step; None: no shift.
      padding: added to each weight, so that every interval keeps a chance of samples.

    Returns:
      [..., M + 1], non-decreasing, within the given edges. Constants for the gradient.
    """
    share = weights + padding
    share = share / share.sum(-1, keepdims=True)
    cdf = jnp.cumsum(share, axis=-1) - share
    u = (jnp.arange(intervals + 1, dtype=jnp.float32) + 0.5) / (intervals + 1)
    if key is None:
        u = jnp.broadcast_to(u, (*weights.shape[:-1], intervals + 1))
    else:
        shift = jax.random.uniform(key, (*weights.shape[:-1], 1), minval=-0.5, maxval=0.5)
        u = expand_leading(u, shift.ndim) + shift / (intervals + 1)
    # The inverse of the cumulative distribution, as the sum of what each interval adds on the way up to u. Term by term
    # with the rays innermost: on CPUs several times as fast as a sum along a short last axis.
    rays_last = functools.partial(jnp.moveaxis, source=-1, destination=0)
    u, *steps = map(rays_last, (u, cdf, jnp.diff(edges), 1.0 / jnp.maximum(share, 1e-9)))

    def add(travelled: Array, step: list[Array]) -> tuple[Array, None]:
        before, width, inverse = step
        return travelled + width[None] * jnp.clip((u - before[None]) * inverse[None], 0.0, 1.0), None

    travelled, _ = jax.lax.scan(add, jnp.zeros_like(u), steps, unroll=_UNROLL)
    return jax.lax.stop_gradient(edges[..., :1] + jnp.moveaxis(travelled, 0, -1))


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
