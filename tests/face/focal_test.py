"""The focal length from the head's motion, on synthetic heads."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adnerf_jax.face import bundle_adjustment as bundle
from adnerf_jax.face import optical_flow as flow
from adnerf_jax.face.focal import estimate_focal
from adnerf_jax.face.rigid import Pinhole, Poses

TRUE = Pinhole(1000.0, 225.0, 225.0)
FRAMES, POINTS = 32, 60
FLOOR = np.array([0.05])


def scene(degrees, focal):
    """A head that turns by `degrees`, observed with noise of 0.1 px and bundle-adjusted at a focal length."""
    rng = np.random.default_rng(0)
    time = np.arange(FRAMES) / 25
    angles = np.radians(degrees) * np.sin(2 * np.pi * time[:, None] * [1.4, 2.1, 0.9] + [0, 1, 2])
    poses = Poses(Rotation.from_rotvec(angles).as_matrix(), np.tile([0.0, 0.0, -60.0], (FRAMES, 1)))
    points = rng.uniform(-8, 8, (POINTS, 3))
    pixels = TRUE.project(poses.move(points)) + rng.normal(0, 0.1, (FRAMES, POINTS, 2))
    frame, point = np.repeat(np.arange(FRAMES), POINTS), np.tile(np.arange(POINTS), FRAMES)
    seen = bundle.Observations.join(flow.Matches(frame, point, pixels.reshape(-1, 2)))
    camera = TRUE._replace(focal=focal)
    start = Poses(poses.rotation, poses.translation * [1, 1, focal / TRUE.focal])
    poses, points = bundle.adjust(seen, start, points, np.full(POINTS, 3.0), camera, FLOOR)
    return seen, poses, points, camera


@pytest.mark.parametrize("assumed", [900.0, 1000.0, 1120.0])
def test_large_rotations_determine_the_focal_length(assumed):
    found = estimate_focal(*scene([40, 40, 20], assumed), FLOOR)
    assert found.low < TRUE.focal < found.high and found.sure
    # The head's depth is a quarter of its distance, so that a hundredth of the focal length is some tenths of a pixel;
    # the parabola through values 30 % apart errs by some hundredths.
    assert found.focal == pytest.approx(TRUE.focal, rel=0.06)


def test_small_rotations_do_not_determine_the_focal_length():
    found = estimate_focal(*scene([0.5, 0.5, 0.3], 1000.0), FLOOR)
    assert not found.sure and found.low < TRUE.focal < found.high


def test_without_rigid_points_the_range_is_infinite():
    seen, poses, points, camera = scene([40, 40, 20], 1000.0)
    rng = np.random.default_rng(1)
    seen.pixels[rng.random(len(seen.pixels)) < 1 / 3] += 5.0
    found = estimate_focal(seen, poses, points, camera, FLOOR)
    assert not found.sure and found.low == 0 and np.isinf(found.high)
