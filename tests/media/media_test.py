"""Video and audio: synchronisation, corrections on reading, formats on writing, and wrong files."""

import os
import pathlib
import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import LEVEL, SIZE, clicks, encode, grey, onset

from adnerf_jax.common.errors import UserError
from adnerf_jax.media.audio import read_audio, read_blocks, write_wav
from adnerf_jax.media.video import VideoWriter, probe, read_frames


def numbers(frames) -> list[int]:
    return [round((float(frame.mean()) - 10) / LEVEL) for frame in frames]


def write_video(path, count: int, size=(SIZE, SIZE), flash: int | None = None, **options) -> None:
    """`count` dark frames through `VideoWriter`, white at `flash`."""
    with VideoWriter(path, *size, **options) as out:
        for index in range(count):
            out.write(np.full((size[1], size[0], 3), 235 if index == flash else 20, np.uint8))


def track_ends(path) -> tuple[float, float]:
    """Ends of the video and the audio stream according to the file's index, seconds."""
    with av.open(str(path)) as container:
        streams = (container.streams.video[0], container.streams.audio[0])
        return tuple(float(((s.start_time or 0) + s.duration) * s.time_base) for s in streams)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_written_click_and_flash_are_read_back_together(tmp_path, rate):
    path = tmp_path / "clip.mp4"
    write_video(path, 50, flash=15, sound=(clicks(rate, 3.0, 0.6), rate))
    frames = list(read_frames(path))
    assert len(frames) == 50
    assert [i for i, frame in enumerate(frames) if frame.mean() > 200] == [15]
    # The encoder's priming of 1024 samples (21 ms) would show; what may remain is the smear of a burst.
    assert abs(onset(read_audio(path, 48000), 48000) - 0.6) < 0.005
    pictures, sound = track_ends(path)
    assert pictures == pytest.approx(2.0) and sound == pytest.approx(2.0, abs=0.022)  # one AAC frame


@pytest.mark.parametrize(
    ("suffix", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("m4a", "aac"), ("mkv", "aac")]
)
def test_sound_files_are_synchronised_in_the_video(tmp_path, suffix, codec):
    sound, path = tmp_path / f"speech.{suffix}", tmp_path / "clip.mp4"
    encode(sound, sound=(np.stack([clicks(44100, 2.0, 1.1)] * 2), 44100), codec=codec)
    assert abs(onset(read_audio(sound, 48000), 48000) - 1.1) < 0.003
    write_video(path, 25, sound=sound, sound_start=0.5)
    assert abs(onset(read_audio(path, 48000), 48000) - 0.6) < 0.005


def test_short_sound_is_followed_by_silence(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, 37, sound=(np.full(16000, 0.5, np.float32), 16000), duration=0.5)
    sound = read_audio(path)
    assert abs(sound[8800:]).max() < 0.01 < abs(sound[:7200]).min()
    pictures, end = track_ends(path)
    assert pictures == pytest.approx(37 / 25) and end == pytest.approx(37 / 25, abs=0.022)


def test_silent_video_has_no_sound_track(tmp_path):
    write_video(tmp_path / "clip.mp4", 3)
    assert not probe(tmp_path / "clip.mp4").has_audio


def test_colours_are_preserved_and_tagged(tmp_path):
    path = tmp_path / "clip.mp4"
    picture = np.zeros((60, 80, 3), np.uint8)
    for row, colour in enumerate([(224, 172, 140), (200, 30, 40), (30, 60, 190), (128, 128, 128)]):
        picture[15 * row : 15 * row + 15] = colour
    with VideoWriter(path, 80, 60) as out:
        for _ in range(5):
            out.write(picture)
    frame = list(read_frames(path))[2]
    inner = np.arange(60) % 15
    inner = (inner > 3) & (inner < 11)  # chroma is halved, so edges mix
    assert np.abs(frame[inner].astype(int) - picture[inner]).max() <= 3  # one step of 8-bit YUV and the quantiser
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.pix_fmt == "yuv420p"


