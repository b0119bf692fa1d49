"""Speech input: files of every kind, arrays, chunks, and their speech windows."""

import itertools
import types

import av
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import neighbours_in_time
from adnerf_jax.inference.speech_input import (
    attention_windows,
    check_features,
    count_frames,
    sound_blocks,
    speech_input,
)
from adnerf_jax.media.audio import mono_floats, write_wav
from adnerf_jax.speech import features as speech

RATE = 16000
TIME = np.arange(round(0.7 * RATE)) / RATE
TONE = (0.3 * np.sin(2 * np.pi * 300 * TIME) * np.sin(2 * np.pi * 4 * TIME)).astype(np.float32)
STAGE = types.SimpleNamespace(person=types.SimpleNamespace(speech="logmel", channels=80))


def windows_of(what, **options) -> np.ndarray:
    """All windows [N, 8, 16, 80]."""
    return np.stack(list(speech_input(STAGE, what, **options).windows()))


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4, 5, 8, 20])
def test_attention_windows_are_the_neighbours_of_each_frame(frames):
    windows = np.random.default_rng(frames).normal(size=(frames, 16, 3)).astype(np.float32)
    streamed = list(attention_windows(iter(windows)))
    assert len(streamed) == frames
    if frames:
        np.testing.assert_array_equal(streamed, windows[neighbours_in_time(frames)])


