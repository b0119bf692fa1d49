"""Head motion: directions, inverse, range."""

import numpy as np
import pytest
import tiny

from adnerf_jax.face.tracking import UNITS_PER_CM
from adnerf_jax.inference.head_motion import (
    NAMES,
    MotionRange,
    apply_motion,
    head_position,
    motion_between,
    rest_frame,
)
from adnerf_jax.nerf.cameras import is_rigid

REST = tiny.pose(0.1, -0.05, (0.01, 0.02)).astype(np.float32)


def in_camera(transform: np.ndarray, point) -> np.ndarray:
    """A point of the head in the camera's space."""
    return transform[:3, :3].T @ (np.asarray(point, float) - transform[:3, 3])


def test_directions_are_as_documented():
    front = np.eye(4)
    front[2, 3] = tiny.DEPTH
    nose, top = [0, 0, 0.1], [0, 0.1, 0]

    def shift(point, **motion):
        vector = np.array([motion.get(name, 0.0) for name in NAMES])
        return in_camera(apply_motion(front, vector), point) - in_camera(front, point)

    assert shift(nose, yaw=20)[0] > 0.03  # the face turns to the viewer's right
    assert shift(nose, pitch=20)[1] < -0.03  # it nods
    assert shift(top, roll=20)[0] < -0.03  # the head leans to the viewer's left
    for k, axis in enumerate("xyz"):
        np.testing.assert_allclose(shift(top, **{axis: 3.0}), 3.0 * UNITS_PER_CM * np.eye(3)[k], atol=1e-6)


def test_rotations_keep_the_heads_origin():
    np.testing.assert_allclose(
        head_position(apply_motion(REST, np.array([20.0, -10.0, 5.0, 0, 0, 0]))), head_position(REST), atol=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_motion_between_is_the_inverse_of_apply_motion(seed):
    motion = np.random.default_rng(seed).uniform(-25, 25, 6)
    pose = apply_motion(REST, motion)
    assert is_rigid(pose[None])[0]
    np.testing.assert_allclose(motion_between(REST, pose), motion, atol=2e-4)  # float32 matrices


def test_no_motion_is_the_same_pose_bit_for_bit():
    assert apply_motion(REST, np.zeros(6)) is REST


def test_the_range_of_poses():
    motions = np.zeros((21, 6))
    motions[:, 0] = np.linspace(-10, 10, 21)
    motions[:, 4] = np.linspace(2, -2, 21)
    poses = np.stack([apply_motion(REST, motion) for motion in motions])
    assert rest_frame(poses) == 10
    learned = MotionRange.of(poses)
    np.testing.assert_allclose(learned.high, [10, 0, 0, 0, 2, 0], atol=1e-3)
    assert learned.out_of_range(poses) == {}
    away = np.stack([poses[3], apply_motion(REST, np.array([14.0, 0, -3, 0, 0, 0]))])
    found = learned.out_of_range(away)
    assert {name: (row, round(value, 2)) for name, (row, value) in found.items()} == {"yaw": (1, 14.0), "roll": (1, -3)}
    assert learned.describe("yaw") == "yaw -10.0 … 10.0°" and learned.describe("y") == "y -2.0 … 2.0 cm"
    assert learned.clamped(away[0]) is away[0] or np.array_equal(learned.clamped(away[0]), away[0])
    np.testing.assert_allclose(motion_between(REST, learned.clamped(away[1])), [10, 0, 0, 0, 0, 0], atol=2e-3)