def test_odd_size_repeats_the_last_row_and_column(tmp_path):
    path = tmp_path / "clip.mp4"
    picture = np.random.default_rng(0).integers(60, 200, (1, 1, 3)).astype(np.uint8).repeat(33, 0).repeat(47, 1)
    with VideoWriter(path, 47, 33) as out:
        out.write(picture)
    (frame,) = read_frames(path)
    assert frame.shape == (34, 48, 3)
    assert np.abs(frame.astype(int) - picture[0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_variable_rate_is_resampled_by_time(tmp_path, suffix):
    path = tmp_path / f"phone.{suffix}"
    times = np.round(np.cumsum([0.2, 0.033, 0.034, 0.033, 0.2, 0.01, 0.01, 0.08, 0.043, 0.037, 0.04, 0.12, 0.04]), 3)
    encode(path, times)
    got = numbers(read_frames(path))
    clock = np.arange(len(got)) / 25
    expected = [int(np.sum(times - times[0] <= t + 1e-6)) - 1 for t in clock]
    assert got == expected
    assert len(got) == pytest.approx((times[-1] - times[0] + 0.04) * 25, abs=1.01)


def test_thirty_frames_per_second_are_resampled_to_twenty_five(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, SIZE, SIZE, fps=30) as out:
        for index in range(24):
            out.write(grey(index))
    assert numbers(read_frames(path)) == [k * 30 // 25 for k in range(20)]
    assert numbers(read_frames(path, fps=30)) == list(range(24))
    info = probe(path)
    assert (info.fps, info.frames, info.duration) == (30.0, 24, pytest.approx(0.8))


def test_start_and_duration_select_frames(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, SIZE, SIZE) as out:
        for index in range(20):
            out.write(grey(index))
    assert numbers(read_frames(path, start=0.2, duration=0.4)) == list(range(5, 15))
    assert numbers(read_frames(path, start=0.72)) == [18, 19]
    assert numbers(read_frames(path, start=0.7)) == [17, 18, 19]  # between two pictures the earlier one is on screen
    assert numbers(read_frames(path, start=5.0)) == []


@pytest.mark.parametrize(
    ("turn", "undo"),
    [
        ({"degrees": 90}, lambda p: np.rot90(p, 1)),
        ({"degrees": -90}, lambda p: np.rot90(p, -1)),
        ({"degrees": 180}, lambda p: np.rot90(p, 2)),
        ({"degrees": 0, "hflip": True}, lambda p: p[:, ::-1]),
    ],
)
def test_rotation_is_undone(tmp_path, turn, undo):
    path = tmp_path / "phone.mp4"
    picture = np.full((48, 96, 3), 40, np.uint8)
    picture[:24, :48] = 220  # the upper left quarter
    encode(path, [0.0, 0.04], [picture, picture], rotate=turn)
    frame = next(read_frames(path))
    expected = undo(picture)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 4
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(("picture_at", "sound_at"), [(0.0, 0.36), (0.36, 0.0), (0.1, 0.1)])
def test_time_zero_of_the_sound_is_the_first_picture(tmp_path, suffix, picture_at, sound_at):
    path = tmp_path / f"clip.{suffix}"
    times = picture_at + np.arange(50) / 25
    pictures = [np.full((SIZE, SIZE, 3), 235 if i == 30 else 20, np.uint8) for i in range(50)]
    burst = picture_at + 1.2 - sound_at  # with the flash
    sound = clicks(48000, 2.0, burst)[None]
    encode(path, times, pictures, (sound, 48000), (sound_at,), codec="aac")
    assert [i for i, frame in enumerate(read_frames(path)) if frame.mean() > 200] == [30]
    assert abs(onset(read_audio(path, 48000), 48000) - 1.2) < 0.005
    later = read_audio(path, 48000, start=1.0, duration=0.5)
    assert len(later) == 24000 and abs(onset(later, 48000) - 0.2) < 0.005


def test_a_gap_in_the_sound_is_kept(tmp_path):
    path = tmp_path / "clip.mkv"
    encode(path, sound=(clicks(16000, 0.5, 0.1)[None], 16000), sound_at=(0.0, 1.5))
    sound = read_audio(path)
    assert abs(onset(sound[8000:], 16000) - 1.1) < 0.003
    assert len(sound) == pytest.approx(32000, abs=32)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_any_layout_and_rate_is_converted_to_mono(tmp_path, channels, rate):
    path = tmp_path / "tone.wav"
    tone = 0.9 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    encode(path, sound=(np.tile(tone, (channels, 1)), rate))
    got = read_audio(path)
    assert got.dtype == np.float32 and abs(len(got) - 16000) <= 1
    expected = 0.9 * np.sin(2 * np.pi * 440 * np.arange(len(got)) / 16000)
    # equal channels mix to themselves; the ends are left out because the resampler sees silence beyond them
    np.testing.assert_allclose(got[200:-200], expected[200:-200], atol=0.01)


def test_blocks_join_to_the_whole(tmp_path):
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 50000).astype(np.float32)
    write_wav(path, noise, 16000)
    blocks = list(read_blocks(path, 16000, 1))
    assert max(block.shape[1] for block in blocks) <= 16000
    np.testing.assert_allclose(np.concatenate(blocks, axis=1)[0], noise, atol=1 / 32767)
    np.testing.assert_allclose(read_audio(path, start=1.0, duration=0.25), noise[16000:20000], atol=1 / 32767)


def test_a_colon_in_a_name_is_not_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(pathlib.Path("take:1.mp4"), 2, sound=(clicks(16000, 1.0, 0.02), 16000))
    assert len(list(read_frames("take:1.mp4"))) == 2 and len(read_audio("take:1.mp4"))


def test_a_truncated_file_ends_early(tmp_path):
    path = tmp_path / "clip.mkv"
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(20)]
    encode(path, np.arange(20) / 25, pictures)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert 5 < len(list(read_frames(path))) < 20


def _text(path):
    path.write_text("not a film\n" * 100)


def _picture(path):
    with av.open(str(path), "w", format="image2") as out:
        stream = out.add_stream("png", rate=1, width=SIZE, height=SIZE, pix_fmt="rgb24")
        out.mux(stream.encode(av.VideoFrame.from_ndarray(grey(1), "rgb24")))
        out.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.mp4", lambda path: None, "no such file"),
        ("folder", lambda path: path.mkdir(), "is a directory"),
        ("notes.txt", _text, "is not a sound or video file"),
        ("notes.mp4", _text, "is not a sound or video file"),
        ("empty.mp4", lambda path: path.touch(), "is not a sound or video file"),
        ("face.png", _picture, "is not a sound or video file"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, name, make, message):
    path = tmp_path / name
    make(path)
    for read in (probe, read_frames, read_audio, lambda p: VideoWriter(tmp_path / "out.mp4", SIZE, SIZE, sound=p)):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_tracks_are_named(tmp_path):
    write_video(tmp_path / "silent.mp4", 2)
    write_wav(tmp_path / "speech.wav", np.zeros(1600), 16000)
    with pytest.raises(UserError, match="no sound track"):
        read_audio(tmp_path / "silent.mp4")
    with pytest.raises(UserError, match="no picture"):
        read_frames(tmp_path / "speech.wav")
    with pytest.raises(UserError, match="no sound from 3 s on"):
        read_audio(tmp_path / "speech.wav", start=3.0)


def test_cover_art_is_not_a_video(tmp_path):
    path = tmp_path / "speech.mp3"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("libmp3lame", rate=44100, layout="mono")
        cover = out.add_stream("png", rate=1, width=SIZE, height=SIZE, pix_fmt="rgb24")
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(grey(1), "rgb24")
        picture.pts = 0
        out.mux(cover.encode(picture))
        frame = av.AudioFrame.from_ndarray(clicks(44100, 1.0, 0.5)[None], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        out.mux(audio.encode(frame) + audio.encode(None))
    assert abs(onset(read_audio(path, 44100), 44100) - 0.5) < 0.003
    with pytest.raises(UserError, match="no picture"):
        probe(path)


def test_an_exception_leaves_no_file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the last good one")
    with pytest.raises(RuntimeError, match="renderer"), VideoWriter(path, SIZE, SIZE) as out:
        out.write(grey(0))
        raise RuntimeError("renderer")
    assert os.listdir(tmp_path) == ["clip.mp4"] and path.read_bytes() == b"the last good one"
    with pytest.raises(ValueError, match="uint8"), VideoWriter(path, SIZE, SIZE) as out:
        out.write(grey(0)[1:])


def test_a_full_disk_is_an_os_error(tmp_path):
    rng = np.random.default_rng(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(OSError), VideoWriter(tmp_path / "clip.mp4", 256, 256) as out:
            for _ in range(60):
                out.write(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.fixture
def recordings() -> pathlib.Path:
    root = os.environ.get("ADNERF_TEST_DATA")
    if not root or not pathlib.Path(root).is_dir():
        pytest.skip("ADNERF_TEST_DATA does not point to the real recordings")
    return pathlib.Path(root)


def test_real_clip_ends_where_its_index_says(recordings):
    """The clip was cut without re-encoding and holds a stray picture 80 ms after the end of its video stream."""
    path = recordings / "obama" / "obama_20s_450.mp4"
    info = probe(path)
    assert (info.width, info.height, info.frames, info.has_audio) == (450, 450, 497, True)
    assert sum(1 for _ in read_frames(path)) == 497


def test_the_clip_with_late_sound_is_late_by_its_offset(recordings):
    aligned = read_audio(recordings / "obama" / "obama_20s_450.mp4", 16000)
    late = read_audio(recordings / "obama" / "obama_20s_450_late_sound.mp4", 16000)
    piece = aligned[80000:160000]
    lags = np.correlate(late[80000:168000], piece, "valid")
    assert np.argmax(lags) / 16000 == pytest.approx(0.24, abs=0.02)  # half a frame
