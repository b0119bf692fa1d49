"""Frames with a covered mouth, of painted faces and of recordings."""

import os
import pathlib

import cv2
import numpy as np
import pytest

from adnerf_jax.face.covered_mouth import covered_frames, mouth_colours, shows_lips
from adnerf_jax.face.landmarks import INNER_LIPS, OUTER_LIPS, detect_video
from adnerf_jax.media.video import read_frames

SKIN, LIPS, GREY = (205, 150, 120), (180, 100, 95), (45, 45, 48)
CENTRE = (100, 140)


def landmarks():
    """A face of 160 × 200 pixels whose lips are ellipses."""
    points = np.zeros((478, 3), np.float32)
    points[:, :2] = np.random.default_rng(0).uniform((60, 60), (140, 100), (478, 2))
    points[:2, :2] = (20, 10), (180, 200)
    angle = np.linspace(np.pi, -np.pi, 20, endpoint=False)
    for ring, size in ((OUTER_LIPS, (28, 14)), (INNER_LIPS, (20, 5))):
        points[ring, :2] = np.array(CENTRE) + np.stack([np.cos(angle), np.sin(angle)], -1) * size
    return points


def face(k, cover=None):
    """Frame `k` of a face in unsteady light, with noise; a hand or a microphone may be before the mouth."""
    rng = np.random.default_rng(k)
    picture = np.full((220, 200, 3), SKIN, np.uint8)
    cv2.ellipse(picture, CENTRE, (28, 14), 0, 0, 360, LIPS, -1)
    cv2.ellipse(picture, CENTRE, (20, 3 + k % 5), 0, 0, 360, (60, 20, 20), -1)
    if cover == "hand":
        cv2.rectangle(picture, (60, 110), (140, 220), tuple(int(0.95 * c) for c in SKIN), -1)
        for x in (80, 100, 120):
            cv2.line(picture, (x, 110), (x, 150), (150, 105, 85), 1)
    if cover == "microphone":
        cv2.circle(picture, (115, 155), 22, GREY, -1)
    light = 1 + 0.2 * np.sin(k / 4)
    return np.clip(picture * light + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def found(covers):
    return covered_frames([mouth_colours(face(k, cover), landmarks()) for k, cover in enumerate(covers)])


@pytest.mark.parametrize("cover", ["hand", "microphone"])
def test_what_is_before_the_mouth_for_a_while_is_found(cover):
    covers = [cover if 20 <= k < 32 else None for k in range(60)]
    assert np.flatnonzero(found(covers)).tolist() == list(
        range(17, 35)
    )  # with the frames in which it enters and leaves


@pytest.mark.parametrize("cover", ["hand", "microphone"])
def test_what_is_before_the_mouth_all_the_time_is_found(cover):
    assert found([cover] * 20).all()


def test_a_talking_mouth_is_not_covered():
    assert not found([None] * 40).any()
    assert not found(["hand" if k in (10, 11) else None for k in range(40)]).any()  # fewer frames are noise
    assert found([]).shape == (0,)


def test_a_face_outside_the_picture_is_no_error():
    far = landmarks() + 1000
    assert covered_frames([mouth_colours(face(0), far)]).shape == (1,)


def test_enough_frames_must_show_the_lips():
    assert shows_lips(np.array([True, False, False])) and not shows_lips(np.array([True, True, False]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    [
        ("cases/hand_face.mp4", 24, 36),
        ("cases/podcast_mic.mp4", 125, 125),
        ("cases/low_light.mp4", 0, 0),
        ("cases/big_motion_lp_d12.mp4", 0, 0),
        ("clips/long_hair_8s_512.mp4", 0, 0),
        ("obama/obama_20s_450.mp4", 0, 0),
    ],
)
def test_recordings(name, fewest, most):
    if "ADNERF_TEST_DATA" not in os.environ:
        pytest.skip("needs the recordings in ADNERF_TEST_DATA")
    frames = list(read_frames(pathlib.Path(os.environ["ADNERF_TEST_DATA"]) / name, duration=6.0))
    points = detect_video(frames).points
    covered = covered_frames([mouth_colours(*pair) for pair in zip(frames, points, strict=True)])
    assert fewest <= covered.sum() <= most
