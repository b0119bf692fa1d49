"""Rays, head poses as numbers, and boxes."""

import chex
import numpy as np
import pytest
import tiny
from scipy.spatial.transform import Rotation

from adnerf_jax.common.types import Camera, Rays
from adnerf_jax.nerf.cameras import clip_to_box, euler_angles, is_rigid, pixel_grid, placement_vector, rays_through

pytestmark = pytest.mark.usefixtures("quick_compilation")

# One float32 rounding is 6e-8 relative; a ray takes about ten operations on numbers of order 1.
TOLERANCE = 2e-6


def test_pixels_come_row_by_row():
    np.testing.assert_array_equal(pixel_grid(2, 3), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)])


class RaysTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_the_principal_point_looks_along_the_axis(self):
        transform = tiny.pose(0.3, -0.2, (0.1, 0.2)).astype(np.float32)
        camera = Camera(80.0, 15.0, 11.0, height=24, width=32)
        rays = self.variant(rays_through)(np.array([[11.0, 15.0]], np.float32), transform, camera)
        np.testing.assert_allclose(rays.directions[0], -transform[:3, 2], atol=TOLERANCE)
        np.testing.assert_allclose(rays.origins[0], transform[:3, 3], atol=TOLERANCE)

    @chex.variants(with_jit=True, without_jit=True)
    def test_points_on_rays_project_onto_their_pixels(self):
        rng = np.random.default_rng(0)
        transforms = np.stack([tiny.pose(*rng.normal(size=2) * 0.3) for _ in range(3)])
        pixels = rng.uniform(0, 30, (3, 5, 2))
        camera = Camera(80.0, 15.0, 11.0, height=24, width=32)
        rays = self.variant(rays_through)(pixels.astype(np.float32), transforms.astype(np.float32), camera)
        t = rng.uniform(0.5, 1.5, (3, 5, 1))
        points = np.asarray(rays.origins) + t * np.asarray(rays.directions)
        for f in range(3):
            local = (points[f] - transforms[f, :3, 3]) @ transforms[f, :3, :3]  # Rᵀ·(p − t)
            # t is the depth: cameras look along −z.
            np.testing.assert_allclose(-local[:, 2:], t[f], atol=TOLERANCE)
            seen = np.stack([11.0 + 80.0 * local[:, 1] / local[:, 2], 15.0 - 80.0 * local[:, 0] / local[:, 2]], axis=-1)
            # Pixels are 80 focal lengths times the coordinates.
            np.testing.assert_allclose(seen, pixels[f], atol=100 * TOLERANCE)

    def test_image_axes(self):
        camera = Camera(80.0, 16.0, 16.0, height=32, width=32)
        right, down = np.asarray(
            rays_through(np.array([[16, 20], [20, 16]], np.float32), np.eye(4, dtype=np.float32), camera).directions
        )
        assert right[0] > 0 and right[1] == 0
        assert down[0] == 0 and down[1] < 0


class EulerAnglesTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_angles_of_a_known_rotation_come_back_and_the_published_ones_are_others(self):
        rng = np.random.default_rng(2)
        a, b, c = angles = rng.uniform([-3, -1.5, -3], [3, 1.5, 3], (60, 3)).T
        zero, one = np.zeros(60), np.ones(60)

        def matrix(*rows):
            return np.moveaxis(np.array(rows), -1, 0)

        around_x = matrix(
            (one, zero, zero), (zero, np.cos(a), np.sin(a)), (zero, -np.sin(a), np.cos(a))
        )  # R12 = sin a, R22 = cos a
        around_y = matrix((np.cos(b), zero, -np.sin(b)), (zero, one, zero), (np.sin(b), zero, np.cos(b)))
        around_z = matrix((np.cos(c), -np.sin(c), zero), (np.sin(c), np.cos(c), zero), (zero, zero, one))
        transforms = np.tile(np.eye(4, dtype=np.float32), (60, 1, 1))
        transforms[:, :3, :3] = around_x @ around_y @ around_z
        found = self.variant(lambda t: euler_angles(t))(transforms)
        # asin is steep near ±1: at 1.5 rad a rounding of 6e-8 is 14 times as large.
        np.testing.assert_allclose(found, angles.T, atol=1e-5)
        swapped = np.asarray(self.variant(lambda t: euler_angles(t, swapped=True))(transforms))
        np.testing.assert_array_equal(swapped[:, 1], found[:, 1])
        for axis in (0, 2):
            # Arguments interchanged: a quarter turn minus the angle.
            turned = np.angle(np.exp(1j * (swapped[:, axis] + angles[axis] - np.pi / 2)))
            np.testing.assert_allclose(turned, 0, atol=1e-5)
            assert np.abs(swapped[:, axis] - angles[axis]).min() > 1e-4


class PlacementVectorTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_angles_give_the_rotation_back(self):
        rng = np.random.default_rng(1)
        angles = rng.uniform([-3, -1.5, -3], [3, 1.5, 3], (50, 3))
        transforms = np.tile(np.eye(4), (50, 1, 1))
        # R12 = cos b sin a, R22 = cos b cos a, R02 = −sin b, R01 = −cos b sin c, R00 = cos b cos c: by the definition
        # of the angles (a, b, c), R = Rx(−a)·Ry(−b)·Rz(c).
        transforms[:, :3, :3] = Rotation.from_euler("XYZ", angles * [-1, -1, 1]).as_matrix()
        transforms[:, :3, 3] = rng.normal(size=(50, 3))
        vectors = self.variant(placement_vector)(transforms.astype(np.float32))
        # asin is steep near ±1: at 1.5 rad a rounding of 6e-8 is 14 times as large.
        np.testing.assert_allclose(vectors[:, :3], angles, atol=1e-5)
        # Head-to-camera is the inverse of camera-to-head.
        np.testing.assert_allclose(vectors[:, 3:], np.linalg.inv(transforms)[:, :3, 3], atol=TOLERANCE)

    def test_no_turn_is_no_angle(self):
        np.testing.assert_array_equal(placement_vector(np.eye(4, dtype=np.float32)), np.zeros(6))

    def test_a_rounded_rotation_is_finite(self):
        transform = np.eye(4, dtype=np.float32)
        transform[0, 2] = -1.0000001
        np.testing.assert_allclose(placement_vector(transform)[1], np.pi / 2, atol=TOLERANCE)


class ClipToBoxTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_against_many_points_on_each_ray(self):
        box = np.array([[-0.12, -0.15, -0.2], [0.13, 0.14, 0.15]], np.float32)
        rays = tiny.random_rays(1, 300)
        near, far = 0.7, 1.2  # both cut some rays inside the box
        enter, leave = self.variant(clip_to_box)(rays, near, far, box)
        t = np.linspace(near, far, 5001)
        points = rays.origins[..., None, :] + t[:, None] * rays.directions[..., None, :]
        inside = ((points >= box[0]) & (points <= box[1])).all(-1)
        hit = inside.any(-1)
        assert 0.1 < hit.mean() < 0.9
        step = t[1] - t[0]
        first, last = t[inside.argmax(-1)], t[len(t) - 1 - inside[..., ::-1].argmax(-1)]
        np.testing.assert_allclose(enter[hit], first[hit], atol=1.01 * step)
        np.testing.assert_allclose(leave[hit], last[hit], atol=1.01 * step)
        assert (leave - enter)[~hit].max() < step  # at most a corner between two of the points

    def test_rays_along_an_axis_and_rays_that_miss(self):
        box = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)
        origins = np.array([(0, 0, 3), (2, 0, 3), (0.5, -0.5, 3), (0, 0, 3)], np.float32)
        directions = np.array([(0, 0, -1), (0, 0, -1), (0, 0, -1), (0, 0, 1)], np.float32)
        enter, leave = clip_to_box(Rays(origins, directions), np.float32(0.5), np.float32(3.5), box)
        np.testing.assert_allclose(enter, [2, 0.5, 2, 0.5], atol=TOLERANCE)
        np.testing.assert_allclose(leave, [3.5, 0.5, 3.5, 0.5], atol=TOLERANCE)


@pytest.mark.filterwarnings("error")
def test_numbers_that_overflow_are_no_pose_and_no_warning():
    transforms = np.stack([np.eye(4)] * 3)
    transforms[1, 0, 0], transforms[2, 1, 2] = 1e300, -1e200
    assert is_rigid(transforms).tolist() == [True, False, False]
