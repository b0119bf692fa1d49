"""Rays of pixels, and head poses as numbers. Head space is y up, z towards the camera; cameras look along −z."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.types import EXACT, ArrayLike, Camera, Rays

# Largest deviation of RᵀR from the identity in a rotation that was read from a file.
_RIGID_TOLERANCE = 1e-3


def pixel_grid(height: int, width: int) -> Array:
    """(row, column) of every pixel, row by row: float32 [height * width, 2]."""
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return jnp.stack([rows, columns], axis=-1).reshape(-1, 2).astype(jnp.float32)


def rays_through(pixels: ArrayLike, transform: ArrayLike, camera: Camera) -> Rays:
    """Rays through pixels, without half-pixel offset, as in the published `get_rays`.

    Args:
      pixels: float32 [..., R, 2], (row, column).
      transform: float32 [..., 4, 4], camera-to-head.
      camera: intrinsics.

    Returns:
      Rays with origins and directions [..., R, 3]; directions have length 1 along the camera's axis.
    """
    row, column = pixels[..., 0], pixels[..., 1]
    local = jnp.stack(
        [(column - camera.cx) / camera.focal, -(row - camera.cy) / camera.focal, -jnp.ones_like(row)], axis=-1
    )
    directions = jnp.einsum("...rj,...ij->...ri", local, transform[..., :3, :3], precision=EXACT)
    origins = jnp.broadcast_to(transform[..., None, :3, 3], directions.shape)
    return Rays(origins=origins, directions=directions)


def euler_angles(transform: ArrayLike, swapped: bool = False) -> Array:
    """[atan2(R12, R22), asin(−R02), atan2(−R01, R00)] in radians, R the rotation of `transform` [..., 4, 4]: [..., 3].

    Args:
      transform: camera-to-head.
      swapped: the arguments of both arctangents the wrong way round, as the published `pose_to_euler_trans` has them.
    """
    r = transform[..., :3, :3]
    around_x = (r[..., 1, 2], r[..., 2, 2])
    around_z = (-r[..., 0, 1], r[..., 0, 0])
    if swapped:
        around_x, around_z = around_x[::-1], around_z[::-1]
    around_y = jnp.arcsin(jnp.clip(-r[..., 0, 2], -1.0, 1.0))
    return jnp.stack([jnp.arctan2(*around_x), around_y, jnp.arctan2(*around_z)], axis=-1)


def placement_vector(transform: ArrayLike) -> Array:
    """A head pose as [..., 6] numbers: the three `euler_angles`, then the head's place in the camera's space.

    The translation of `transform` would add little: it is the camera's place in head space, which turns with the head
    and is almost a function of the angles. Shoulders follow the head's place seen from the camera.
    """
    place = -jnp.einsum("...ji,...j->...i", transform[..., :3, :3], transform[..., :3, 3], precision=EXACT)
    return jnp.concatenate([euler_angles(transform), place], axis=-1)


def clip_to_box(rays: Rays, near: ArrayLike, far: ArrayLike, box: ArrayLike) -> tuple[Array, Array]:
    """The part of each ray that lies in a box and between near and far.

    Args:
      rays: [..., 3].
      near, far: broadcastable to [...].
      box: [2, 3], lower and upper corner.

    Returns:
      (enter, leave), both [...]; leave = enter for rays that miss the box.
    """
    tiny = 1e-9
    directions = jnp.where(jnp.abs(rays.directions) < tiny, tiny, rays.directions)
    sides = (expand_leading(box, rays.origins.ndim + 1) - rays.origins[..., None, :]) / directions[..., None, :]
    enter = jnp.maximum(sides.min(-2).max(-1), near)
    leave = jnp.minimum(sides.max(-2).min(-1), far)
    missed = leave <= enter
    return jnp.where(missed, near, enter), jnp.where(missed, near, leave)


def is_rigid(transforms: np.ndarray) -> np.ndarray:
    """Which of finite matrices [N, 4, 4] are a rotation and a translation: bool [N]."""
    rotations = transforms[:, :3, :3].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of finite numbers that no pose has
        deviation = np.abs(rotations @ rotations.swapaxes(1, 2) - np.eye(3)).max((1, 2))
        proper = (deviation <= _RIGID_TOLERANCE) & (np.linalg.det(rotations) > 0)
    return proper & (transforms[:, 3] == [0, 0, 0, 1]).all(1)
