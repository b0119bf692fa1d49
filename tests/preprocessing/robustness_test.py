"""Preparation of unusual and damaged videos, on full disks, and with wrong arguments: one test for each."""

import errno
import fnmatch
import os
import pathlib
import tempfile
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from clips import clicks, contents, encode, fails, film_portrait, onset, portrait

from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.face.landmarks import count_faces, detect_video
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.preprocessing import pipeline, steps
from adnerf_jax.preprocessing.__main__ import main
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.synthetic_subject.film import make_subject

MOMENT = 1.2  # seconds, time of a flash in a corner and of a click
SECONDS = 2.4


def record(path, times, size=(64, 64), **options):
    """A portrait with pictures at `times`, whose upper left corner is lit from `MOMENT` on, and with a click then."""
    pictures = []
    for time in times:
        picture = portrait(round(25 * time), size)
        picture[:8, :8] = 255 if time >= MOMENT - 1e-6 else 0
        pictures.append(picture)
    sound = clicks(SAMPLE_RATE, SECONDS, MOMENT) + 0.02 * np.sin(np.arange(round(SECONDS * SAMPLE_RATE))).astype(
        np.float32
    )
    encode(path, times, pictures, (sound[None], SAMPLE_RATE), **options)
    return path


def prepared(video, out, *options):
    assert main([f"--video={video}", f"--out={out}", "--speech", "logmel", *options]) == 0
    return out


def count_frames(out):
    return schema.load_manifest(out)["steps"]["frames"]["frames"]


def lit(out, count, corner=(2, 2)):
    """The frames that show the lit corner."""
    pictures = [cv2.imread(str(out / schema.original_image(i))) for i in range(count)]
    assert not (out / schema.original_image(count)).exists()
    return [i for i, picture in enumerate(pictures) if picture[corner].mean() > 128]


def irregular(rng):
    times = np.cumsum(rng.uniform(0.008, 0.07, 200))
    return np.concatenate([[0.0], times[times < SECONDS - 0.02]]).round(3)


RATES = {
    f"{fps:.5g}": np.arange(0, SECONDS - 1e-6, 1 / fps) for fps in (12, 24000 / 1001, 25, 30000 / 1001, 30, 50, 60)
}


@pytest.mark.parametrize("times", [*RATES.values(), irregular(np.random.default_rng(0))], ids=[*RATES, "variable"])
def test_any_frame_rate_becomes_25_in_sync_with_the_sound(nets, tmp_path, times):
    out = prepared(record(tmp_path / "v.mkv", times), tmp_path / "d")
    frames = count_frames(out)
    assert abs(frames - SECONDS * FPS) <= 1
    first_lit = times[times >= MOMENT - 1e-6][0]
    shown = lit(out, frames)
    assert shown == list(range(shown[0], frames))
    assert -0.002 <= shown[0] / 25 - first_lit < 0.041  # the first frame at which the picture is on screen
    assert onset(read_audio(out / schema.SOUND), SAMPLE_RATE) == pytest.approx(MOMENT, abs=0.005)
    assert len(schema.load_audio_windows(out)) == frames


STEADY = np.arange(0, SECONDS - 1e-6, 0.04)


@pytest.mark.parametrize(
    "size, options",
    [
        ((47, 65), {"pix_fmt": "yuv444p"}),
        ((64, 64), {"pix_fmt": "gray"}),
        ((64, 64), {"pix_fmt": "yuv420p10le"}),
    ],
    ids=["odd", "grey", "10 bit"],
)
def test_odd_sizes_grey_and_ten_bits(nets, tmp_path, size, options):
    out = prepared(record(tmp_path / "v.mkv", STEADY, size, **options), tmp_path / "d")
    assert lit(out, count_frames(out)) == list(range(30, count_frames(out)))
    assert cv2.imread(str(out / schema.BACKGROUND)).shape == (*size, 3)


