"""Joined files and restarted streams: time stamps that fall back go on, for picture and sound alike."""

import os
import pathlib

import av
import numpy as np
import pytest
from clips import clicks, onset

from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.container import Clock
from adnerf_jax.media.video import probe, read_frames

RATE = 48000
SIDE = 32


def write_part(path, seconds: float, at: float, codec: str = "libopus", picture: bool = True) -> None:
    """A file with a flash and a click at `at` seconds."""
    samples = clicks(RATE, seconds, at)
    with av.open(str(path), "w") as out:
        audio = out.add_stream(codec, rate=RATE, layout="mono")
        video = out.add_stream("mpeg2video", rate=25, width=SIDE, height=SIDE) if picture else None
        if video is not None:
            video.pix_fmt = "yuv420p"
            for k in range(round(seconds * 25)):
                grey = np.full((SIDE, SIDE, 3), 255 if k == round(at * 25) else 0, np.uint8)
                out.mux(video.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
            out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(
            audio.codec_context.format.name, "mono", RATE, frame_size=audio.codec_context.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))


def join(path, *parts) -> pathlib.Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_joined_files_last_as_long_as_their_parts(tmp_path, suffix):
    parts = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    write_part(parts[0], 2.0, 1.0, "mp2")
    write_part(parts[1], 1.6, 0.8, "mp2")
    path = join(tmp_path / f"joined.{suffix}", *parts)
    frames = list(read_frames(path))
    assert abs(len(frames) - 90) <= 2 and abs(probe(path).duration - 3.6) < 0.1
    flashes = [k / 25 for k, frame in enumerate(frames) if frame.mean() > 128]
    sound = read_audio(path, RATE)
    at = onset(sound, RATE), 2 + onset(sound[2 * RATE :], RATE)
    assert len(flashes) == 2 and np.abs(np.subtract(flashes, at)).max() < 0.06
    assert abs(flashes[1] - 2.8) < 0.09 and abs(len(sound) / RATE - 3.6) < 0.1


def test_chained_sound_lasts_as_long_as_its_parts(tmp_path):
    parts = [tmp_path / f"{name}.ogg" for name in "ab"]
    write_part(parts[0], 2.0, 1.0, picture=False)
    write_part(parts[1], 1.6, 0.8, picture=False)
    sound = read_audio(join(tmp_path / "chained.ogg", *parts), RATE)
    assert abs(len(sound) / RATE - 3.6) < 0.06
    assert abs(onset(sound[2 * RATE :], RATE) - 0.8) < 0.06


def offsets(*stamps: float) -> list[float]:
    clock = Clock()
    return [clock.offset(0, stamp, 0.04) for stamp in stamps]


def test_small_steps_back_and_single_damaged_stamps_are_no_restart():
    assert offsets(0.0, 0.4, 0.2, 0.6) == [0.0] * 4
    assert offsets(8.0, 8.04, 3.0, 8.12)[-1] == 0.0
    assert offsets(8.0, 8.04, 12.0, 8.12, 8.16)[-2:] == [0.0] * 2
    assert offsets(8.0, 8.04, 500.0, 8.12, 8.16)[-2:] == [0.0] * 2
    np.testing.assert_allclose(offsets(8.0, 8.04, 0.0, 0.04, 0.08), [0.0, 0.0, 8.08, 8.08, 8.08])


def test_streams_of_a_part_share_their_offset():
    clock = Clock()
    for stamp in (0.0, 1.0, 2.0):
        assert clock.offset(0, stamp, 1.0) == 0.0
        assert clock.offset(1, stamp, 1.05) == 0.0
    assert clock.offset(0, 0.0, 1.0) == 3.0
    assert clock.offset(1, 3.05, 1.05) == 0.0  # the tail of the first part
    assert clock.offset(1, 0.1, 1.05) == 3.0
    assert clock.offset(0, 1.0, 1.0) == 3.0


@pytest.mark.parametrize("name", ["cat_ts.ts", "chained.ogg"])
def test_joined_cases_are_read_whole(name):
    root = os.environ.get("ADNERF_TEST_DATA")
    if not root or not (pathlib.Path(root) / "cases").exists():
        pytest.skip("ADNERF_TEST_DATA does not point to the cases")
    path = pathlib.Path(root) / "cases" / name
    assert abs(len(read_audio(path)) / 16000 - 6) < 0.06
    if path.suffix == ".ts":
        assert abs(sum(1 for _ in read_frames(path)) - 150) <= 1 and abs(probe(path).duration - 6) < 0.06
