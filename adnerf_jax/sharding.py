"""The only file that builds a mesh or a sharding: state on every device, the rays of a step split among them."""

from typing import Any

import jax
import jax.numpy as jnp
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


def split_rays(batch: Batch, parts: int) -> Batch:
    """A batch in parts along a new leading axis; each part takes every `parts`-th ray, so that no device is left out.

    Frames and conditions are repeated.
    """

    def rays(a: jax.Array) -> jax.Array:
        frames, count, *rest = a.shape
        return jnp.moveaxis(a.reshape(frames, count // parts, parts, *rest), 2, 0)

    def whole(a: jax.Array) -> jax.Array:
        return jnp.broadcast_to(a, (parts, *a.shape))

    return Batch(
        pixels=rays(batch.pixels),
        target=rays(batch.target),
        background=rays(batch.background),
        transforms=whole(batch.transforms),
        conditions=jax.tree.map(whole, batch.conditions),
    )


def check_divides(rays_per_frame: int, micro_batches: int, mesh: Mesh) -> None:
    """Raises UserError where the rays of a frame cannot be split evenly."""
    if rays_per_frame % (mesh.size * micro_batches):
        raise UserError(
            f"{rays_per_frame} rays a frame cannot be split over {mesh.size} device(s) in {micro_batches} "
            f"micro-batch(es): choose config.train.rays and config.train.micro_batches so that rays / frames_per_step "
            f"is a multiple of {mesh.size * micro_batches}"
        )


def put(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process, to arrays on the devices; each process fills only its own part."""
    return jax.tree.map(
        lambda a, s: jax.make_array_from_callback(np.shape(a), s, lambda index: np.asarray(a)[index]), tree, shardings
    )
