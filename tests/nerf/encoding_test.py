"""Positional encoding against its formula, grids against plain loops."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from adnerf_jax.nerf.encoding import grid_resolutions, interpolate_grid, multiresolution_grid, nearest_cell, positional

pytestmark = pytest.mark.usefixtures("quick_compilation")


def look_up(grid: np.ndarray, x: np.ndarray, resolution: int) -> np.ndarray:
    """Multilinear interpolation at one point [D], corner by corner (Müller et al. 2022, section 3)."""
    size, dimensions = len(grid), len(x)
    scaled = x * resolution
    cell = np.minimum(np.floor(scaled).astype(int), resolution - 1)
    value = np.zeros(grid.shape[1])
    for offset in itertools.product((0, 1), repeat=dimensions):
        weight, index, dense = 1.0, 0, (resolution + 1) ** dimensions <= size
        for d in range(dimensions):
            fraction = scaled[d] - cell[d]
            weight *= fraction if offset[d] else 1 - fraction
            corner = int(cell[d]) + offset[d]
            if dense:
                index += corner * (resolution + 1) ** d
            else:
                index ^= corner * (1, 2654435761, 805459861)[d] % 2**32
        value += weight * grid[index % size]
    return value


class PositionalTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_against_the_formula(self):
        x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
        encoded = self.variant(lambda x: positional(x, 4))(x)
        expected = [x]
        for level in range(4):
            expected += [np.sin(x * 2**level), np.cos(x * 2**level)]
        # Arguments up to 24 are exact (powers of two); sin and cos err by a rounding or two.
        np.testing.assert_allclose(encoded, np.concatenate(expected, axis=-1), atol=5e-7)

    def test_no_levels_leave_the_position(self):
        np.testing.assert_array_equal(positional(jnp.ones((2, 3)), 0), np.ones((2, 3)))


def test_resolutions_grow_geometrically_between_their_ends():
    resolutions = grid_resolutions(10, 12, 384)
    assert (resolutions[0], resolutions[-1], len(resolutions)) == (12, 384, 10)
    ratios = np.divide(resolutions[1:], resolutions[:-1])
    assert ratios.min() > 1.4 and ratios.max() < 1.55  # 32^(1/9) = 1.47, rounded to whole cells
    assert grid_resolutions(1, 7, 99) == (7,)


class GridTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters(
        ("dense_2d", 2, 7, 64),
        ("dense_3d_with_room_to_spare", 3, 3, 100),
        ("hashed_2d", 2, 100, 128),
        ("hashed_3d", 3, 300, 512),
        ("hashed_3d_into_another_size", 3, 40, 1000),
    )
    def test_against_loops(self, dimensions, resolution, size):
        rng = np.random.default_rng(size)
        grid = rng.normal(size=(size, 2)).astype(np.float32)
        x = rng.random((40, dimensions)).astype(np.float32)
        x[:3] = [[0.0], [1.0], [0.5]]
        expected = np.stack([look_up(grid, point.astype(np.float64), resolution) for point in x])
        fast = self.variant(lambda g, x: interpolate_grid(g, x, resolution))(grid, x)
        # A position times the resolution is off by 6e-8 · resolution cells, and values of neighbours differ by up to 6.
        np.testing.assert_allclose(fast, expected, atol=1e-6 * resolution)

    @chex.variants(with_jit=True, without_jit=True)
    def test_many_levels_stand_side_by_side(self):
        rng = np.random.default_rng(1)
        grids = rng.normal(size=(3, 125, 2)).astype(np.float32)
        x = rng.random((2, 5, 3)).astype(np.float32)
        resolutions = (2, 4, 9)
        features = self.variant(lambda g, x: multiresolution_grid(g, x, resolutions))(grids, x)
        assert features.shape == (2, 5, 6)
        for level, resolution in enumerate(resolutions):
            expected = interpolate_grid(grids[level], x, resolution)
            np.testing.assert_allclose(features[..., 2 * level : 2 * level + 2], expected, atol=1e-6)


@pytest.mark.parametrize(("resolution", "size"), [(4, 125), (50, 64)])
def test_a_constant_grid_is_constant_and_gradients_of_a_point_sum_to_one(resolution, size):
    x = np.random.default_rng(2).random((30, 3)).astype(np.float32)
    np.testing.assert_allclose(interpolate_grid(np.full((size, 1), 3.0, np.float32), x, resolution), 3.0, rtol=1e-6)
    gradient = jax.grad(lambda g: interpolate_grid(g, x, resolution).sum())(jnp.zeros((size, 1)))
    np.testing.assert_allclose(gradient.sum(), 30.0, rtol=1e-6)


def test_positions_outside_are_those_of_the_border():
    grid = np.random.default_rng(3).normal(size=(36, 2)).astype(np.float32)
    outside = np.array([(-0.5, 0.3), (1.7, 0.3), (0.2, -9.0), (0.2, 9.0)], np.float32)
    np.testing.assert_array_equal(interpolate_grid(grid, outside, 5), interpolate_grid(grid, outside.clip(0, 1), 5))


def test_vertices_of_a_dense_grid_hold_their_own_entries():
    grid = np.arange(16, dtype=np.float32)[:, None]
    corners = np.array(list(itertools.product(range(4), range(4))), np.float32)
    values = interpolate_grid(grid, corners[:, ::-1] / 3, 3)
    np.testing.assert_allclose(values[:, 0], np.arange(16), atol=1e-5)  # the first coordinate runs fastest


def test_groups_have_grids_of_their_own():
    rng = np.random.default_rng(4)
    grids = rng.normal(size=(3, 50, 2)).astype(np.float32)
    x = rng.random((3, 7, 3)).astype(np.float32)
    cotangent = rng.normal(size=(3, 7, 2)).astype(np.float32)

    def both(grid, x, cotangent):
        values, pull = jax.vjp(lambda g, x: interpolate_grid(g, x, 9), grid, x)
        return values, *pull(cotangent)

    together = both(grids, x, cotangent)
    for g in range(3):
        for one, many in zip(both(grids[g], x[g], cotangent[g]), together, strict=True):
            np.testing.assert_allclose(many[g], one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("resolution", "size"), [(4, 125), (50, 64)])
def test_gradients_against_those_of_plain_indexing(resolution, size):
    rng = np.random.default_rng(5)
    grid = rng.normal(size=(size, 2)).astype(np.float32)
    x = rng.random((30, 3)).astype(np.float32)

    def plain(grid, x):
        low = jnp.floor(x * resolution)
        value = 0.0
        for offset in itertools.product((0, 1), repeat=3):
            weight = jnp.prod(
                jnp.where(jnp.array(offset)[None] == 1, x * resolution - low, 1 - (x * resolution - low)), -1
            )
            corner = (low + jnp.array(offset, jnp.float32)[None]).astype(jnp.uint32)
            dense = corner[:, 0] + corner[:, 1] * (resolution + 1) + corner[:, 2] * (resolution + 1) ** 2
            mixed = corner[:, 0] ^ corner[:, 1] * np.uint32(2654435761) ^ corner[:, 2] * np.uint32(805459861)
            row = dense if (resolution + 1) ** 3 <= size else mixed % size
            value += weight[:, None] * grid[row]
        return jnp.sum(jnp.sin(value))

    ours = jax.grad(lambda g, x: jnp.sum(jnp.sin(interpolate_grid(g, x, resolution))), argnums=(0, 1))(grid, x)
    for mine, theirs in zip(ours, jax.grad(plain, argnums=(0, 1))(grid, x), strict=True):
        # Sums of up to 240 terms of order `resolution`.
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * resolution)


def test_cells_are_constant_and_the_border_belongs_to_the_last():
    cells = np.arange(9, dtype=np.float32)
    x = np.array([(0.0, 0.0), (0.32, 0.34), (1.0, 0.5), (-1.0, 2.0)], np.float32)
    np.testing.assert_array_equal(nearest_cell(cells, x, 3), [0.0, 3.0, 5.0, 6.0])