def test_a_phones_rotated_video_comes_out_upright(nets, tmp_path):
    out = prepared(record(tmp_path / "v.mp4", STEADY, (48, 80), rotate={"degrees": 90}, codec="aac"), tmp_path / "d")
    assert cv2.imread(str(out / schema.original_image(0))).shape == (80, 48, 3)
    corners = [
        lit(out, count_frames(out), corner) for corner in ((2, 45), (77, 2))
    ]  # a quarter turn takes the corner to one of them
    assert sorted(map(len, corners)) == [0, count_frames(out) - 30]


def test_large_frames_are_downscaled_to_max_side(nets, tmp_path):
    video = record(tmp_path / "v.mp4", STEADY, (540, 960), codec="aac")
    out = prepared(video, tmp_path / "d", "--max_side", "160")
    assert cv2.imread(str(out / schema.lossless_image(5))).shape == (90, 160, 3)
    assert schema.load_index(out).focal == pytest.approx(8 / 3 * 160)
    again = prepared(video, tmp_path / "d", "--max_side", "96")
    assert cv2.imread(str(again / schema.lossless_image(5))).shape == (54, 96, 3)


def test_a_4k_video_is_downscaled(nets, tmp_path):
    dark = portrait(0, (2160, 3840))
    bright = dark.copy()
    bright[:200, :200] = 255
    tone = 0.1 * np.sin(np.arange(round(SECONDS * SAMPLE_RATE)) / 10)
    encode(
        tmp_path / "v.mp4",
        [0.0, 0.4, 0.8, 1.2, 1.6, 2.0],
        [dark] * 3 + [bright] * 3,
        (tone[None], SAMPLE_RATE),
        codec="aac",
    )
    out = prepared(tmp_path / "v.mp4", tmp_path / "d", "--max_side", "320")
    frames = count_frames(out)
    assert frames >= 50 and lit(out, frames) == list(range(30, frames))
    for name in (schema.original_image, schema.lossless_image, schema.parsing_image, schema.alpha_image):
        assert cv2.imread(str(out / name(5))).shape == (180, 320, 3)
    index = schema.load_index(out)
    assert (index.focal, index.cx, index.cy) == (pytest.approx(8 / 3 * 320), 160, 90)


@pytest.mark.parametrize("size", [2, 16, 40])
def test_tiny_frames_cause_a_warning_and_fail_only_for_lack_of_a_face(nets, tmp_path, monkeypatch, capsys, size):
    video = film_portrait(tmp_path / "v.mp4", size=size)
    out = prepared(video, tmp_path / "d")
    assert cv2.imread(str(out / schema.BACKGROUND)).shape == (size, size, 3)
    assert f"warning: shorter side {size} px: film at 256 pixels or more" in capsys.readouterr().err
    monkeypatch.setattr(steps.face_landmarks, "detect_video", detect_video)
    line = fails(capsys, "--video", video, "--out", tmp_path / "e", "--speech", "logmel")
    assert "a face was found in 0 of 55 frames" in line


def test_pictures_that_change_size_are_resized_to_the_first(nets, tmp_path):
    parts = [tmp_path / f"{size}.ts" for size in (64, 96)]
    for part, size in zip(parts, (64, 96), strict=True):
        later = (size == 96) * SECONDS
        tone = 0.1 * np.sin(np.arange(round(SECONDS * SAMPLE_RATE)) / 10)
        static = [portrait(0, (size, size))] * len(STEADY)
        encode(part, STEADY + later, static, (tone[None], SAMPLE_RATE), (later,), codec="aac")
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    out = prepared(tmp_path / "v.ts", tmp_path / "d")
    assert abs(count_frames(out) - 120) <= 1
    assert cv2.imread(str(out / schema.original_image(100))).shape == (64, 64, 3)


