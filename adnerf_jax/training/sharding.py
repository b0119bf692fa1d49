"""Meshes and shardings: the state is on every device, the rays of a step are split. No other file builds them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from adnerf_jax.common import processes
from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.types import ArrayLike, Batch

_AXIS = "rays"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over all devices of all processes of this run, or over the given devices.

    Raises:
      UserError: JAX lists devices of hosts that were not joined.
    """
    if devices is None:
        processes.check_joined()
        devices = jax.devices()
    # With explicit axes, the default, gathers and their gradients fail.
    return jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding with a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, batch: Batch) -> Batch:
    """A tree like `batch` of shardings: arrays of rays are split along their axis of rays, those of frames are not."""
    rays = NamedSharding(mesh, PartitionSpec(None, _AXIS))
    whole = replicated(mesh)
    shardings: dict[str, Any] = dict(  # Any: a Batch whose arrays are shardings
        pixels=rays,
        target=rays,
        background=rays,
        transforms=whole,
        conditions=jax.tree.map(lambda _: whole, batch.conditions),
    )
    return Batch(**shardings)


def abstract(tree: Any, sharding: Sharding) -> Any:
    """A tree of `jax.ShapeDtypeStruct` with a sharding, from one of arrays or of their shapes."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=sharding), tree)


def split_rays(batch: Batch, parts: int) -> Batch:
    """A batch as micro-batches along a new leading axis.

    Each takes every `parts`-th ray, so that each device has rays in all of them. Frames and conditions are repeated.
    """

    def rays(a: ArrayLike) -> jax.Array:
        frames, count, *rest = a.shape
        return jnp.moveaxis(a.reshape(frames, count // parts, parts, *rest), 2, 0)

    def whole(a: ArrayLike) -> jax.Array:
        return jnp.broadcast_to(a, (parts, *a.shape))

    return Batch(
        pixels=rays(batch.pixels),
        target=rays(batch.target),
        background=rays(batch.background),
        transforms=whole(batch.transforms),
        conditions=jax.tree.map(whole, batch.conditions),
    )


def check_divides(rays: int, frames: int, micro_batches: int, mesh: Mesh) -> None:
    """Raises UserError where the rays of a frame cannot be split evenly; it names the nearest number that can be."""
    per_frame, unit = rays // frames, mesh.size * micro_batches
    if per_frame % unit:
        nearest = max(round(per_frame / unit), 1) * unit * frames
        raise UserError(
            f"{per_frame} rays a frame ({rays} of {frames} frame(s)) cannot be split over {mesh.size} device(s) in "
            f"{micro_batches} micro-batch(es): use ",
            Option("train.rays", nearest),
            f", or another config.train.micro_batches; rays / frames_per_step must be a multiple of {unit}",
        )


def local_rays(mesh: Mesh, count: int) -> np.ndarray:
    """Indices of the rays of a frame, of `count`, that this process's devices compute: all where it is alone."""
    sharding = NamedSharding(mesh, PartitionSpec(_AXIS))
    parts = sharding.addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([np.arange(count)[part] for part in parts]))


def put(batch: Batch, shardings: Batch) -> Batch:
    """Puts a batch in the host's memory on the devices.

    Args:
      batch: batch with the rays of this process alone (`local_rays`); conditions are the same in every process.
      shardings: shardings of the whole batch (`batch_sharding`).
    """
    return jax.make_array_from_process_local_data(shardings, batch)
