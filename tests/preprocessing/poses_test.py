"""Refinement of the poses: conventions, and the fallback to the landmarks' poses."""

import numpy as np
import pytest
from clips import portrait
from scipy.spatial.transform import Rotation

from adnerf_jax.face import optical_flow as flow
from adnerf_jax.face.focal import FocalEstimate
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.rigid import Pinhole, Poses
from adnerf_jax.face.tracking import UNITS_PER_CM, HeadTrack, camera_to_head, head_to_camera, tilt_of_axes
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
    points = np.random.default_rng(0).normal(0, 5, (20, 3))
    changed = module._with_axes_of(turning, 1.1 * points + [0.5, -1.0, 2.0], points, turning, np.arange(6))
    moved = changed.move(1.1 * points + [0.5, -1.0, 2.0])
    np.testing.assert_allclose(CAMERA.project(moved), CAMERA.project(turning.move(points)), atol=1e-8)


def test_tilted_axes_are_bound_to_those_of_the_landmarks(turning):
    # Bundle adjustment tilted the head's frame by 20° and sheared the points so that hardly any picture changes.
    points = np.random.default_rng(0).normal(0, 5, (20, 3))
    tilt = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    tilted = Poses(turning.rotation @ tilt, turning.translation)
    sheared = points @ tilt
    sheared[:, 2] += 0.5 * sheared[:, 1]
    bound = module._with_axes_of(turning, points, sheared, tilted, np.arange(6))
    np.testing.assert_allclose(bound.rotation, turning.rotation, atol=1e-9)


def test_the_tilt_of_the_axes_is_measured(turning):
    rng = np.random.default_rng(0)
    canonical = rng.normal(0, 4, (468, 3))
    points = np.zeros((6, 478, 3))
    moved = turning.move(canonical)
    depth = moved[:, module.RIGID, 2].mean(1)[:, None]
    points[:, :468, :2] = CAMERA.project(moved)
    points[:, :468, 2] = CAMERA.focal / depth * (moved[..., 2] - depth)
    assert tilt_of_axes(camera_to_head(turning), points, CAMERA, canonical)[0] < 0.01
    tilt = Rotation.from_euler("x", 20, degrees=True)
    # About the face's middle, so that the depths of the vertices remain.
    pivot = canonical[module.RIGID].mean(0)
    rotation = turning.rotation @ tilt.as_matrix()
    tilted = Poses(rotation, turning.translation + (turning.rotation - rotation) @ pivot)
    angle, turn = tilt_of_axes(camera_to_head(tilted), points, CAMERA, canonical)
    assert angle == pytest.approx(20, abs=0.1)
    np.testing.assert_allclose(turn, tilt.as_matrix().T, atol=2e-3)


def scene(turning):
    """Ten times the poses of `turning`, noisy landmarks' poses, the matches of 80 points, and the landmarks."""
    rng = np.random.default_rng(0)
    frames = 60
    true = Poses(np.repeat(turning.rotation, 10, 0), np.repeat(turning.translation, 10, 0))
    shape, points = rng.normal(0, 4, (468, 3)), rng.normal(0, 4, (80, 3))
    rough = true.stepped(np.hstack([rng.normal(0, 0.02, (frames, 3)), np.zeros((frames, 3))]))
    seen = CAMERA.project(true.move(points))
    seen += rng.normal(0, 0.05, seen.shape)
    landmarks = np.zeros((frames, 478, 3), np.float32)
    landmarks[:, :468, :2] = CAMERA.project(rough.move(shape)) + rng.normal(0, 0.1, (frames, 468, 2))
    found = Landmarks(landmarks, np.ones(frames, bool), np.zeros((frames, 52), np.float32))
    matches = flow.Matches(np.repeat(np.arange(frames), 80), np.tile(np.arange(80), frames), seen.reshape(-1, 2))
    return true, rough, module._Judge(matches, points, found, np.arange(frames), shape, CAMERA)


def test_held_out_points_tell_better_poses_although_the_landmarks_err_together(turning):
    true, rough, judge = scene(turning)
    share = module._refined_share(judge.errors(rough), judge.errors(true), np.ones(60, bool), 30.0)
    np.testing.assert_array_equal(share, 1)


def test_a_frame_that_refinement_made_worse_keeps_the_landmarks_pose_without_a_jump(turning):
    true, rough, judge = scene(turning)
    broken = Poses(true.rotation.copy(), true.translation.copy())
    broken.translation[28:31, 0] += 4.0
    share = module._refined_share(judge.errors(rough), judge.errors(broken), np.ones(60, bool), 30.0)
    assert (share[28:31] == 0).all() and share[:20].min() == share[40:].min() == 1
    assert abs(np.diff(share)).max() < 0.5
    mixed = module._blended(rough, broken, share)
    np.testing.assert_allclose(mixed.rotation[28:31], rough.rotation[28:31], atol=1e-9)
    np.testing.assert_allclose(mixed.translation[28:31], rough.translation[28:31], atol=1e-9)
    np.testing.assert_allclose(mixed.rotation[:20], broken.rotation[:20], atol=1e-9)


