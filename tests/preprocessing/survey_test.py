"""The survey: cuts, camera, light and sound, of synthetic videos and of real ones."""

import json
import os
import pathlib
import re

import cv2
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.media.video import VideoWriter, probe
from adnerf_jax.preprocessing import pipeline
from adnerf_jax.preprocessing.__main__ import main
from adnerf_jax.preprocessing.shots import find_cuts
from adnerf_jax.preprocessing.survey import Survey, survey_video

SIZE = (96, 128)  # height, width


def wall(seed, size=SIZE):
    """A textured picture."""
    noise = np.random.default_rng(seed).uniform(0, 255, (size[0] + 64, size[1] + 64, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def film(path, frames, wall_of=lambda k: 0, shift=lambda k: 0, light=lambda k: 1.0, loudness=0.1, size=SIZE):
    """A disc that nods in front of a wall, and a tone: 200 Hz in frames with an even `wall_of`, else 800 Hz."""
    walls = {}
    height, width = size
    pitch = np.repeat([200.0 if wall_of(k) % 2 == 0 else 800.0 for k in range(frames)], 640)
    tone = loudness * np.sin(2 * np.pi * np.cumsum(pitch) / 16000).astype(np.float32)
    with VideoWriter(path, width, height, sound=(tone, 16000)) as writer:
        for k in range(frames):
            picture = walls.setdefault(wall_of(k), wall(wall_of(k), size))
            picture = picture[32 : 32 + height, 32 + shift(k) : 32 + shift(k) + width].copy()
            centre = (width // 2 + round(4 * np.sin(k / 5)), height * 3 // 5)
            cv2.circle(picture, centre, height // 4, (220, 170, 140), -1)
            writer.write(np.clip(picture * light(k), 0, 255).astype(np.uint8))
    return path


def survey_of(path):
    return survey_video(probe(path))


def test_a_static_camera_in_constant_light_passes(tmp_path):
    survey = survey_of(film(tmp_path / "v.mp4", 60))
    assert survey.cuts == () and (survey.start, survey.duration) == (0.0, 2.4) and survey.frames == 60
    assert survey.camera_motion < 0.002 and survey.light_change < 0.05
    assert survey.sound_level == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.5)  # AAC
    assert Survey.from_json(json.loads(json.dumps(survey.to_json()))) == survey


def test_a_moving_camera_is_measured(tmp_path):
    pan = survey_of(film(tmp_path / "pan.mp4", 75, shift=lambda k: k // 4))  # 6 of 128 pixels a second
    assert pan.camera_motion == pytest.approx(6.25 / 128, rel=0.2) and pan.cuts == ()


def test_a_moving_camera_causes_a_warning_with_its_motion(tmp_path, nets, capsys):
    video = film(tmp_path / "pan.mp4", 75, shift=lambda k: k // 4)
    assert main(["--video", str(video), "--out", str(tmp_path / "d"), "--speech", "logmel"]) == 0
    warning = re.search(
        r"report: camera motion ([\d.]+) % of the width per second: put .* tripod", capsys.readouterr().err
    )
    assert float(warning[1]) == pytest.approx(100 * 6.25 / 128, rel=0.2)


def test_changing_light_is_measured_and_is_not_a_cut(tmp_path):
    flicker = survey_of(film(tmp_path / "light.mp4", 60, light=lambda k: 0.6 if k > 30 else 1.0))
    assert flicker.light_change > 0.3 and flicker.cuts == ()


def test_hard_cuts_are_found_and_flashes_are_not():
    steady = np.tile([2.0, 0.05, 3.0], (60, 1))
    cut, flash = steady.copy(), steady.copy()
    cut[30] = flash[30] = flash[31] = [40.0, 0.9, 40.0]
    flash[30:32, 2] = 3.0
    assert find_cuts(cut).tolist() == [30] and find_cuts(flash).tolist() == []
    moving = np.tile([20.0, 0.4, 25.0], (60, 1))
    assert find_cuts(moving).tolist() == []


def test_the_longest_shot_is_chosen(tmp_path):
    survey = survey_of(film(tmp_path / "v.mp4", 100, wall_of=lambda k: 0 if k < 30 else 1))
    assert survey.cuts == (1.2,) and (survey.start, survey.duration) == (1.2, 2.8)
    assert survey_of(film(tmp_path / "w.mp4", 100, wall_of=lambda k: k // 55)).duration == 2.2


def fails(capsys, *argv):
    assert main([str(a) for a in argv]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_silence_a_short_shot_and_a_small_side_are_refused_first(tmp_path, capsys):
    out = tmp_path / "d"
    silent = film(tmp_path / "silent.mp4", 60, loudness=0.0)
    assert "is silent" in fails(capsys, "--video", silent, "--out", out)
    voice_over = np.repeat([0.1, 0.0], [40 * 640, 60 * 640])  # then the person, without sound
    mute = film(tmp_path / "mute.mp4", 100, wall_of=lambda k: int(k >= 40), loudness=voice_over)
    assert "is silent" in fails(capsys, "--video", mute, "--out", out)
    cut = film(tmp_path / "cut.mp4", 60, wall_of=lambda k: k // 35)
    assert "its longest shot lasts 1.4 s: give at least 2 s" in fails(capsys, "--video", cut, "--out", out)
    assert "--max_side is 10: give at least 64 pixels" in fails(capsys, "--video", cut, "--out", out, "--max_side", 10)
    assert not out.exists()


@pytest.mark.parametrize("name", ["obama/obama_20s_450.mp4", "lieu/lieu_60s_256.mp4"])
def test_real_portraits_are_one_shot_of_a_static_camera(name):
    if "ADNERF_TEST_DATA" not in os.environ:
        pytest.skip("needs the recordings in ADNERF_TEST_DATA")
    survey = survey_of(pathlib.Path(os.environ["ADNERF_TEST_DATA"]) / name)
    assert survey.cuts == () and survey.camera_motion < 0.004 and not survey.silent and survey.light_change < 0.15


def test_the_steps_get_only_the_shot_and_downscaled_frames(tmp_path, monkeypatch, capsys):
    """The clip's frames and sound are those of the longest shot."""
    video = film(tmp_path / "v.mp4", 100, wall_of=lambda k: 0 if k < 30 else 1, size=(200, 300))
    jobs = []

    def stop(job):
        jobs.append(job)
        raise UserError("seen enough")

    monkeypatch.setattr(pipeline, "make_steps", stop)
    assert main(["--video", str(video), "--out", str(tmp_path / "d"), "--speech", "logmel", "--max_side", "150"]) == 2
    assert "only the longest shot is used, from 1.20 to 4.00 s" in capsys.readouterr().err
    clip = jobs[0].clip
    assert (clip.width, clip.height, clip.expected_frames) == (150, 100, 70) and jobs[0].focal == 8 / 3 * 150
    frames = list(clip.frames())
    assert len(frames) == 70 and frames[0].shape == (100, 150, 3)
    spectrum = np.abs(np.fft.rfft(clip.sound(SAMPLE_RATE, 70)))
    assert spectrum.argmax() * SAMPLE_RATE / (70 * 640) == pytest.approx(800, abs=2)
