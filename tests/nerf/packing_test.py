"""Work where a mask is set, against direct evaluation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from adnerf_jax.nerf.packing import map_where

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLACES = 37


def _masks() -> dict[str, np.ndarray]:
    one = np.zeros(PLACES, bool)
    one[-1] = True
    random = np.random.default_rng(0).random(PLACES) < 0.4
    return {"none": ~np.ones(PLACES, bool), "all": np.ones(PLACES, bool), "last": one, "some": random}


class MapWhereTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(mask=list(_masks()), chunk=[1, 5, PLACES, 64])
    def test_against_direct_evaluation(self, mask, chunk):
        table = np.random.default_rng(1).normal(size=(PLACES, 3)).astype(np.float32) + 5.0
        set_places = _masks()[mask]

        def function(places):
            chex.assert_shape(places, (chunk,))
            return jnp.asarray(table)[places]

        mapped = self.variant(lambda m: map_where(m, function, 3, chunk))(set_places)
        np.testing.assert_array_equal(mapped, np.where(set_places[:, None], table, 0.0))

    def test_cost_follows_the_set_places(self):
        calls = []

        def function(places):
            jax.debug.callback(lambda: calls.append(1))
            return jnp.zeros((5, 1))

        compiled = jax.jit(lambda m: map_where(m, function, 1, 5))
        for mask, chunks in (("none", 0), ("all", 8), ("last", 1)):
            calls.clear()
            jax.block_until_ready(compiled(_masks()[mask]))
            jax.effects_barrier()
            assert len(calls) == chunks
