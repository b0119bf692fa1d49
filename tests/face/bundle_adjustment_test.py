"""Bundle adjustment and smooth pose tracking on synthetic heads with known poses."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adnerf_jax.face import bundle_adjustment as bundle
from adnerf_jax.face import optical_flow as flow
from adnerf_jax.face.rigid import Pinhole, Poses

CAMERA = Pinhole(1200.0, 225.0, 225.0)
FRAMES, POINTS = 40, 60


def true_poses(frames=FRAMES):
    time = np.arange(frames) / 25
    angles = np.radians([12, 8, 6]) * np.sin(2 * np.pi * time[:, None] * [0.4, 0.6, 0.5] + [0, 1, 2])
    shift = np.column_stack([np.sin(time), np.cos(2 * time), 0.5 * np.sin(3 * time)]) + [0, 0, -96]
    return Poses(Rotation.from_rotvec(angles).as_matrix(), shift)


@pytest.fixture
def scene():
    """Points on a paraboloid as deep as a face, all observed in all frames with noise of 0.1 px."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-7, 7, (POINTS, 3))
    points[:, 2] = 4 - 0.1 * (points[:, :2] ** 2).sum(1) / 2
    poses = true_poses()
    pixels = CAMERA.project(poses.move(points)) + rng.normal(0, 0.1, (FRAMES, POINTS, 2))
    matches = flow.Matches(
        np.repeat(np.arange(FRAMES), POINTS), np.tile(np.arange(POINTS), FRAMES), pixels.reshape(-1, 2)
    )
    return poses, points, matches, rng


def turn_error(a, b):
    """RMS angle in degrees after the best constant rotation of the head's axes."""
    best = Rotation.from_matrix(a.rotation.transpose(0, 2, 1) @ b.rotation).mean().as_matrix()
    rest = Rotation.from_matrix((a.rotation @ best).transpose(0, 2, 1) @ b.rotation).magnitude()
    return math.degrees(np.sqrt((rest**2).mean()))


def disturbed(poses, rng, degrees=1.5):
    return poses.stepped(
        np.hstack([rng.normal(0, math.radians(degrees), (len(poses.rotation), 3)), np.zeros((len(poses.rotation), 3))])
    )


def tracked(seen, poses, points, floor):
    """`track_poses` with noise that may grow to five times the floor."""
    return bundle.track_poses(seen, poses, points, CAMERA, floor, 5 * floor, bundle.acceleration(poses))


def test_poses_and_points_are_found_together_despite_outliers(scene):
    poses, points, matches, rng = scene
    wrong = rng.random(len(matches.frame)) < 0.15
    matches.pixels[wrong] += rng.uniform(3, 15, (wrong.sum(), 2))
    start = disturbed(poses, rng)
    guess = points + rng.normal(0, 0.5, points.shape)
    seen = bundle.Observations.join(matches)
    found, shape = bundle.adjust(seen, start, guess, np.full(POINTS, 3.0), CAMERA, np.array([0.05]))
    assert turn_error(start, poses) > 1.0
    # 60 points with 0.1 px each at 12.5 px a cm determine the turn to some hundredths of a degree; the shape's relief,
    # which trades against the turn, to some parts in a hundred.
    assert turn_error(found, poses) < 0.3
    residual = CAMERA.project(found.move(shape)).reshape(-1, 2) - matches.pixels
    assert np.median(np.linalg.norm(residual[~wrong], axis=1)) < 0.15


def test_track_poses_interpolates_frames_without_observations(scene):
    poses, points, matches, rng = scene
    seen = bundle.Observations.join(matches)
    gap = (seen.frame >= 18) & (seen.frame < 21)
    found = tracked(seen.take(~gap), disturbed(poses, rng), points, np.array([0.05]))
    error = np.degrees(Rotation.from_matrix(found.rotation.transpose(0, 2, 1) @ poses.rotation).magnitude())
    assert error.max() < 0.25  # in the gap a parabola instead of the sine
    # 60 points at 0.1 px leave 0.05° (RMS); three times that is the worst of 37 frames.
    assert np.delete(error, range(18, 21)).max() < 0.2
    assert np.median(bundle.residual_lengths(seen.take(~gap), found, points, CAMERA)) < 0.2


def test_track_poses_lowers_jitter_without_lag(scene):
    poses, points, matches, rng = scene
    matches.pixels[:] += rng.normal(0, 1.0, matches.pixels.shape)
    few = bundle.Observations.join(matches).take(np.flatnonzero(matches.point < 20))
    found = tracked(few, poses, points, np.array([1.0]))
    free, sums = poses, bundle._sums(few.frame, FRAMES)
    for _ in range(3):  # each frame independently
        moved, residual = bundle._residuals(few, free, points, CAMERA)
        slope, _ = bundle._jacobians(few, free, points, moved, CAMERA)
        matrix, vector = bundle._normal_equations(sums, np.ones(len(residual)), slope, residual)
        free = free.stepped(-np.linalg.solve(matrix, vector[..., None])[..., 0])

    def jitter(p):
        return np.sqrt((bundle.acceleration(p)[:, :3] ** 2).sum(1).mean())

    assert jitter(found) < 0.5 * jitter(free)
    true, smooth = (Rotation.from_matrix(p.rotation).as_rotvec() for p in (poses, found))
    errors = [np.square(np.roll(smooth, k, axis=0)[5:-5] - true[5:-5]).sum() for k in (-2, -1, 0, 1, 2)]
    assert int(np.argmin(errors)) == 2