@pytest.mark.parametrize("seconds", [0.1, 1.37])
def test_a_streamed_sound_gives_what_the_whole_sound_gives(tmp_path, seconds):
    sound = tmp_path / "speech.wav"
    samples = 0.1 * np.random.default_rng(0).normal(size=round(seconds * 16000)).astype(np.float32)
    write_wav(sound, samples, 16000)
    encoder = speech.get_encoder("logmel")
    streamed = np.stack(list(attention_windows(speech.stream_windows(encoder, sound_blocks(sound, 0.0, None)))))
    read = np.concatenate(list(sound_blocks(sound, 0.0, None)))
    frames = count_frames(sound, 0.0, None)
    whole = speech.speech_windows(encoder, read, frames)[neighbours_in_time(frames)]
    assert frames == -(-len(samples) // 640)
    np.testing.assert_allclose(streamed, whole, atol=1e-5)  # chunks in other batches: another order of sums


def test_a_silent_sound_warns_once(tmp_path, capsys):
    write_wav(tmp_path / "s.wav", 0.0005 * TONE, RATE)
    write_wav(tmp_path / "loud.wav", TONE, RATE)
    for what, said in ((tmp_path / "s.wav", f"{tmp_path / 's.wav'}"), (0.0005 * TONE, "the sound")):
        speech_input(STAGE, what)
        assert (
            capsys.readouterr().err == f"warning: {said} is silent: the lips will stay at rest; check the recording\n"
        )
    speech_input(STAGE, tmp_path / "loud.wav")
    assert not capsys.readouterr().err


def test_a_given_track_is_spoken_and_kept_for_the_video(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        for _ in range(2):
            out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for stream, scale in zip(out.streams.audio, (0.5, 1.0), strict=True):
            frame = av.AudioFrame.from_ndarray(np.round(32767 * scale * TONE).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            out.mux(stream.encode(frame))
    taken = [speech_input(STAGE, tmp_path / "two.mkv", audio_track=track) for track in (None, 1, 2)]
    assert [one.audio_track for one in taken] == [None, 1, 2]
    first, quiet, loud = (np.stack(list(one.windows())) for one in taken)
    np.testing.assert_array_equal(first, quiet)
    assert np.abs(loud - quiet).max() > 0.1
    with pytest.raises(UserError, match="no sound track 3: choose one of 1 to 2"):
        speech_input(STAGE, tmp_path / "two.mkv", audio_track=3)


def test_incomplete_frames_count(tmp_path):
    sound = tmp_path / "s.wav"
    write_wav(sound, TONE[:4800], RATE)  # 7.5 frames
    assert count_frames(sound, 0.0, None) == 8
    assert count_frames(sound, 0.1, None) == 5
    assert count_frames(sound, 0.0, 0.12) == 3
    with pytest.raises(UserError, match="has no sound from 9 s on"):
        count_frames(sound, 9.0, None)


def test_features_of_another_encoder_are_refused():
    stage = types.SimpleNamespace(person=types.SimpleNamespace(channels=384))
    with pytest.raises(UserError, match="trained on speech features with 384 channels, logmel features have 80"):
        check_features(stage, "logmel", 80)


def test_zeros_past_the_ends_of_a_speech():
    windows = np.random.default_rng(3).normal(size=(5, 16, 3)).astype(np.float32)
    streamed = np.stack(list(attention_windows(iter(windows), zero_padded=True)))
    rows = neighbours_in_time(5, zero_padded=True)
    np.testing.assert_array_equal(streamed, windows[rows] * (rows >= 0)[..., None, None])


def test_windows_beyond_the_sound_are_those_of_silence():
    encoder = speech.get_encoder("logmel")
    quiet = speech.speech_windows(encoder, np.zeros(RATE, np.float32), 5)[2]
    windows = windows_of(TONE)
    assert len(windows) == 18
    np.testing.assert_allclose(windows[0][0][:14], quiet[:14], atol=1e-5)  # up to 60 ms before the sound
    np.testing.assert_allclose(windows[-1][7][8:], quiet[8:], atol=1e-5)
    longer = np.concatenate([np.zeros(4 * 640, np.float32), TONE, np.zeros(3 * 640, np.float32)])
    # The chunks differ, and so does the order of sums; the features are those of the same sound.
    np.testing.assert_allclose(windows_of(longer)[4 : 4 + 17], windows[:17], atol=1e-4)
    zeros = windows_of(TONE, zero_padded=True)
    assert (zeros[0][:4] == 0).all() and (zeros[0][4] != 0).any()


@pytest.mark.parametrize("cut", [1, 333, 640, 5000, 100_000])
def test_chunks_of_any_length_give_the_same_bits_as_the_file(tmp_path, cut):
    write_wav(tmp_path / "s.wav", TONE, RATE)
    pcm = np.round(TONE * 32767).astype(np.int16)
    if cut == 1:
        pcm = pcm[:2000]
        write_wav(tmp_path / "s.wav", TONE[:2000], RATE)
    file = windows_of(tmp_path / "s.wav")
    np.testing.assert_array_equal(windows_of(pcm[i : i + cut] for i in range(0, len(pcm), cut)), file)
    np.testing.assert_array_equal(windows_of(pcm), file)


def test_a_frame_needs_no_more_than_the_look_ahead():
    encoder = speech.get_encoder("logmel")
    bound = speech.look_ahead(encoder)
    assert bound == pytest.approx(0.76 + 0.1)
    given = 0

    def chunks():
        nonlocal given
        while True:
            given += 64
            yield np.zeros(64, np.float32)

    frames = speech_input(STAGE, chunks()).windows()
    waits = []
    for i, _ in enumerate(itertools.islice(frames, 60)):
        waits.append(given / RATE - i / 25)
    # The bound is reached, not only kept; the chunks add 4 ms.
    assert max(waits) <= bound + 0.004 + 1e-9 and max(waits) > bound - 0.02


def encode_sound(path, codec: str, rate: int, layout: str, seconds: float = 0.4):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        channels = stream.layout.nb_channels
        tone = (8000 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(tone[None], channels, axis=1), "s16", layout)
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("rate", "layout"), [(8000, "mono"), (192_000, "stereo"), (48_000, "7.1"), (44_100, "5.1")])
def test_any_rate_and_any_number_of_channels(tmp_path, rate, layout):
    path = encode_sound(tmp_path / "s.wav", "pcm_s16le", rate, layout)
    windows = windows_of(path)
    assert windows.shape == (10, 8, 16, 80) and np.isfinite(windows).all()
    assert windows[5].max() > windows[0][0].max() + 0.1  # the tone is in the features


def test_arrays_at_any_rate_and_parts_of_them():
    stereo = np.stack([TONE, TONE])
    np.testing.assert_allclose(windows_of(stereo), windows_of(TONE), atol=1e-6)
    fast = np.repeat(TONE, 3)
    assert len(windows_of((fast, 48_000))) == 18
    assert len(windows_of(TONE, start=0.2, duration=0.2)) == 5


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, "nothing to say"),
        (np.zeros(0, np.float32), "hold no sound"),
        (np.zeros((5, 2, 3), np.float32), r"not float32 \[5, 2, 3\]"),
        (np.zeros((500, 2), np.float32), "channels last: transpose"),
        (np.zeros(5, np.int64), "float or int16"),
        (np.full(9, np.nan), "not finite"),
        ((np.zeros(9), 5), "a sample rate of 5 Hz: give 1000 to 768000"),
        ("gone.wav", "no such file: gone.wav"),
    ],
)
def test_invalid_speech(what, message):
    with pytest.raises(UserError, match=message):
        speech_input(STAGE, what)


@pytest.mark.parametrize("chunks", [[], [np.zeros(0, np.float32)]])
def test_a_stream_without_sound(chunks):
    with pytest.raises(UserError, match="no sound was received"):
        list(speech_input(STAGE, iter(chunks)).windows())


def test_empty_and_corrupt_files(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("no sound " * 99)
    write_wav(tmp_path / "short.wav", np.zeros(0, np.float32), RATE)
    for name in ("empty.wav", "text.mp3", "short.wav"):
        with pytest.raises(UserError, match=name):
            speech_input(STAGE, tmp_path / name)


@pytest.mark.parametrize(
    "times",
    [
        dict(start=-1.0),
        dict(start=np.inf),
        dict(start=np.nan),
        dict(duration=0.0),
        dict(duration=-2.0),
        dict(duration=np.inf),
        dict(duration=np.nan),
    ],
)
def test_invalid_start_and_duration(times):
    with pytest.raises(UserError, match="s: it must be (0 or later|longer than 0)"):
        speech_input(STAGE, TONE, **times)


def test_sixteen_bits_are_read_as_files_are():
    np.testing.assert_array_equal(mono_floats(np.array([-32768, 16384], np.int16)), [-1.0, 0.5])
