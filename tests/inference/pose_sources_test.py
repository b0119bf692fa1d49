"""Poses from the training video, files and arrays: order, blending, smoothing, and invalid input."""

import itertools
import json
import types

import numpy as np
import pytest
import tiny

from adnerf_jax.common.curves import read_curves
from adnerf_jax.common.errors import UserError
from adnerf_jax.inference.head_motion import NAMES, apply_motion, motion_between, rest_frame
from adnerf_jax.inference.pose_sequences import displaced, mirrored_index, recorded, smoothed
from adnerf_jax.inference.pose_sources import pose_source

FRAMES = 300
TIME = np.arange(FRAMES) / 25


@pytest.fixture(scope="module")
def person():
    """A person who turns and nods smoothly; row i is the i-th frame."""
    poses = [tiny.pose(0.2 * np.sin(1.9 * t), 0.1 * np.cos(2.7 * t), (0.01 * np.sin(t), 0)) for t in TIME]
    eyes = np.stack([np.arange(FRAMES), np.arange(FRAMES)], axis=1).astype(np.float32)
    return types.SimpleNamespace(transforms=np.stack(poses).astype(np.float32), tracks={"eyes": eyes})


def taken(source, count: int):
    return list(itertools.islice(source.start(), count))


def rows(source, count: int) -> list[int]:
    """Which frame each pose comes from, by its eyes."""
    return [int(posed.tracks["eyes"][0]) for posed in taken(source, count)]


