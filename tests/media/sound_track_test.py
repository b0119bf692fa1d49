"""The track and the channels that are a file's sound, for every reader."""

import os
import pathlib

import av
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.media import sound_track as module
from adnerf_jax.media.audio import read_audio, read_blocks, write_wav
from adnerf_jax.media.sound_track import SoundTrack, sound_track
from adnerf_jax.media.video import VideoWriter

RATE = 16000
SPEECH = (0.3 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)).astype(np.float32)
OTHER = (0.3 * np.sin(2 * np.pi * 900 * np.arange(RATE) / RATE)).astype(np.float32)
SILENT = np.zeros_like(SPEECH)


def write_tracks(path, *tracks: np.ndarray, default: int | None = None) -> pathlib.Path:
    """A file with a track for each float32 [channels, T]; `default` is the index of the one marked so."""
    with av.open(str(path), "w") as out:
        layouts = {1: "mono", 2: "stereo", 6: "5.1"}
        streams = [out.add_stream("pcm_s16le", rate=RATE, layout=layouts[len(track)]) for track in tracks]
        for k, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if k == default else av.stream.Disposition.dub
        for stream, samples in zip(streams, tracks, strict=True):
            packed = np.round(samples * 32767).astype(np.int16).T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), "s16", layouts[len(samples)])
            frame.sample_rate, frame.pts = RATE, 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def pitch(samples: np.ndarray) -> int:
    """Hz of the strongest component of a second of sound; 0 for silence."""
    return int(np.argmax(np.abs(np.fft.rfft(samples[:RATE])))) if np.abs(samples).max() > 1e-3 else 0


@pytest.mark.parametrize(
    ("tracks", "default", "heard", "said"),
    [
        ((SPEECH, OTHER), None, 300, "track 1 of 2"),
        ((OTHER, SPEECH), 1, 300, "track 2 of 2 of {} is used, which is marked as default"),
        ((SILENT, SPEECH), 0, 300, "track 2 of 2 of {} is used, track 1 is silent"),
        ((SPEECH, OTHER, SILENT), 2, 300, "track 1 of 3 of {} is used, track 3 is silent"),
        ((SILENT, SILENT), None, 0, "track 1 of 2"),
        ((SPEECH,), None, 300, ""),
    ],
)
def test_the_default_track_or_the_first_that_is_not_silent_is_used(tmp_path, capsys, tracks, default, heard, said):
    path = write_tracks(tmp_path / "a.mkv", *(track[None] for track in tracks), default=default)
    assert pitch(read_audio(path)) == pitch(read_audio(path)) == heard
    printed = capsys.readouterr().err
    assert said.format(path) in printed and printed.count("sound:") == bool(said)


def test_a_given_track_is_used(tmp_path):
    path = write_tracks(tmp_path / "a.mkv", SPEECH[None], OTHER[None])
    assert [pitch(read_audio(path, track=track)) for track in (1, 2)] == [300, 900]
    for track in (0, 3):
        with pytest.raises(UserError, match=f"no sound track {track}: choose one of 1 to 2"):
            read_audio(path, track=track)


@pytest.mark.parametrize(
    ("channels", "channel"),
    [
        ((0.9 * SPEECH, -SPEECH), 1),
        ((SPEECH, -0.98 * SPEECH), 0),
        ((SPEECH, SPEECH), None),
        ((SPEECH, SILENT), None),
        ((SPEECH, OTHER), None),
        ((SILENT, SILENT), None),
        ((SILENT, SILENT, SPEECH, SILENT, SILENT, SILENT), None),
        ((SILENT, SILENT, SILENT, SPEECH, SILENT, SILENT), None),  # the subwoofer's
    ],
)
def test_channels_in_opposite_phase_are_not_mixed(tmp_path, capsys, channels, channel):
    path = write_tracks(tmp_path / "a.wav", np.stack(channels))
    assert sound_track(path) == SoundTrack(0, channel)
    line = "" if channel is None else f"sound: the channels of {path} cancel each other; channel {channel + 1} alone"
    sound_track(path)
    assert line in (printed := capsys.readouterr().err) and printed.count("cancel") == (channel is not None)


def test_every_reader_hears_the_same(tmp_path):
    path = write_tracks(tmp_path / "a.mkv", SILENT[None], np.stack([SPEECH, -SPEECH]), default=0)
    np.testing.assert_allclose(read_audio(path), SPEECH, atol=1e-3)
    both = np.concatenate(list(read_blocks(path, RATE, 2)), axis=1)
    assert [pitch(one) for one in both] == [300, 300]
    with VideoWriter(tmp_path / "v.mp4", 32, 32, sound=path) as writer:
        for _ in range(25):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    assert pitch(read_audio(tmp_path / "v.mp4")) == 300


def test_one_track_of_one_channel_takes_no_pass(tmp_path, monkeypatch):
    write_wav(tmp_path / "a.wav", SPEECH, RATE)
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("decoded once more"))
    assert len(read_audio(tmp_path / "a.wav")) == RATE


def test_a_changed_file_is_measured_again(tmp_path):
    path = write_tracks(tmp_path / "a.mkv", SILENT[None], SPEECH[None])
    assert sound_track(path).index == 1
    write_tracks(path, SPEECH[None], np.concatenate([SILENT, SILENT])[None])
    assert sound_track(path).index == 0


@pytest.mark.parametrize("name", ["antiphase.mp4", "anti.wav", "obs_two_tracks.mkv"])
def test_cases_are_heard(name):
    root = os.environ.get("ADNERF_TEST_DATA")
    if not root or not (pathlib.Path(root) / "cases").exists():
        pytest.skip("ADNERF_TEST_DATA does not point to the cases")
    assert np.sqrt(np.mean(np.square(read_audio(pathlib.Path(root) / "cases" / name)))) > 0.05
