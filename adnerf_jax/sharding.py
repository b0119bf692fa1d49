"""The only file that builds a mesh or a sharding: state on every device, the rays of a step split among them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from adnerf_jax.errors import UserError
from adnerf_jax.types import Batch

_AXIS = "rays"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis over all devices of all processes (or the given ones)."""
    devices = jax.devices() if devices is None else devices
    # Explicit axes, the default, make gathers and their gradients fail.
    return jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, batch: Batch) -> Batch:
    """Arrays of rays split along their axis of rays, arrays of frames whole: a tree of shardings like `batch`."""
    rays = NamedSharding(mesh, PartitionSpec(None, _AXIS))
    whole = replicated(mesh)
    return Batch(
        pixels=rays,
        target=rays,
        background=rays,
        transforms=whole,
        conditions=jax.tree.map(lambda _: whole, batch.conditions),
    )


def check_divides(rays_per_frame: int, mesh: Mesh) -> None:
    """Raises UserError where the rays of a frame cannot be split evenly."""
    if rays_per_frame % mesh.size:
        raise UserError(
            f"{rays_per_frame} rays a frame cannot be split over {mesh.size} devices: choose config.train.rays so that "
            f"rays / frames_per_step is a multiple of {mesh.size}"
        )


def put(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process, to arrays on the devices; each process fills only its own part."""
    return jax.tree.map(
        lambda a, s: jax.make_array_from_callback(np.shape(a), s, lambda index: np.asarray(a)[index]), tree, shardings
    )
