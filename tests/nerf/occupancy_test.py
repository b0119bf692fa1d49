"""Where a volume has density: surveys of known shapes, and rays through their grids by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from adnerf_jax.common.types import Occupancy, Rays
from adnerf_jax.nerf.cameras import pixel_grid, rays_through
from adnerf_jax.nerf.occupancy import crosses, inside, seen_box, survey

pytestmark = pytest.mark.usefixtures("quick_compilation")

BOX = np.array([[-0.5, -0.4, -0.3], [0.5, 0.6, 0.7]], np.float32)
CELLS = 10  # along each axis; 0.1 long


def middles(cells: int, box: np.ndarray) -> np.ndarray:
    """The middles of all cells [cells³, 3], x first."""
    z, y, x = np.meshgrid(*[np.arange(cells)] * 3, indexing="ij")
    return box[0] + (np.stack([x, y, z], axis=-1).reshape(-1, 3) + 0.5) / cells * (box[1] - box[0])


def grown(cells: np.ndarray) -> np.ndarray:
    """Set cells [N³] and their 26 neighbours, by shifting."""
    n = round(len(cells) ** (1 / 3))
    padded = np.pad(cells.reshape(n, n, n), 1)
    shifts = [padded[i : i + n, j : j + n, k : k + n] for i in range(3) for j in range(3) for k in range(3)]
    return np.any(shifts, axis=0).reshape(-1)


def ball(centre, radius: float):
    """Raw densities of two levels: a ball for the first, one with half the radius for the second."""

    def densities(points, code):
        distance = jnp.linalg.norm(points - (jnp.asarray(centre) + code)[None], axis=-1)
        return jnp.stack([jnp.where(distance < r, 20.0, -1.0) for r in (radius, radius / 2)])

    return densities


def test_a_survey_finds_a_ball_and_its_neighbours_and_nothing_else():
    centre, radius = np.float32([0.05, 0.1, 0.2]), 0.4
    found = survey(ball(centre, radius), np.zeros((6, 3), np.float32), BOX, ray_length=0.6, resolution=CELLS)
    assert found.cells.shape == (2, CELLS**3) and found.cells.dtype == bool
    np.testing.assert_array_equal(found.box, BOX)
    distance = np.linalg.norm(middles(CELLS, BOX) - centre, axis=-1)
    half = np.sqrt(3) * 0.05  # from the middle of a cell to its corner
    for cells, r in zip(np.asarray(found.cells), (radius, radius / 2), strict=True):
        whole, touched = distance < r - half, distance < r + half
        assert whole.any()
        # Cells that lie wholly in the ball must be found, cells that it does not touch cannot be.
        assert cells[grown(whole)].all()
        assert not cells[~grown(touched)].any()


def test_cells_are_occupied_under_any_code():
    centre = np.float32([-0.25, -0.15, -0.05])
    codes = np.float32([[0, 0, 0], [0.5, 0.5, 0.5]])
    together = survey(ball(centre, 0.15), codes, BOX, ray_length=0.6, resolution=CELLS)
    alone = [survey(ball(centre, 0.15), one[None], BOX, ray_length=0.6, resolution=CELLS) for one in codes]
    # Random places within the cells differ between the surveys: only cells at the balls' rims may.
    for middle in centre + codes:
        assert inside(together, 0, middle) and sum(bool(inside(one, 0, middle)) for one in alone) == 1
    assert not inside(together, 0, np.float32([0.45, -0.35, 0.65]))


def test_invisibly_low_density_is_not_occupied():
    # Along a whole ray of length 0.6, 0.4/255 in all against 0.6/255: the border is half of 1/255.
    def level(density):
        return lambda points, code: jnp.full((1, len(points)), density)

    for density, seen in ((0.4 / 255 / 0.6, False), (0.6 / 255 / 0.6, True)):
        found = survey(level(density), np.zeros((1, 2), np.float32), BOX, ray_length=0.6, resolution=4)
        assert np.asarray(found.cells).all() == seen and np.asarray(found.cells).any() == seen


def test_the_seen_box_holds_both_ends_of_every_ray():
    camera, scene = tiny.camera(), tiny.scene()
    transforms = np.stack([tiny.pose(0.3, 0.1), tiny.pose(-0.2, 0.2, (0.05, -0.1)), tiny.pose(0.0, 0.0)])
    box = seen_box(transforms.astype(np.float32), camera, scene)
    assert box.shape == (2, 3) and box.dtype == np.float32
    pixels = np.tile(pixel_grid(camera.height, camera.width)[None], (3, 1, 1))
    rays = rays_through(pixels, transforms.astype(np.float32), camera)
    ends = np.stack([np.asarray(rays.origins + t * rays.directions) for t in (scene.near, scene.far)])
    # The box is tight: some ray reaches each side.
    np.testing.assert_allclose(ends.reshape(-1, 3).min(0), box[0], atol=1e-6)
    np.testing.assert_allclose(ends.reshape(-1, 3).max(0), box[1], atol=1e-6)


def random_grid(seed: int, share: float) -> Occupancy:
    cells = np.random.default_rng(seed).random((2, CELLS**3)) < share
    return Occupancy(box=BOX, cells=cells)


@pytest.mark.parametrize("level", [0, 1])
def test_points_are_looked_up_in_their_cell(level):
    occupancy = random_grid(0, 0.4)
    points = np.random.default_rng(1).uniform(BOX[0] - 0.1, BOX[1] + 0.1, (7, 90, 3)).astype(np.float32)
    found = jax.jit(lambda p: inside(occupancy, level, p))(points)
    for place in np.ndindex(7, 90):
        nearest = np.argmin(np.square(middles(CELLS, BOX) - points[place]).sum(-1))  # also outside
        assert found[place] == occupancy.cells[level, nearest]
    assert 0.2 < np.mean(found) < 0.6


def test_rays_cross_what_many_points_on_them_lie_in():
    occupancy = random_grid(2, 0.06)
    rays = tiny.random_rays(1, 200)
    near, far = np.float32(0.4), np.float32(1.3)
    met = np.asarray(jax.jit(lambda r: crosses(occupancy, 1, r, near, far))(rays))
    assert met.shape == (1, 200) and met.dtype == bool

    def looked_at(count):
        t = np.linspace(near, far, count, dtype=np.float32)[:, None, None, None]
        return np.asarray(inside(occupancy, 1, rays.origins + t * rays.directions)).any(0)

    # Two steps for each cell along an axis: no ray is met that crosses no occupied cell, …
    np.testing.assert_array_equal(met, looked_at(2 * CELLS))
    exact = looked_at(2000)
    assert not np.any(met & ~exact)
    # … and only rays that cut a corner are missed, shorter than a step of 0.9/19.
    assert 0.3 < met.mean() < 0.95 and (exact & ~met).mean() < 0.12
    assert not np.any(crosses(Occupancy(BOX, np.zeros((2, 8), bool)), 1, rays, near, far))


def test_rays_are_tested_between_near_and_far_only():
    cells = np.zeros((1, CELLS**3), bool)
    cells[0, 5 + 4 * CELLS + 9 * CELLS**2] = True  # x 0 … 0.1, y 0 … 0.1, z 0.6 … 0.7
    rays = Rays(np.float32([[0.05, 0.05, 1.0]]), np.float32([[0, 0, -1]]))
    occupancy = Occupancy(BOX, cells)
    assert crosses(occupancy, 0, rays, np.float32(0.2), np.float32(0.6))
    assert not crosses(occupancy, 0, rays, np.float32(0.45), np.float32(0.8))
