"""The terms of the loss against values computed by hand."""

import chex
import jax
import numpy as np
import pytest

from adnerf_jax.nerf.proposal_losses import excess_opacity, interlevel

pytestmark = pytest.mark.usefixtures("quick_compilation")

# One ray: two intervals of the field in three of the proposal; the first touches the first two, the second the last.
EDGES = np.array([[0.0, 1.5, 3.0]], np.float32)
OUTER_EDGES = np.array([[0.0, 1.0, 1.5, 3.0]], np.float32)
WEIGHTS = np.array([[0.5, 0.4]], np.float32)


class InterlevelTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_only_what_the_proposal_misses_counts(self):
        outer = np.array([[0.1, 0.2, 0.45]], np.float32)
        # Excess 0.5 − 0.3 in the first interval, none in the second: 0.2² / 0.5.
        np.testing.assert_allclose(self.variant(interlevel)(EDGES, WEIGHTS, OUTER_EDGES, outer), 0.08, rtol=1e-5)

    def test_a_proposal_above_the_field_costs_nothing(self):
        outer = np.array([[0.3, 0.3, 0.4]], np.float32)
        assert interlevel(EDGES, WEIGHTS, OUTER_EDGES, outer) == 0

    def test_the_gradient_raises_the_proposal_and_leaves_the_field(self):
        outer = np.array([[0.1, 0.2, 0.45]], np.float32)
        to_field, to_proposal = jax.grad(interlevel, argnums=(1, 3))(EDGES, WEIGHTS, OUTER_EDGES, outer)
        np.testing.assert_array_equal(to_field, np.zeros((1, 2)))
        assert (np.asarray(to_proposal[0, :2]) < 0).all() and to_proposal[0, 2] == 0

    def test_rays_that_miss_the_head_cost_nothing(self):
        point = np.full((1, 4), 0.6, np.float32)
        value, gradient = jax.value_and_grad(interlevel, argnums=3)(
            point[:, :3], np.zeros((1, 2), np.float32), point, np.zeros((1, 3), np.float32)
        )
        assert value == 0
        np.testing.assert_array_equal(gradient, np.zeros((1, 3)))


def test_opacity_that_only_the_proposal_has_is_penalised():
    outer, opacity = np.array([0.5, 0.2, 0.9], np.float32), np.array([0.1, 0.6, 0.9], np.float32)
    value, (to_proposal, to_field) = jax.value_and_grad(excess_opacity, argnums=(0, 1))(outer, opacity)
    np.testing.assert_allclose(value, 0.4**2 / 3, rtol=1e-6)
    np.testing.assert_allclose(to_proposal, [2 * 0.4 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(to_field, 0)