@pytest.mark.parametrize("turn", [{}, {"rotate": {"degrees": 90}}])
def test_resized_pictures_are_means_over_areas(tmp_path, turn):
    encode(tmp_path / "v.mp4", STEADY[:3], [cv2.GaussianBlur(portrait(9, (150, 250)), (0, 0), 3)] * 3, **turn)
    own, small = (next(read_frames(tmp_path / "v.mp4", size=size)) for size in (None, (50, 70)))
    means = cv2.resize(own, (50, 70), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - means).mean() < 0.5  # chroma and luma are averaged separately


def test_a_browser_recording_without_duration_and_frame_rate(tmp_path):
    times = irregular(np.random.default_rng(1))
    tone = 0.1 * np.sin(np.arange(round(SECONDS * 48000)) / 10)
    with av.open(str(tmp_path / "v.webm"), "w", format="webm", options={"live": "1"}) as out:
        stream = out.add_stream("libvpx", rate=1000, width=64, height=64)
        sound = out.add_stream("libopus", rate=48000, layout="mono")
        for time in times:
            frame = av.VideoFrame.from_ndarray(portrait(round(25 * time), (64, 64)), "rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        block = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], "fltp", "mono")
        block.sample_rate, block.pts, block.time_base = 48000, 0, Fraction(1, 48000)
        out.mux(sound.encode(block) + sound.encode(None))
    info = probe(tmp_path / "v.webm")
    assert info.duration == pytest.approx(SECONDS, abs=0.1) and info.fps == pytest.approx(
        len(times) / SECONDS, rel=0.05
    )


def test_a_damaged_time_stamp_does_not_add_frames(tmp_path):
    encode(tmp_path / "v.mkv", [*STEADY, 40_000.0], [portrait(0, (64, 64))] * (len(STEADY) + 1))
    assert abs(sum(1 for _ in read_frames(tmp_path / "v.mkv")) - len(STEADY)) <= 1


def test_a_title_may_be_in_any_encoding(tmp_path):
    film_portrait(tmp_path / "v.mp4", frames=3)
    data = (tmp_path / "v.mp4").read_bytes()
    assert b"VideoHandler" in data
    (tmp_path / "v.mp4").write_bytes(data.replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert len(list(read_frames(tmp_path / "v.mp4"))) == 3


@pytest.mark.parametrize(
    "name",
    [
        "two words.mp4",
        'it\'s "a" film.mp4',
        "-dash.mp4",
        "Grüße 你好.mp4",
        "%d 100%.mp4",
        os.fsdecode(b"\xe9t\xe9.mp4"),
    ],
    ids=["space", "quotes", "dash", "non-ASCII", "percent", "not UTF-8"],
)
def test_any_file_name(nets, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    film_portrait(tmp_path / name)
    out = f"{name} data"
    assert main(["--video", name, "--out", out, "--speech", "logmel"]) == 0
    assert len(list((tmp_path / out / "gt").glob("[0-9]*.png"))) == len(schema.load_index(tmp_path / out).train) + len(
        schema.load_index(tmp_path / out).val
    )


def test_a_folder_as_video_is_refused(tmp_path, capsys):
    line = fails(capsys, "--video", tmp_path, "--out", tmp_path / "d")
    assert str(tmp_path) in line and not (tmp_path / "d").exists()


def test_an_empty_out_is_refused(tmp_path, capsys):
    assert "--out is empty" in fails(capsys, "--video", str(tmp_path / "me.mp4"), "--out", "")


def test_misspelt_and_missing_options(capsys):
    assert "there is no option --vidoe, did you mean --video?" in fails(capsys, "--vidoe=me.mp4", "--out", "d")
    assert "the following arguments are required: --video" in fails(capsys, "--out", "d")
    assert "argument --focal: invalid float value: 'long'" in fails(capsys, "--focal", "long")


def test_a_file_without_read_permission_is_refused(capsys):
    user = os.geteuid()
    # Not below `tmp_path`, which only its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder).chmod(0o755)
        video = film_portrait(pathlib.Path(folder) / "v.mp4")
        video.chmod(0)
        try:
            if user == 0:
                os.seteuid(65534)  # the superuser may read everything
            line = fails(capsys, "--video", video, "--out", pathlib.Path(folder) / "d")
        finally:
            os.seteuid(user)
    assert "permission" in line.lower()


def test_a_truncated_file_without_its_index_is_refused(tmp_path, capsys):
    whole = record(tmp_path / "v.mp4", STEADY, codec="aac").read_bytes()  # the index is at the end
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert "cut.mp4" in fails(capsys, "--video", tmp_path / "cut.mp4", "--out", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_the_readable_part_of_a_truncated_file_is_used_with_a_warning(nets, tmp_path, capsys):
    whole = film_portrait(tmp_path / "v.mp4", frames=100).read_bytes()  # the index is at the front
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 4 // 5])
    out = prepared(tmp_path / "cut.mp4", tmp_path / "d")
    frames = count_frames(out)
    assert 50 <= frames < 95 and len(schema.load_audio_windows(out)) == frames
    assert "the file may be damaged" in capsys.readouterr().err


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return film_portrait(tmp_path_factory.mktemp("video") / "v.mp4")


@pytest.fixture(scope="module")
def whole(video, tmp_path_factory):
    """The dataset of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        from clips import stand_in

        stand_in(patch)
        return contents(prepared(video, tmp_path_factory.mktemp("whole") / "d"))


def _steps(video):
    info = pipeline.probe(video)
    return pipeline.make_steps(pipeline.Job(Clip(info, 0.0, 2.2, 64, 64), pathlib.Path("d"), 170.0, "logmel", None))


STEPS = ("frames", "landmarks", "sound", "parsing", "pose", "background", "images", "index", "report")


@pytest.mark.parametrize("what", ["disk full", "interrupted"])
@pytest.mark.parametrize("name", STEPS)
def test_after_a_failure_in_any_step_the_next_run_gives_the_same_dataset(
    nets, video, whole, tmp_path, monkeypatch, capsys, name, what
):
    steps = {step.name: step for step in _steps(video)}
    assert tuple(steps) == STEPS
    replace, written = os.replace, []

    def failing(source, target, **options):
        relative = str(pathlib.Path(target).relative_to(tmp_path / "d"))
        if any(fnmatch.fnmatch(relative, pattern) for pattern in steps[name].writes):
            written.append(relative)
            if what == "disk full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            if len(written) in (1, 7) and (len(written) == 7 or name not in ("frames", "landmarks", "parsing")):
                raise KeyboardInterrupt
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", failing)
    status = main(["--video", str(video), "--out", str(tmp_path / "d"), "--speech", "logmel"])
    assert status == (1 if what == "disk full" else 130) and written
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Traceback" not in error and (what != "disk full" or "the disk is full" in error)
    assert name == "report" or not (tmp_path / "d" / schema.TRANSFORMS["val"]).exists()
    monkeypatch.setattr(os, "replace", replace)
    assert contents(prepared(video, tmp_path / "d")) == whole


@pytest.mark.parametrize("away", [range(10, 14), range(5)], ids=["in between", "at first"])
def test_of_two_faces_the_larger_one_is_tracked(tmp_path, away):
    make_subject(tmp_path, size=96, seconds=2, driving_seconds=2)
    frames = []
    for k, rgb in enumerate(read_frames(tmp_path / "subject.mp4", duration=1.2)):
        scene = np.full((240, 420, 3), 90, np.uint8)
        scene[20:116, 20:116] = rgb
        if k not in away:  # the larger one
            scene[:, 180:] = cv2.resize(rgb, (240, 240))
        frames.append(scene)
    assert [count_faces(scene) for scene in (frames[-1], frames[away[0]], np.full_like(frames[0], 90))] == [2, 1, 0]
    found = detect_video(frames)
    assert not found.valid[away].any() and found.valid[14:].all()  # found again by the 12th frame at the latest
    assert (found.points[found.valid, :, 0].mean(1) > 180).all()
