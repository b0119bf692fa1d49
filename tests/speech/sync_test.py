"""Measurement of the offset between sound and lips."""

import os
import pathlib

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from adnerf_jax.face.landmarks import detect_video
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import read_frames
from adnerf_jax.preprocessing.synthetic_subject.film import make_subject
from adnerf_jax.speech import features as speech
from adnerf_jax.speech.lips import lip_shapes
from adnerf_jax.speech.sync import LipModel, measure_offset, moved_earlier

FRAMES = 300


def clip(lag: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Speech windows of 20 channels, and lips that depend on six of them; the sound is `lag` frames late."""
    rng = np.random.default_rng(seed)
    features = gaussian_filter1d(rng.normal(size=(2 * FRAMES + 100, 20)), 3.0, axis=0) * 4
    at = 50 + 2 * np.arange(FRAMES)
    lips = features[at + 2 * lag, :6] @ rng.normal(size=(6, 12)) + 0.3 * rng.normal(size=(FRAMES, 12))
    return features[at[:, None] + np.arange(-8, 8)], lips


@pytest.mark.parametrize("lag", [-8, -6, -4, -2, 0, 2, 4, 6, 8])
def test_a_known_offset_is_found(lag):
    windows, lips = clip(lag)
    found = measure_offset(windows, lips, np.ones(FRAMES, bool))
    assert found.clear and found.seconds == pytest.approx(lag / 25, abs=0.02)  # half a frame
    assert found.curve.shape == (31,) and found.curve.argmax() == 15 + lag


def test_frames_without_a_face_are_left_out():
    windows, lips = clip(3)
    valid = np.ones(FRAMES, bool)
    valid[100:140] = False
    lips[100:140] = np.nan
    assert measure_offset(windows, lips, valid).seconds == pytest.approx(3 / 25, abs=0.02)


def test_lips_unrelated_to_the_sound_have_no_clear_offset():
    windows, _ = clip(0)
    _, other = clip(0, seed=1)
    assert not measure_offset(windows, other, np.ones(FRAMES, bool)).clear


def test_a_short_clip_is_not_measured():
    windows, lips = clip(0)
    assert measure_offset(windows[:100], lips[:100], np.ones(100, bool)) is None


def test_lips_or_sound_that_never_change_are_not_measured():
    windows, lips = clip(0)
    assert measure_offset(windows, np.ones_like(lips), np.ones(FRAMES, bool)) is None
    assert measure_offset(np.ones_like(windows), lips, np.ones(FRAMES, bool)) is None


def known_person() -> tuple[np.ndarray, np.ndarray, LipModel]:
    """A synchronised clip, and the `LipModel` of its first 240 frames."""
    windows, lips = clip(0)
    return windows, lips, LipModel.fit(windows, lips, np.arange(240))


@pytest.mark.parametrize("shift", [-8, -5, 0, 5, 8])
def test_a_lip_model_measures_clips_of_one_second(shift):
    windows, lips, model = known_person()
    rows = np.arange(255, 285)
    late = windows[np.clip(np.arange(FRAMES) - shift, 0, FRAMES - 1)]
    found = model.measure_offset(late, lips[rows], rows)
    assert found.fit > 0.6 and found.seconds == pytest.approx(shift / 25, abs=0.04)  # a frame
    assert found.curve.shape == (21,)


def test_a_lip_model_ignores_the_amplitude_and_handles_missing_frames():
    windows, lips, model = known_person()
    rows = np.delete(np.arange(245, 295), [7, 8, 20])
    found = model.measure_offset(windows, lips[rows], rows)
    less = model.measure_offset(windows, 0.3 * lips[rows] + 2.0, rows)
    assert found.seconds == pytest.approx(0, abs=0.02)
    assert (less.seconds, less.fit) == (pytest.approx(found.seconds), pytest.approx(found.fit))


def test_lips_of_other_speech_fit_badly():
    windows, lips, model = known_person()
    _, other = clip(0, seed=1)
    rows = np.arange(250, 300)
    found = model.measure_offset(windows, other[rows], rows)
    assert found.fit < 0.3 < 0.6 < model.measure_offset(windows, lips[rows], rows).fit


def test_a_lip_model_needs_enough_frames_and_motion():
    windows, lips, model = known_person()
    rows = np.arange(260, 290)
    assert LipModel.fit(windows, lips, np.arange(100)) is None
    assert LipModel.fit(windows, np.ones_like(lips), np.arange(240)) is None
    assert LipModel.fit(np.ones_like(windows), lips, np.arange(240)) is None
    assert model.measure_offset(windows, lips[rows[:19]], rows[:19]) is None
    assert model.measure_offset(windows, np.repeat(lips[:1], 30, 0), rows) is None
    assert model.measure_offset(np.ones_like(windows), lips[rows], rows) is None


def test_sound_is_moved_and_keeps_its_length():
    sound = np.arange(1.0, 11.0, dtype=np.float32)
    np.testing.assert_array_equal(moved_earlier(sound, 0.3, 10), [4, 5, 6, 7, 8, 9, 10, 0, 0, 0])
    np.testing.assert_array_equal(moved_earlier(sound, -0.2, 10), [0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(moved_earlier(sound, 0.0, 10), sound)
    np.testing.assert_array_equal(moved_earlier(sound, 2.0, 10), np.zeros(10))


@pytest.fixture(scope="module")
def recordings() -> pathlib.Path:
    """The folder with the real recordings."""
    root = os.environ.get("ADNERF_TEST_DATA")
    if not root:
        pytest.skip("ADNERF_TEST_DATA does not name the folder with the real recordings")
    return pathlib.Path(root)


@pytest.fixture(scope="module")
def found(recordings):
    """The landmarks of a recording, whose pictures another file has with late sound."""
    return detect_video(read_frames(recordings / "obama" / "obama_20s_450.mp4"))


@pytest.mark.parametrize(("name", "late"), [("obama_20s_450_late_sound.mp4", 0.24), ("obama_20s_450.mp4", 0.0)])
def test_a_real_recording(recordings, found, name, late):
    samples, lips = read_audio(recordings / "obama" / name, 16000), lip_shapes(found.points)

    def measured(sound):
        windows = speech.speech_windows(speech.get_encoder("whisper"), sound, len(found.valid))
        return measure_offset(windows, lips, found.valid)

    offset = measured(samples)
    assert offset.clear and offset.seconds == pytest.approx(late, abs=0.04)
    assert measured(moved_earlier(samples, offset.seconds, 16000)).seconds == pytest.approx(0, abs=0.04)


SHIFTS = (-8, -3, 0, 2, 7)


def recovered(video: pathlib.Path, duration: float | None = None) -> list[float]:
    """Measured offsets in frames after shifting the sound by `SHIFTS`, relative to the offset of the original clip."""
    found = detect_video(read_frames(video, duration=duration))
    samples = read_audio(video, 16000, duration=duration)
    encoder = speech.get_encoder("whisper")

    def offset(shift: int) -> float:
        late = moved_earlier(samples, -shift / 25, 16000)
        windows = speech.speech_windows(encoder, late, len(found.valid))
        return 25 * measure_offset(windows, lip_shapes(found.points), found.valid).seconds

    own = offset(0)
    return [offset(shift) - own if shift else 0.0 for shift in SHIFTS]


@pytest.mark.slow
def test_shifts_of_a_real_recording_are_recovered_within_a_frame(recordings):
    np.testing.assert_allclose(recovered(recordings / "lieu" / "lieu_60s_256.mp4", 24.0), SHIFTS, atol=1.0)


@pytest.mark.slow
def test_shifts_of_the_built_in_subject_are_recovered_within_a_frame(tmp_path):
    make_subject(tmp_path)
    np.testing.assert_allclose(recovered(tmp_path / "subject.mp4"), SHIFTS, atol=1.0)
