"""Tracks that are measured from a dataset's own files."""

import numpy as np

from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.data.tracks import Clip, read_loudness
from adnerf_jax.media.audio import write_wav

FRAMES = 20


def loudness(folder) -> np.ndarray | None:
    return read_loudness(Clip(folder, FRAMES, FRAMES - 1))


def test_the_loudness_is_that_around_the_time_of_each_frame(tmp_path):
    samples = np.zeros(FRAMES * 640, np.float32)
    tone = 0.1 * np.sin(2 * np.pi * 400 * np.arange(1280) / SAMPLE_RATE)  # whole periods in 40 ms
    samples[5 * 640 - 320 : 7 * 640 - 320] = tone  # from 20 ms before frame 5 to 20 ms after frame 6
    write_wav(tmp_path / schema.SOUND, samples, SAMPLE_RATE)
    level = loudness(tmp_path)
    assert level.shape == (FRAMES, 1) and level.dtype == np.float32
    np.testing.assert_allclose(level[5:7], 10 * np.log10(0.1**2 / 2), atol=0.1)
    assert (np.delete(level, [5, 6]) < -90).all()


def test_after_the_end_of_a_short_sound_there_is_silence(tmp_path):
    write_wav(tmp_path / schema.SOUND, np.full(3 * 640, 0.5, np.float32), SAMPLE_RATE)
    level = loudness(tmp_path)
    assert level[1:3].min() > -10 and level[4:].max() < -90


def test_without_a_readable_sound_there_is_no_loudness(tmp_path):
    assert loudness(tmp_path) is None
    (tmp_path / schema.SOUND).write_bytes(b"no sound")
    assert loudness(tmp_path) is None
