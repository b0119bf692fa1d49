"""Intervals along rays against NumPy's search and interpolation, and against loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adnerf_jax.nerf.sampling import even_edges, even_samples, inverse_cdf_samples, overlapping_weight, resample_edges

pytestmark = pytest.mark.usefixtures("quick_compilation")

RAYS, COARSE, FINE = 20, 16, 9


def intervals(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random edges between 0.6 and 1.2, and weights, a third of them zero."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(0.6, 1.2, (RAYS, count + 1)), axis=-1)
    weights = rng.random((RAYS, count)) ** 4 * (rng.random((RAYS, count)) > 0.3)
    return edges.astype(np.float32), weights.astype(np.float32)


def cdf_of(weights: np.ndarray, padding: float) -> np.ndarray:
    share = weights.astype(np.float64) + padding
    return np.concatenate([np.zeros((len(share), 1)), np.cumsum(share / share.sum(-1, keepdims=True), -1)], axis=-1)


def test_even_edges():
    edges = even_edges(np.array([0.5, 1.0], np.float32), np.array([1.5, 1.0], np.float32), 4)
    np.testing.assert_allclose(edges, [[0.5, 0.75, 1.0, 1.25, 1.5], [1.0] * 5], rtol=1e-6)


class EvenSamplesTest(chex.TestCase):
    NEAR, FAR = np.full(500, 0.5, np.float32), np.full(500, 1.3, np.float32)

    @chex.variants(with_jit=True, without_jit=True)
    def test_without_a_key_they_are_even(self):
        t = self.variant(lambda n, f: even_samples(n, f, COARSE, None))(self.NEAR, self.FAR)
        np.testing.assert_allclose(t[0], np.linspace(0.5, 1.3, COARSE), atol=2e-7)  # roundings of numbers near 1

    @chex.variants(with_jit=True, without_jit=True)
    def test_each_stays_within_its_half_way_points_and_the_last_is_far(self):
        t = np.asarray(
            self.variant(lambda n, f, k: even_samples(n, f, COARSE, k))(self.NEAR, self.FAR, jax.random.key(0))
        )
        even = np.linspace(0.5, 1.3, COARSE)
        middles = (even[1:] + even[:-1]) / 2
        lower, upper = np.append(even[0], middles), np.append(middles, even[-1])
        assert (np.diff(t) >= 0).all()
        assert (t >= lower - 2e-7).all() and (t <= upper + 2e-7).all()
        np.testing.assert_array_equal(t[:, -1], np.float32(1.3))
        # Uniform in between: 500 draws have a mean within 4 · 0.289 / √500 = 0.052 of the middle, and reach the ends.
        share = ((t - lower) / (upper - lower))[:, :-1]
        np.testing.assert_allclose(share.mean(0), 0.5, atol=0.052)
        assert (share.min(0) < 0.02).all() and (share.max(0) > 0.98).all()


class InverseCdfTest(chex.TestCase):
    BINS = np.array([0.6, 0.7, 0.8, 1.0, 1.2], np.float32)
    WEIGHTS = np.array([0.5, 0.0, 2.0, 1.5], np.float32)

    @chex.variants(with_jit=True, without_jit=True)
    def test_draws_fall_into_the_bins_in_proportion_to_their_weights(self):
        draws = 20_000
        t = self.variant(lambda k: inverse_cdf_samples(self.BINS, self.WEIGHTS, draws, k))(jax.random.key(0))
        counts, _ = np.histogram(t, self.BINS)
        assert counts.sum() == draws
        share = (self.WEIGHTS + 1e-5) / (self.WEIGHTS + 1e-5).sum()
        # Five standard deviations of a binomial share.
        np.testing.assert_allclose(counts / draws, share, atol=5 * 0.5 / np.sqrt(draws))
        assert counts[1] <= 3  # 0.05 expected
        # Uniform within a bin.
        inside = np.asarray(t)[(t > 0.8) & (t < 1.0)]
        quartiles, _ = np.histogram(inside, np.linspace(0.8, 1.0, 5))
        np.testing.assert_allclose(quartiles / len(inside), 0.25, atol=5 * 0.44 / np.sqrt(len(inside)))

    @chex.variants(with_jit=True, without_jit=True)
    def test_without_a_key_even_quantiles_against_numpy(self):
        bins, weights = intervals(5, COARSE)
        t = self.variant(lambda b, w: inverse_cdf_samples(b, w, FINE, None))(bins, weights)
        assert (np.diff(t) >= 0).all()
        u = np.linspace(0, 1, FINE)
        for found, b, c in zip(t, bins, cdf_of(weights, 1e-5), strict=True):
            # Without the steps below 1e-5, which count as steps of 1 in the published code, it is the interpolation.
            steep = np.diff(c)[np.clip(np.searchsorted(c, u, "right") - 1, 0, COARSE - 1)] > 1e-4
            expected = np.interp(u, c, b)
            # Roundings of the sums, 1e-7, over a step of at least 1e-4, times a bin of at most 0.2.
            np.testing.assert_allclose(found[1:-1][steep[1:-1]], expected[1:-1][steep[1:-1]], atol=3e-4)

    def test_positions_are_constants_for_the_gradient(self):
        gradient = jax.grad(lambda w: inverse_cdf_samples(self.BINS, w, FINE, jax.random.key(1)).sum())(self.WEIGHTS)
        np.testing.assert_array_equal(gradient, 0.0)

    def test_no_weight_at_all_spreads_evenly(self):
        t = inverse_cdf_samples(jnp.linspace(0.0, 1.0, 5), jnp.zeros(4), FINE, None)
        np.testing.assert_allclose(t, np.linspace(0, 1, FINE), atol=1e-6)


class ResampleTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_without_a_key_against_numpy(self):
        edges, weights = intervals(0, COARSE)
        padding = 0.02
        new = self.variant(lambda e, w: resample_edges(e, w, FINE, None, padding))(edges, weights)
        u = (np.arange(FINE + 1) + 0.5) / (FINE + 1)
        expected = [np.interp(u, c, e) for c, e in zip(cdf_of(weights, padding), edges, strict=True)]
        # The CDF's roundings, 1e-7, over the least step of the CDF, about 0.02 / 3, times an interval of up to 0.2.
        np.testing.assert_allclose(new, expected, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_with_a_key_all_quantiles_of_a_ray_shift_together(self):
        edges, weights = intervals(1, COARSE)
        padding = 0.02
        new = np.asarray(
            self.variant(lambda e, w, k: resample_edges(e, w, FINE, k, padding))(edges, weights, jax.random.key(0))
        )
        assert (np.diff(new) >= 0).all()
        assert (new >= edges[:, :1]).all() and (new <= edges[:, -1:]).all()
        u = np.stack([np.interp(n, e, c) for n, e, c in zip(new, edges, cdf_of(weights, padding), strict=True)])
        # Back through the CDF, roundings of positions (6e-8) are multiplied by its steepest slope.
        np.testing.assert_allclose(np.diff(u), 1 / (FINE + 1), atol=1e-3)
        shifts = (u[:, 0] - 0.5 / (FINE + 1)) * (FINE + 1)
        assert -0.5 <= shifts.min() < -0.2 and 0.2 < shifts.max() <= 0.5

    def test_no_weight_at_all_spreads_evenly(self):
        edges = even_edges(jnp.zeros(1), jnp.ones(1), COARSE)
        new = resample_edges(edges, jnp.zeros((1, COARSE)), FINE, None, padding=0.01)
        np.testing.assert_allclose(new[0], (np.arange(FINE + 1) + 0.5) / (FINE + 1), atol=1e-6)

    def test_without_padding_empty_intervals_get_no_sample(self):
        weights = np.zeros((1, COARSE), np.float32)
        weights[0, [3, 9]] = 0.3, 0.7
        edges = even_edges(jnp.zeros(1), jnp.ones(1), COARSE)
        new = np.asarray(resample_edges(edges, weights, FINE, None, padding=0.0))[0] * COARSE
        inside = ((new >= 3) & (new <= 4)) | ((new >= 9) & (new <= 10))
        assert inside.all() and (new < 5).sum() == round(0.3 * (FINE + 1))

    def test_positions_are_constants_for_the_gradient(self):
        edges, weights = intervals(2, COARSE)
        gradient = jax.grad(lambda w: resample_edges(edges, w, FINE, None, 0.01).sum())(weights)
        np.testing.assert_array_equal(gradient, 0.0)

    def test_rays_without_length_stay_finite(self):
        new = resample_edges(jnp.full((1, COARSE + 1), 0.6), jnp.zeros((1, COARSE)), FINE, jax.random.key(0), 0.01)
        np.testing.assert_allclose(new, 0.6, rtol=1e-6)


class OverlappingWeightTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_against_loops(self):
        edges, _ = intervals(3, FINE)
        outer_edges, outer_weights = intervals(4, COARSE)
        fast = self.variant(overlapping_weight)(edges, outer_edges, outer_weights)
        for ray in range(RAYS):
            for m in range(FINE):
                low, high = edges[ray, m : m + 2]
                expected = sum(
                    outer_weights[ray, n]
                    for n in range(COARSE)
                    if outer_edges[ray, n] < high and outer_edges[ray, n + 1] > low
                )
                np.testing.assert_allclose(fast[ray, m], expected, atol=1e-6)  # sums of at most 16 weights below 1

    def test_neighbours_that_only_touch_do_not_count(self):
        edges, outer = np.array([1.0, 2.0], np.float32), np.array([0.0, 1.0, 2.0, 3.0], np.float32)
        np.testing.assert_array_equal(overlapping_weight(edges, outer, np.array([1.0, 2.0, 4.0], np.float32)), [2.0])
