"""Volume rendering: hand-checkable rays, properties at extreme densities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adnerf_jax.nerf.compositing import (
    alpha_weights,
    composite,
    composite_layers,
    composite_samples,
    leaky_density,
    over,
)

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


class BothTest(chex.TestCase):
    """Two layers as one; half red in front of half green."""

    RED, GREEN = np.array([[0.5, 0, 0]], np.float32), np.array([[0, 0.5, 0]], np.float32)

    @chex.variants(with_jit=True, without_jit=True)
    def test_independent_layers_let_a_quarter_through(self):
        both_independent = self.variant(lambda *layers: composite_layers(*layers, abutting=False))
        colour, opacity = both_independent(self.RED, np.array([0.5]), self.GREEN, np.array([0.5]))
        np.testing.assert_allclose(colour, [[0.5, 0.25, 0]])
        np.testing.assert_allclose(opacity, [0.75])

    @chex.variants(with_jit=True, without_jit=True)
    def test_abutting_layers_cover_the_pixel_that_they_share(self):
        both_abutting = self.variant(lambda *layers: composite_layers(*layers, abutting=True))
        colour, opacity = both_abutting(self.RED, np.array([0.5]), self.GREEN, np.array([0.5]))
        np.testing.assert_allclose(colour, [[0.5, 0.5, 0]])
        np.testing.assert_allclose(opacity, [1.0])
        colour, opacity = both_abutting(self.RED, np.array([0.5]), 0.5 * self.GREEN, np.array([0.25]))
        np.testing.assert_allclose(colour, [[0.5, 0.25, 0]])
        np.testing.assert_allclose(opacity, [0.75])

    def test_where_one_layer_is_opaque_or_absent_both_ways_agree(self):
        rng = np.random.default_rng(5)
        opacity = rng.random(8).astype(np.float32)
        colour = opacity[:, None] * rng.random((8, 3), dtype=np.float32)
        for other in (0.0, 1.0):
            flat = np.full(8, other, np.float32)
            layer = (flat[:, None] * rng.random((8, 3), dtype=np.float32), flat)
            for layers in ((colour, opacity, *layer), (*layer, colour, opacity)):
                for one, two in zip(
                    composite_layers(*layers, abutting=True), composite_layers(*layers, abutting=False), strict=True
                ):
                    np.testing.assert_allclose(one, two, atol=1e-6)

    def test_gradients_are_finite_without_opacity(self):
        nothing, clear = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
        for gradient in jax.grad(
            lambda *layers: composite_layers(*layers, abutting=True)[0].sum(), argnums=(0, 1, 2, 3)
        )(nothing, clear, nothing, clear):
            assert np.isfinite(gradient).all()


class CompositeSamplesTest(chex.TestCase):
    """Against the sums of the published code (`golden_test.py` has its numbers)."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_closing_sample_is_the_background(self):
        rng = np.random.default_rng(4)
        raw, colours = rng.normal(0, 8, (5, 9)), rng.random((5, 9, 3))
        t, length = np.sort(rng.uniform(0.5, 1.5, (5, 10))), rng.uniform(1, 2, (5, 1))
        background = rng.random((5, 3))
        rays = self.variant(composite_samples)(*(a.astype(np.float32) for a in (raw, colours, t, length, background)))
        distance = np.append(np.diff(t), np.full((5, 1), 1e10), axis=-1) * length
        density = np.append(np.maximum(raw, 0), np.zeros((5, 1)), axis=-1) + 1e-6
        alpha = 1 - np.exp(-density * distance)
        weights = np.stack([alpha[:, i] * np.prod(1 - alpha[:, :i], axis=-1) for i in range(10)], axis=-1)
        every = np.concatenate([colours, background[:, None]], axis=1)
        np.testing.assert_allclose(rays.rgb, (weights[..., None] * every).sum(1), atol=2e-6)  # ten float32 terms
        np.testing.assert_allclose(1 - rays.opacity, weights[:, -1], atol=2e-6)
        np.testing.assert_allclose(rays.depth, (weights[:, :-1] * t[:, :-1]).sum(-1), atol=2e-6)


class LeakyDensityTest(chex.TestCase):
    RAW = np.array([-5.0, -1e-3, 1e-3, 5.0], np.float32)

    @chex.variants(with_jit=True, without_jit=True)
    def test_leaky_density_is_a_relu_in_the_forward_pass(self):
        for density_leak in (0.0, 1.0):
            value = self.variant(leaky_density)(self.RAW, jnp.float32(density_leak))
            np.testing.assert_array_equal(value, [0, 0, np.float32(1e-3), 5])

    @chex.variants(with_jit=True, without_jit=True)
    def test_below_zero_only_gradients_that_raise_density_pass_and_only_during_warm_up(self):
        @self.variant
        def slope(wish, density_leak):
            return jax.grad(lambda raw: (wish * leaky_density(raw, density_leak)).sum())(self.RAW)

        for wish in (-2.0, 2.0):  # of the loss: a gradient below zero asks for more
            np.testing.assert_array_equal(slope(wish, jnp.float32(0)), [0, 0, wish, wish])
            below = min(wish, 0.0)
            np.testing.assert_array_equal(slope(wish, jnp.float32(1)), [below, below, wish, wish])
