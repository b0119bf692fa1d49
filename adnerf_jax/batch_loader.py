"""Batches on the devices before a step asks for them."""

import concurrent.futures
from collections.abc import Iterator

from jax.sharding import Mesh

from adnerf_jax import sharding
from adnerf_jax.batches import RaySampler
from adnerf_jax.types import Batch


class BatchLoader:
    """Draws the rays of steps and puts them on the devices, each process its own part.

    Args:
      sampler: what draws them.
      mesh: the devices.
    """

    def __init__(self, sampler: RaySampler, mesh: Mesh):
        self._sampler = sampler
        columns = sharding.local_rays(mesh, sampler.rays_per_frame)
        self._columns = None if len(columns) == sampler.rays_per_frame else columns  # all: nothing to pick
        self._shardings = sharding.batch_sharding(mesh, sampler.batch(0, self._columns))

    def batch(self, step: int) -> Batch:
        """The rays of a step."""
        return sharding.put(self._sampler.batch(step, self._columns), self._shardings)

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """The batches of the steps from `first` to before `end`, each made on a thread while the one before is used."""
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            upcoming = None
            for step in range(first, end):
                batch = (upcoming or thread.submit(self.batch, step)).result()
                upcoming = thread.submit(self.batch, step + 1) if step + 1 < end else None
                yield batch