def test_quick_motion_is_not_damped(scene):
    # Ten times as quick as speech: smoothness, whose weight grew with the residuals, held poses back by 10 px.
    _, points, matches, rng = scene
    poses = true_poses()
    time = np.arange(FRAMES) / 25
    poses.translation[:] += 3 * np.sin(2 * np.pi * time[:, None] * [2.1, 1.7, 1.3])
    pixels = CAMERA.project(poses.move(points)) + rng.normal(0, 0.5, (FRAMES, POINTS, 2))
    matches = matches._replace(pixels=pixels.reshape(-1, 2))
    seen, start = bundle.Observations.join(matches), disturbed(poses, rng, 0.3)
    found = tracked(seen, start, points, np.array([0.5]))
    assert np.median(bundle.residual_lengths(seen, found, points, CAMERA)) < 1.0
    assert np.linalg.norm(found.translation - poses.translation, axis=1).max() < 1.5


def test_points_are_located_by_given_poses(scene):
    poses, points, matches, rng = scene
    seen = bundle.Observations.join(matches)
    unseen = np.array([[1.0, 2.0, 3.0]])
    guess = np.concatenate([points + rng.normal(0, 1, points.shape), unseen])
    found = bundle.locate(seen, poses, guess, CAMERA)
    np.testing.assert_allclose(found[-1:], unseen)
    assert np.median(np.linalg.norm(found[:-1] - points, axis=1)) < 0.1  # cm, of noise of 0.1 px in 40 frames
    assert np.median(bundle.residual_lengths(seen, poses, found, CAMERA)) < 0.15


def test_weights_fall_with_the_residual_and_noise_is_estimated_from_the_median():
    rng = np.random.default_rng(0)
    residual = np.concatenate([rng.normal(0, 0.2, (5000, 2)), rng.normal(0, 1.0, (5000, 2))])
    group = np.repeat([0, 1], 5000)
    length = np.linalg.norm(residual, axis=1)
    noise = bundle.group_noise(length, group, np.array([0.01, 0.01]))
    np.testing.assert_allclose(noise, [0.2, 1.0], rtol=0.05)  # of a median of 5000
    weight = bundle.robust_weights(residual[:5000], noise[group[:5000]])
    assert (np.diff(weight[length[:5000].argsort()]) <= 0).all()
    assert bundle.group_noise(length, group, np.array([0.5, 0.5]))[0] == 0.5


def test_observations_in_a_file_give_the_result_of_those_in_memory(scene, tmp_path, monkeypatch):
    poses, points, matches, rng = scene
    monkeypatch.setattr(bundle, "_CHUNK", 700)
    split = [flow.Matches(*(column[k : k + 500] for column in matches)) for k in range(0, len(matches.frame), 500)]
    start, floor = disturbed(poses, rng), np.array([0.05, 0.05])
    with open(tmp_path / "spool", "w+b") as file:
        spooled = bundle.Observations.spool(file, ((k % 2, part) for k, part in enumerate(split)))
        assert len(spooled) == len(matches.frame) and spooled.group.max() == 1
        np.testing.assert_array_equal(spooled.frame, matches.frame)
        some = spooled.of_frames(np.array([3, 5]), FRAMES)
        np.testing.assert_array_equal(some.frame, np.repeat([0, 1], POINTS))
        still = bundle.acceleration(start)
        found = bundle.track_poses(spooled, start, points, CAMERA, floor, floor + 9, still)
    expected = bundle.track_poses(
        bundle.Observations.join(matches), start, points, CAMERA, floor[:1], floor[:1] + 9, still
    )
    # float32 pixels are accurate to 2e-5; the noise is estimated for each half and differs by a few percent.
    np.testing.assert_allclose(found.rotation, expected.rotation, atol=1e-4)


def test_samples_are_bounded(scene, monkeypatch):
    seen = bundle.Observations.join(scene[2])
    monkeypatch.setattr(bundle, "_SAMPLE", 100)
    assert 50 < len(seen.sample()) <= 100 and len(seen.take(slice(0, 0)).sample()) == 0


def test_a_steady_motion_has_no_acceleration():
    steps = np.arange(5)[:, None]
    steady = Poses(Rotation.from_rotvec(steps * [[0.0, 0.02, 0.0]]).as_matrix(), steps * [[0.1, 0.0, 0.2]])
    np.testing.assert_allclose(bundle.acceleration(steady), 0, atol=1e-12)
