"""Batches on the devices before a step asks for them."""

import concurrent.futures
from collections.abc import Iterator

from jax.sharding import Mesh

from adnerf_jax.common.types import Batch
from adnerf_jax.training import sharding
from adnerf_jax.training.batches import RaySampler

# Batches made one after the other: where the step computes on the same cores, the first finds nothing in their caches
# and takes half as long again as the others.
_AT_ONCE = 8


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
        """The batches of the steps from `first` to before `end`; a thread makes some while those before are used."""
        with concurrent.futures.ThreadPoolExecutor(1) as thread:

            def some(start: int) -> concurrent.futures.Future[list[Batch]]:
                steps = range(start, min(start + _AT_ONCE, end))
                return thread.submit(lambda: [self.batch(step) for step in steps])

            upcoming = some(first)
            for start in range(first, end, _AT_ONCE):
                batches = upcoming.result()
                upcoming = some(start + _AT_ONCE)
                yield from batches
