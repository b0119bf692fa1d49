"""Occupancy grids: where a trained volume has density. Samples and rays elsewhere need not be computed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.types import ArrayLike, Camera, Occupancy, Rays, Scene
from adnerf_jax.nerf.cameras import rays_through
from adnerf_jax.nerf.encoding import nearest_cell

# Optical depth of a whole ray below which its colour changes by less than half of 1/255.
_UNSEEN_DEPTH = 0.5 / 255.0
_CELLS_AT_ONCE = 4096
# Steps at which a ray is tested against the grid, for each cell along an axis.
_STEPS_PER_CELL = 2


def seen_box(transforms: np.ndarray, camera: Camera, scene: Scene) -> np.ndarray:
    """The box around everything that lies between near and far in the pictures of some poses.

    Args:
      transforms: [N, 4, 4], camera-to-head.
      camera: intrinsics and size.
      scene: its near and far.

    Returns:
      float32 [2, 3], corners.
    """
    corners = [(row, column) for row in (0, camera.height - 1) for column in (0, camera.width - 1)]
    rays = rays_through(np.tile(np.array(corners, np.float32), (len(transforms), 1, 1)), transforms, camera)
    ends = [np.asarray(rays.origins + t * rays.directions).reshape(-1, 3) for t in (scene.near, scene.far)]
    points = np.concatenate(ends)
    return np.stack([points.min(0), points.max(0)]).astype(np.float32)


def survey(
    densities: Callable[[ArrayLike, ArrayLike], Array],
    codes: ArrayLike,
    box: ArrayLike,
    ray_length: float,
    resolution: int,
) -> Occupancy:
    """Evaluates the density in every cell at a random point for each of some codes.

    Args:
      densities: points [N, 3] and a code [D] to raw densities [L, N] of L levels; a pure function.
      codes: [K, D].
      box: [2, 3].
      ray_length: length of a ray between near and far, in the box's units.
      resolution: cells along each axis.

    Returns:
      the cells with a visible density under any of the codes, and their neighbours.
    """
    chunks = -(-(resolution**3) // _CELLS_AT_ONCE)
    numbers = jnp.arange(chunks * _CELLS_AT_ONCE) % resolution**3
    corners = jnp.stack([numbers % resolution, numbers // resolution % resolution, numbers // resolution**2], -1)
    corners = corners.astype(jnp.float32)

    low, high = box[:1], box[1:]

    @jax.jit
    def densest(corners: Array, key: Array) -> Array:
        def evaluate(code: ArrayLike, key: Array) -> Array:
            within = jax.random.uniform(key, corners.shape)
            return densities(low + (corners + within) / resolution * (high - low), code)

        def deeper(most: Array, code_and_key) -> tuple[Array, None]:
            return jnp.maximum(most, evaluate(*code_and_key)), None

        first = evaluate(codes[0], key)
        return jax.lax.scan(deeper, first, (codes, jax.random.split(key, len(codes))))[0]

    keys = jax.random.split(jax.random.key(0), chunks)
    found = [
        np.asarray(densest(corners[i * _CELLS_AT_ONCE : (i + 1) * _CELLS_AT_ONCE], keys[i])) for i in range(chunks)
    ]
    most = np.concatenate(found, axis=1)[:, : resolution**3]
    occupied = jnp.asarray(most > _UNSEEN_DEPTH / ray_length).reshape(-1, *[resolution] * 3)
    grown = jax.lax.reduce_window(occupied, False, jnp.logical_or, (1, 3, 3, 3), (1, 1, 1, 1), "SAME")
    return Occupancy(box=jnp.asarray(box), cells=grown.reshape(len(most), -1))


def inside(occupancy: Occupancy, level: int, points: Array) -> Array:
    """Whether points [..., 3] lie in occupied cells of a level: bool [...]."""
    cells = occupancy.cells[level]
    low, high = (expand_leading(corner, points.ndim) for corner in occupancy.box)
    place = (points - low) / (high - low)
    return nearest_cell(cells, place, round(cells.shape[0] ** (1 / 3)))


def crosses(occupancy: Occupancy, level: int, rays: Rays, near: ArrayLike, far: ArrayLike) -> Array:
    """Whether rays [..., 3] meet an occupied cell of a level between near and far: bool [...]."""
    steps = _STEPS_PER_CELL * round(occupancy.cells.shape[1] ** (1 / 3))
    t = near + (far - near) * jnp.linspace(0.0, 1.0, steps)

    def at(distance: ArrayLike) -> Array:
        return inside(occupancy, level, rays.origins + distance * rays.directions)

    return jax.lax.fori_loop(0, steps, lambda i, met: met | at(t[i]), jnp.zeros(rays.directions.shape[:-1], bool))
