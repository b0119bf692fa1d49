"""Dissolves, fades and padding, of small generated pictures and of recordings."""

import os
import pathlib

import cv2
import numpy as np
import pytest

from adnerf_jax.media.video import VideoWriter, probe
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.padding import PaddingFinder
from adnerf_jax.preprocessing.pipeline import _crop
from adnerf_jax.preprocessing.report import share_cut, video_checks
from adnerf_jax.preprocessing.shots import in_transition
from adnerf_jax.preprocessing.survey import survey_video

NO_CUTS = np.zeros(0, int)


def person(seed, k):
    """A thumbnail of a person (`seed`) who moves: uint8 [256]."""
    rng = np.random.default_rng(seed)
    wall = cv2.resize(rng.uniform(30, 220, (6, 6)).astype(np.float32), (16, 16))
    cv2.circle(wall, (8 + round(0.8 * np.sin(k / 6)), 9), 4, float(rng.uniform(60, 200)), -1)
    return wall.ravel()


def dissolved(length, frames=120, at=60):
    """One person, who becomes another one from frame `at` on."""
    share = np.clip((np.arange(frames) - at + 1) / (length + 1), 0, 1)
    return np.array([(1 - a) * person(0, k) + a * person(1, k) for k, a in enumerate(share)]).astype(np.uint8)


@pytest.mark.parametrize("length", [8, 20, 40])
def test_a_dissolve_belongs_to_no_shot(length):
    found = np.flatnonzero(in_transition(dissolved(length), NO_CUTS))
    assert {*range(61, 59 + length)} <= {*found.tolist()} <= {*range(50, 72 + length)}


def test_motion_and_changes_of_light_are_no_transitions():
    assert not in_transition(np.array([person(0, k) for k in range(120)], np.uint8), NO_CUTS).any()
    light = np.linspace(1.0, 0.5, 120)
    assert not in_transition(np.array([a * person(0, k) for k, a in enumerate(light)], np.uint8), NO_CUTS).any()
    pan = np.random.default_rng(0).uniform(0, 255, (16, 400)).astype(np.float32)
    pan = cv2.GaussianBlur(pan, (0, 0), 2)
    assert not in_transition(np.array([pan[:, k : k + 16].ravel() for k in range(120)], np.uint8), NO_CUTS).any()
    assert not in_transition(np.zeros((60, 256), np.uint8), NO_CUTS).any()  # all black: told by its brightness


def test_a_fade_through_black_belongs_to_no_shot():
    light = np.interp(np.arange(140), [60, 72, 78, 90], [1, 0, 0, 1])
    small = np.array([a * person(int(k > 75), k) for k, a in enumerate(light)], np.uint8)
    found = np.flatnonzero(in_transition(small, NO_CUTS))
    assert set(range(64, 88)) <= set(found.tolist()) <= set(range(58, 94))


def padded(k, bars=0, sides=None, size=(90, 160)):
    """A detailed picture with black rows above and below, or narrow, over its own blur."""
    rng = np.random.default_rng(0)
    height, width = size
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (height, width)).astype(np.float32), (0, 0), 1)
    picture = np.roll(cv2.normalize(picture, None, 40, 230, cv2.NORM_MINMAX), k % 3, axis=1)
    if sides is not None:
        inner = cv2.resize(picture, (width - 2 * sides, height))
        picture = cv2.GaussianBlur(cv2.resize(inner, (width, height)), (0, 0), 12) * 0.6
        picture[:, sides : width - sides] = inner
    if bars:
        picture[:bars] = picture[-bars:] = 0
    return np.clip(picture, 0, 255).astype(np.uint8)


def content(pictures):
    finder = PaddingFinder()
    for picture in pictures:
        finder.add(picture)
    return finder.content()


