"""Batches that are drawn and put on the devices ahead of the steps that use them."""

import concurrent.futures
from collections.abc import Generator

from jax.sharding import Mesh

from adnerf_jax.common.types import Batch
from adnerf_jax.training import sharding
from adnerf_jax.training.batches import RaySampler

# Batches that the thread draws in a row: where the steps run on the same cores, the first of them finds cold caches and
# takes half as long again as the others.
_AT_ONCE = 8


class BatchLoader:
    """Draws the batches of steps and puts them on the devices; each process draws the rays of its own devices.

    Args:
      sampler: draws the rays.
      mesh: the devices.
    """

    def __init__(self, sampler: RaySampler, mesh: Mesh) -> None:
        self._sampler = sampler
        columns = sharding.local_rays(mesh, sampler.rays_per_frame)
        self._columns = None if len(columns) == sampler.rays_per_frame else columns
        self._shardings = sharding.batch_sharding(mesh, sampler.batch(0, self._columns))

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0, on the devices."""
        return sharding.put(self._sampler.batch(step, self._columns), self._shardings)

    def batches(self, first: int, end: int) -> Generator[Batch, None, None]:
        """The batches of the steps from `first` to before `end`; a thread draws the next ones while these are used."""
        with concurrent.futures.ThreadPoolExecutor(1) as thread:

            def draw(start: int) -> concurrent.futures.Future[list[Batch]]:
                steps = range(start, min(start + _AT_ONCE, end))
                return thread.submit(lambda: [self.batch(step) for step in steps])

            upcoming = draw(first)
            for start in range(first, end, _AT_ONCE):
                batches = upcoming.result()
                upcoming = draw(start + _AT_ONCE)
                yield from batches