def test_a_head_without_texture_keeps_the_landmarks_poses(tmp_path, turning):
    with VideoWriter(tmp_path / "v.mp4", 64, 64) as writer:
        for _ in range(6):
            writer.write(np.full_like(portrait(0, (64, 64)), 128))
    points = np.tile(np.random.default_rng(0).uniform(20, 44, (478, 3)), (6, 1, 1)).astype(np.float32)
    head = HeadTrack(camera_to_head(turning), np.ones(6, bool), np.full(6, 0.7), np.zeros((468, 3)))
    found = Landmarks(points, np.ones(6, bool), np.zeros((6, 52), np.float32))
    clip = Clip(probe(tmp_path / "v.mp4"), 0.0, 0.24, 64, 64)
    kept, facts = module.refine_track(head, found, clip, lambda i: np.ones((64, 64), bool), CAMERA, tmp_path)
    assert kept is head and facts == {"reprojection_px": 0.7, "flow_points": 0, "kept_from_landmarks": 6}


@pytest.mark.parametrize("broken", [slice(None), slice(10, 12)])
def test_poses_are_never_worse_than_the_landmarks_own(tmp_path, monkeypatch, broken):
    # The refinement diverges in all frames, or in two of them.
    frames = 24
    angles = np.linspace(-0.2, 0.2, frames)[:, None] * [0.3, 1.0, 0.1]
    poses = Poses(Rotation.from_rotvec(angles).as_matrix(), np.tile([0.0, 0.0, -95.0], (frames, 1)))
    with VideoWriter(tmp_path / "v.mp4", 64, 64) as writer:
        for _ in range(frames):
            writer.write(portrait(0, (64, 64)))
    rng = np.random.default_rng(0)
    shape = rng.normal(0, 5, (468, 3))
    points = np.zeros((frames, 478, 3), np.float32)
    points[:, :468, :2] = CAMERA.project(poses.move(shape)) + rng.normal(0, 0.2, (frames, 468, 2))
    head = HeadTrack(camera_to_head(poses), np.ones(frames, bool), np.full(frames, 0.7), shape * UNITS_PER_CM)
    found = Landmarks(points, np.ones(frames, bool), np.zeros((frames, 52), np.float32))
    corners = rng.uniform(16, 48, (40, 2)).astype(np.float32)
    on_head = (CAMERA.unproject(corners, np.full(40, -95.0)) - poses.translation[3]) @ poses.rotation[3]

    def matched(pictures, *_):
        for row, _ in pictures:
            seen = CAMERA.project(poses.take([row]).move(on_head))[0] + rng.normal(0, 0.1, (40, 2))
            yield flow.Matches(np.full(40, row), np.arange(40), seen.astype(np.float32))

    def diverging(seen, start, *_):
        shift = np.zeros((frames, 3))
        shift[broken, :2] = 6 * np.column_stack([np.sin(np.arange(frames)), np.cos(np.arange(frames))])[broken]
        return Poses(start.rotation, start.translation + shift)

    anchor = flow.Anchor(3, np.zeros((64, 64), np.uint8), corners, np.full(40, -95.0))
    monkeypatch.setattr(module, "_make_anchors", lambda *_: [anchor])
    monkeypatch.setattr(flow, "match", matched)
    monkeypatch.setattr(module.bundle, "track_poses", diverging)
    monkeypatch.setattr(module, "estimate_focal", lambda *_: FocalEstimate(170.0, 0.0, np.inf))
    monkeypatch.setattr(module, "ROUNDS", 1)
    clip = Clip(probe(tmp_path / "v.mp4"), 0.0, frames / 25, 64, 64)
    kept, facts = module.refine_track(head, found, clip, lambda i: np.ones((64, 64), bool), CAMERA, tmp_path)
    error = np.degrees(Rotation.from_matrix(kept.transform[:, :3, :3] @ poses.rotation).magnitude())
    assert error.max() < 2
    held_out = facts["held_out"]["landmarks_px"]
    assert held_out["refined"][1] < 1.2 * held_out["landmarks_alone"][1]
    if broken == slice(None):
        np.testing.assert_allclose(kept.transform, head.transform, atol=1e-9)
        assert facts["kept_from_landmarks"] == frames and facts["reprojection_px"] == 0.7
    else:
        assert 2 <= facts["kept_from_landmarks"] < frames / 2
        np.testing.assert_allclose(kept.transform[10:12], head.transform[10:12], atol=1e-9)