def test_bars_and_blurred_sides_are_found_to_two_pixels():
    assert content([padded(k) for k in range(8)]) is None and content([]) is None
    black = np.zeros((90, 160), np.uint8)
    left, top, right, bottom = content([black, *(padded(k, bars=12) for k in range(8))])
    assert (left, right) == (0, 1) and 12 <= 90 * top <= 14 and 76 <= 90 * bottom <= 78
    left, top, right, bottom = content([padded(k, sides=40) for k in range(8)])
    assert (top, bottom) == (0, 1) and 40 <= 160 * left <= 42 and 118 <= 160 * right <= 120


def test_a_smooth_wall_on_one_side_is_no_padding():
    pictures = [padded(k) for k in range(8)]
    for picture in pictures:
        picture[:, :30] = 140
    assert content(pictures) is None


def test_bars_are_cut_off_and_said(tmp_path, capsys):
    with VideoWriter(tmp_path / "v.mp4", 160, 90, sound=(np.full(60 * 640, 0.1, np.float32), 16000)) as writer:
        for k in range(60):
            writer.write(np.repeat(padded(k, bars=12)[..., None], 3, axis=2))
    info = probe(tmp_path / "v.mp4")
    survey = survey_video(info)
    assert survey.brightness > 60  # of the picture, not of the bars
    crop = _crop(info, survey)
    assert crop[::2] == (0, 160) and "are cut off, 160×" in capsys.readouterr().err
    frame = next(iter(Clip(info, 0.0, 1.0, crop[2] // 2, crop[3] // 2, crop).frames()))
    assert frame.shape == (crop[3] // 2, 80, 3) and frame.mean((1, 2)).min() > 60


def test_a_dark_noisy_video_is_warned_of(tmp_path):
    rng = np.random.default_rng(0)
    for name, noise in (("clean", 0.0), ("dark", 9.0)):
        with VideoWriter(
            tmp_path / f"{name}.mp4", 160, 90, sound=(np.full(60 * 640, 0.1, np.float32), 16000)
        ) as writer:
            for _ in range(60):
                picture = padded(0)[..., None] * 0.2 + rng.normal(0, 1, (90, 160, 3)) * noise
                writer.write(np.clip(picture, 0, 255).astype(np.uint8))
        survey = survey_video(probe(tmp_path / f"{name}.mp4"))
        failed = [check.name for check in video_checks(survey, 25.0, 256, 256) if not check.ok]
        assert ("noise" in failed) == (noise > 0)


def test_a_head_needs_room_in_the_picture():
    points = np.zeros((4, 478, 2))
    points[:, 10], points[:, 152], points[:, 234], points[:, 454] = (128, 60), (128, 200), (70, 130), (186, 130)
    assert share_cut(points, 256) == 0.0
    assert share_cut(points - (0, 40), 256) == 1.0  # above
    assert share_cut(points, 190) == 1.0  # beside


@pytest.mark.parametrize(
    ("name", "cuts", "content"),
    [
        ("cases/dissolve.mp4", 1, None),
        ("cases/blurred_sides.mp4", 0, (0.345, 0.0, 0.655, 1.0)),
        ("cases/sun_4s.mp4", 0, None),
        ("cases/low_light.mp4", 0, None),
        ("cases/big_motion_lp_d12.mp4", 0, None),
        ("clips/long_hair_8s_512.mp4", 0, None),
    ],
)
def test_recordings(name, cuts, content):
    if "ADNERF_TEST_DATA" not in os.environ:
        pytest.skip("needs the recordings in ADNERF_TEST_DATA")
    survey = survey_video(probe(pathlib.Path(os.environ["ADNERF_TEST_DATA"]) / name))
    assert len(survey.cuts) == cuts and (survey.left_out > 0) == (cuts > 0)
    assert survey.content == (content and pytest.approx(content, abs=0.01))
    assert survey.duration == pytest.approx(3.04 if cuts else survey.frames / 25, abs=0.2)
    assert (survey.noise > 0.04) == ("low_light" in name)