def test_mirrored_goes_back_and_forth():
    assert [mirrored_index(i, 4) for i in range(10)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert [mirrored_index(i, 1) for i in range(3)] == [0, 0, 0]
    assert [mirrored_index(i, 2) for i in range(4)] == [0, 1, 0, 1]


def test_orders_of_the_training_video(person):
    assert rows(pose_source("mirror", person), 700) == [mirrored_index(i, FRAMES) for i in range(700)]
    assert rows(pose_source("forward", person), 700) == [i % FRAMES for i in range(700)]
    assert set(rows(pose_source("frame:7", person), 5)) == {7}
    assert set(rows(pose_source("rest", person), 5)) == {rest_frame(person.transforms)}
    for word in ("mirror", "forward"):  # the first time through it is the video itself
        for i, posed in enumerate(taken(pose_source(word, person), FRAMES)):
            assert np.array_equal(posed.transform, person.transforms[i])


@pytest.mark.parametrize("word", ["forward", "random"])
def test_segments_are_joined_as_smoothly_as_the_video_moves(person, word):
    def accelerations(poses):
        motions = motion_between(person.transforms[0], np.stack(poses))
        return np.abs(np.diff(motions, 2, axis=0)).max(0)

    frames = taken(pose_source(word, person, seed=3), 1500)
    own = accelerations(person.transforms)
    # Blending adds at most 6 / 20² of the gap; a cut would show all of it, up to 100 times as much.
    gap = np.ptp(motion_between(person.transforms[0], person.transforms), axis=0)
    assert (accelerations([f.transform for f in frames]) < 3 * own + 8 / 400 * gap + 1e-3).all()


def test_random_segments_follow_the_seed_and_have_the_documented_lengths(person):
    first, again, other = (rows(pose_source("random", person, seed), 1000) for seed in (1, 1, 2))
    assert first == again != other
    cuts = [i for i in range(1, 1000) if first[i] != first[i - 1] + 1]
    assert cuts and min(np.diff(cuts)) >= 40 and max(np.diff(cuts)) <= 125


def test_a_video_too_short_for_segments_goes_back_and_forth(person):
    short = types.SimpleNamespace(transforms=person.transforms[:30], tracks={"eyes": person.tracks["eyes"][:30]})
    for word in ("forward", "random"):
        assert rows(pose_source(word, short), 70) == [mirrored_index(i, 30) for i in range(70)]


def test_offsets_follow_their_curves_and_none_changes_nothing(person):
    plain = pose_source("mirror", person)
    assert displaced(plain, {}) is plain
    zero = taken(displaced(plain, read_curves("yaw=0", NAMES, "offset")), 5)
    assert all(np.array_equal(posed.transform, person.transforms[i]) for i, posed in enumerate(zero))
    turned = taken(displaced(plain, read_curves({"yaw": [[0, 0], [1, 10]], "y": 2}, NAMES, "offset")), 30)
    for i in (0, 10, 25, 29):
        motion = motion_between(person.transforms[i], turned[i].transform)
        np.testing.assert_allclose(motion, [min(i / 2.5, 10), 0, 0, 0, 2, 0], atol=2e-3)


def test_smoothing_removes_jitter_and_keeps_motion(person):
    rng = np.random.default_rng(0)
    shaken = np.stack([apply_motion(pose, rng.normal(size=6) * 0.5) for pose in person.transforms])
    source = smoothed(recorded(shaken), 0.08)
    smooth = np.stack([posed.transform for posed in taken(source, FRAMES)])

    def off(poses):
        return np.sqrt(np.mean([motion_between(a, b) ** 2 for a, b in zip(person.transforms, poses, strict=True)]))

    assert off(smooth) < 0.5 * off(shaken)  # the mean of 7 independent ones: 1/√7
    assert smoothed(source, 0.0) is source
    for seconds in (-1.0, np.nan, np.inf):
        with pytest.raises(UserError, match=f"{seconds:g} s: give 0 to 60"):
            smoothed(source, seconds)


def test_files_of_poses(person, tmp_path):
    some = person.transforms[:20]
    (tmp_path / "list.json").write_text(json.dumps(some.tolist()))
    (tmp_path / "index.json").write_text(json.dumps({"frames": [{"transform_matrix": p.tolist()} for p in some]}))
    header = ",".join(f"m{k}" for k in range(12))
    np.savetxt(tmp_path / "rows.csv", some[:, :3].reshape(20, 12), delimiter=",", header=header, comments="")
    for name in ("list.json", "index.json", "rows.csv"):
        source = pose_source(tmp_path / name, person)
        assert source.length == 20
        np.testing.assert_allclose(np.stack([p.transform for p in taken(source, 20)]), some, atol=1e-6)
    (tmp_path / "turn.csv").write_text("time,yaw\n0,0\n1,10\n")
    source = pose_source(tmp_path / "turn.csv", person)
    assert source.length is None
    last = taken(source, 26)[25].transform
    rest = person.transforms[rest_frame(person.transforms)]
    np.testing.assert_allclose(motion_between(rest, last), [10, 0, 0, 0, 0, 0], atol=2e-3)


def broken(person, how: str):
    poses = person.transforms[:4].astype(float)
    if how == "nan":
        poses[2, 0, 3] = np.nan
    elif how == "mirror image":
        poses[1, :3, 0] *= -1
    elif how == "scaled":
        poses[3, :3, :3] *= 1.1
    elif how == "behind":
        poses[0, :3, 3] *= -1
    elif how == "shape":
        poses = poses[:, :2]
    return poses


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "pose 2 holds a number that is not finite"),
        ("mirror image", "pose 1 is not a rotation and a translation"),
        ("scaled", "pose 3 is not a rotation and a translation"),
        ("behind", "pose 0 puts the head behind the camera"),
        ("shape", r"has the shape \[4, 2, 4\]"),
    ],
)
def test_invalid_poses(person, tmp_path, how, message):
    poses = broken(person, how)
    with pytest.raises(UserError, match=message):
        pose_source(poses, person)
    (tmp_path / "p.json").write_text(json.dumps(poses.tolist()))
    with pytest.raises(UserError, match=message):
        pose_source(tmp_path / "p.json", person)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dance", "there is no pose source 'dance': give mirror, forward"),
        ("frame:300", "frame:0 … frame:299"),
        ("frame:x", "frame:0 … frame:299"),
        ("frame:²", "frame:0 … frame:299"),
        ("gone.json", "pose file not found: gone.json"),
        ("gone.mp4", "there is no pose source 'gone.mp4'"),
    ],
)
def test_invalid_sources(person, given, message):
    with pytest.raises(UserError, match=message):
        pose_source(given, person)
