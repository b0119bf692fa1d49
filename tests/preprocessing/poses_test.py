"""Refinement of the poses: conventions, and the fallback to the landmarks' poses."""

import numpy as np
import pytest
from clips import portrait
from scipy.spatial.transform import Rotation

from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.rigid import Pinhole, Poses
from adnerf_jax.face.tracking import HeadTrack, camera_to_head, head_to_camera
from adnerf_jax.media.video import VideoWriter, probe
from adnerf_jax.preprocessing import poses as module
from adnerf_jax.preprocessing.clip import Clip

CAMERA = Pinhole(170.0, 32.0, 32.0)


@pytest.fixture
def turning():
    angles = np.linspace(-0.2, 0.2, 6)[:, None] * [0.3, 1.0, 0.1]
    return Poses(Rotation.from_rotvec(angles).as_matrix(), np.tile([1.0, 2.0, -95.0], (6, 1)))


def test_camera_to_head_and_back(turning):
    back = head_to_camera(camera_to_head(turning))
    np.testing.assert_allclose(back.rotation, turning.rotation, atol=1e-12)
    np.testing.assert_allclose(back.translation, turning.translation, atol=1e-9)


def test_change_of_axes_and_scale_keeps_the_reprojection(turning):
    rng = np.random.default_rng(0)
    points = rng.normal(0, 5, (20, 3))
    turn = Rotation.from_rotvec([0.1, -0.2, 0.05]).as_matrix()
    shape = 1.1 * points @ turn.T + [0.5, -1.0, 2.0]
    changed = module._with_axes_of(shape, points, turning)
    np.testing.assert_allclose(CAMERA.project(changed.move(shape)), CAMERA.project(turning.move(points)), atol=1e-8)


def test_a_head_without_texture_keeps_the_landmarks_poses(tmp_path, turning):
    with VideoWriter(tmp_path / "v.mp4", 64, 64) as writer:
        for _ in range(6):
            writer.write(np.full_like(portrait(0, (64, 64)), 128))
    points = np.tile(np.random.default_rng(0).uniform(20, 44, (478, 3)), (6, 1, 1)).astype(np.float32)
    head = HeadTrack(camera_to_head(turning), np.ones(6, bool), np.full(6, 0.7), np.zeros((468, 3)))
    found = Landmarks(points, np.ones(6, bool), np.zeros((6, 52), np.float32))
    clip = Clip(probe(tmp_path / "v.mp4"), 0.0, 0.24, 64, 64)
    kept, facts = module.refine_track(head, found, clip, lambda i: np.ones((64, 64), bool), CAMERA, tmp_path)
    assert kept is head and facts == {"reprojection_px": 0.7, "flow_points": 0}
