"""Volume rendering: hand-checkable rays, properties at extreme densities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adnerf_jax.compositing import alpha_weights, composite, over

pytestmark = pytest.mark.usefixtures("quick_compilation")


class WeightsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_against_the_products_of_the_paper(self):
        rng = np.random.default_rng(0)
        density, distances = rng.exponential(3, (5, 8)), rng.uniform(0.01, 0.5, (5, 8))
        weights = self.variant(alpha_weights)(density.astype(np.float32), distances.astype(np.float32))
        alpha = 1 - np.exp(-density * distances)
        expected = np.array([[a[i] * np.prod(1 - a[:i]) for i in range(8)] for a in alpha])
        np.testing.assert_allclose(weights, expected, atol=1e-6)  # a few float32 roundings of numbers up to 1

    @chex.variants(with_jit=True, without_jit=True)
    def test_weights_and_gradients_at_extremes(self):
        # 6e4 is about the largest density that fields give; the published last distance is 1e10.
        scales = np.array([0.0, 1e-30, 1e-6, 1.0, 1e4, 6e4], np.float32)[:, None, None]
        lengths = np.array([0.0, 1e-7, 0.02, 1e10], np.float32)[:, None]
        density = scales * np.random.default_rng(1).random((6, 4, 12)).astype(np.float32)
        distances = np.broadcast_to(lengths, density.shape)
        weights, gradients = self.variant(
            lambda s, d: (alpha_weights(s, d), jax.grad(lambda s: jnp.square(alpha_weights(s, d)).sum())(s))
        )(density, distances)
        chex.assert_tree_all_finite((weights, gradients))
        assert (np.asarray(weights) >= 0).all()
        assert np.asarray(weights).sum(-1).max() <= 1 + 1e-6  # twelve roundings of 6e-8


class CompositeTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_an_opaque_wall_hides_what_is_behind_it(self):
        t = np.linspace(0.6, 1.2, 7, dtype=np.float32)
        density = np.where(np.arange(7) >= 4, 1e6, 0.0).astype(np.float32)
        colours = np.random.default_rng(2).random((7, 3)).astype(np.float32)
        weights = alpha_weights(density, np.full(7, 0.1, np.float32))
        rendered = self.variant(composite)(weights, colours, t, np.ones(3, np.float32))
        np.testing.assert_array_equal(rendered.weights, np.arange(7) == 4)
        np.testing.assert_allclose(rendered.depth, t[4], rtol=1e-6)
        np.testing.assert_allclose(rendered.rgb, colours[4], rtol=1e-6)
        np.testing.assert_allclose(rendered.foreground, colours[4], rtol=1e-6)
        assert rendered.opacity == 1

    @chex.variants(with_jit=True, without_jit=True)
    def test_nothing_shows_the_background(self):
        background = np.array([[0.1, 0.5, 0.9]], np.float32)
        rendered = self.variant(composite)(np.zeros((1, 5)), np.ones((1, 5, 3)), np.ones((1, 5)), background)
        np.testing.assert_array_equal(rendered.rgb, background)
        np.testing.assert_array_equal(rendered.foreground, np.zeros((1, 3)))
        assert rendered.opacity == rendered.depth == 0

    def test_a_half_transparent_pane(self):
        weights = alpha_weights(np.array([np.log(2.0)], np.float32), np.ones(1, np.float32))
        rendered = composite(weights, np.array([[1.0, 0, 0]]), np.array([0.8]), np.array([0, 0, 1.0]))
        np.testing.assert_allclose(rendered.rgb, [0.5, 0, 0.5], rtol=1e-6)
        np.testing.assert_allclose(rendered.depth, 0.4, rtol=1e-6)

    def test_over_is_the_last_step_of_composite(self):
        rng = np.random.default_rng(3)
        weights = alpha_weights(rng.exponential(size=(6, 4)), rng.random((6, 4)))
        background = rng.random((6, 3))
        rendered = composite(weights, rng.random((6, 4, 3)), rng.random((6, 4)), background)
        np.testing.assert_allclose(over(rendered.foreground, rendered.opacity, background), rendered.rgb, rtol=1e-6)
