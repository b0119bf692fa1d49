"""The preparation survives what cameras, phones, disks and people do: one test for each."""

import errno
import fnmatch
import os
import pathlib

import cv2
import numpy as np
import pytest
from clips import clicks, contents, encode, fails, film_portrait, onset, portrait

from adnerf_jax import schema
from adnerf_jax.face.landmarks import count_faces, detect_video
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import read_frames
from preprocessing import pipeline
from preprocessing.__main__ import main
from preprocessing.clip import Clip
from preprocessing.subject import make_subject

MOMENT = 1.2  # seconds at which a corner lights up and a click is heard
SECONDS = 2.4


def record(path, times, size=(64, 64), **options):
    """A portrait whose upper left corner is lit from `MOMENT` on, with a click; pictures at these times."""
    pictures = []
    for time in times:
        picture = portrait(round(25 * time), size)
        picture[:8, :8] = 255 if time >= MOMENT - 1e-6 else 0
        pictures.append(picture)
    sound = clicks(16000, SECONDS, MOMENT) + 0.02 * np.sin(np.arange(round(SECONDS * 16000))).astype(np.float32)
    encode(path, times, pictures, (sound[None], 16000), **options)
    return path


def prepared(video, out, *options):
    assert main([f"--video={video}", f"--out={out}", "--speech", "logmel", *options]) == 0
    return out


def count_frames(out):
    return schema.load_manifest(out)["steps"]["frames"]["frames"]


def lit(out, count, corner=(2, 2)):
    """Which frames show the lit corner."""
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
def test_any_rate_becomes_25_with_the_sound_in_step(nets, tmp_path, times):
    out = prepared(record(tmp_path / "v.mkv", times), tmp_path / "d")
    frames = count_frames(out)
    assert abs(frames - SECONDS * 25) <= 1
    first_lit = times[times >= MOMENT - 1e-6][0]
    shown = lit(out, frames)
    assert shown == list(range(shown[0], frames))
    assert -0.002 <= shown[0] / 25 - first_lit < 0.041  # the first frame at which the picture is on screen
    assert onset(read_audio(out / schema.SOUND, 16000), 16000) == pytest.approx(MOMENT, abs=0.005)
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


def test_large_frames_are_shrunk_as_told(nets, tmp_path):
    video = record(tmp_path / "v.mp4", STEADY, (540, 960), codec="aac")
    out = prepared(video, tmp_path / "d", "--max_side", "160")
    assert cv2.imread(str(out / schema.lossless_image(5))).shape == (90, 160, 3)
    assert schema.load_index(out).focal == pytest.approx(8 / 3 * 160)
    again = prepared(video, tmp_path / "d", "--max_side", "96")
    assert cv2.imread(str(again / schema.lossless_image(5))).shape == (54, 96, 3)


@pytest.mark.parametrize("name", ["two words.mp4", 'it\'s "a" film.mp4', "-dash.mp4", "Grüße 你好.mp4", "%d 100%.mp4"])
def test_any_file_name(nets, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    film_portrait(tmp_path / name)
    out = prepared(name, f"{name} data")
    assert len(list((tmp_path / out / "gt").glob("[0-9]*.png"))) == len(schema.load_index(tmp_path / out).train) + len(
        schema.load_index(tmp_path / out).val
    )


def test_a_folder_is_no_video(tmp_path, capsys):
    line = fails(capsys, "--video", tmp_path, "--out", tmp_path / "d")
    assert str(tmp_path) in line and not (tmp_path / "d").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path, capsys):
    video = film_portrait(tmp_path / "v.mp4")
    video.chmod(0)
    assert "permission" in fails(capsys, "--video", video, "--out", tmp_path / "d").lower()


def test_a_file_without_its_index_is_refused(tmp_path, capsys):
    whole = record(tmp_path / "v.mp4", STEADY, codec="aac").read_bytes()  # the index is at the end
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert "cut.mp4" in fails(capsys, "--video", tmp_path / "cut.mp4", "--out", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_of_a_truncated_file_the_part_before_is_used_and_this_is_said(nets, tmp_path, capsys):
    whole = film_portrait(tmp_path / "v.mp4", frames=100).read_bytes()  # the index is at the front
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 4 // 5])
    out = prepared(tmp_path / "cut.mp4", tmp_path / "d")
    frames = count_frames(out)
    assert 50 <= frames < 95 and len(schema.load_audio_windows(out)) == frames
    assert "it may be damaged" in capsys.readouterr().err


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return film_portrait(tmp_path_factory.mktemp("video") / "v.mp4")


@pytest.fixture(scope="module")
def whole(video, tmp_path_factory):
    """What an undisturbed run makes of it."""
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
def test_disturbed_at_any_step_the_next_run_ends_as_if_nothing_had_been(
    nets, video, whole, tmp_path, monkeypatch, capsys, name, what
):
    steps = {step.name: step for step in _steps(video)}
    assert tuple(steps) == STEPS
    replace, written = os.replace, []

    def disturbed(source, target, **options):
        relative = str(pathlib.Path(target).relative_to(tmp_path / "d"))
        if any(fnmatch.fnmatch(relative, pattern) for pattern in steps[name].writes):
            written.append(relative)
            if what == "disk full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            if len(written) in (1, 7) and (len(written) == 7 or name not in ("frames", "landmarks", "parsing")):
                raise KeyboardInterrupt
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", disturbed)
    status = main(["--video", str(video), "--out", str(tmp_path / "d"), "--speech", "logmel"])
    assert status == (1 if what == "disk full" else 130) and written
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Traceback" not in error and (what != "disk full" or "the disk is full" in error)
    assert name == "report" or not (tmp_path / "d" / schema.TRANSFORMS["val"]).exists()
    monkeypatch.setattr(os, "replace", replace)
    assert contents(prepared(video, tmp_path / "d")) == whole


def test_of_two_faces_the_larger_one_is_followed_throughout(tmp_path):
    make_subject(tmp_path, size=96, seconds=2, driving_seconds=2)
    frames = []
    for k, rgb in enumerate(read_frames(tmp_path / "subject.mp4", duration=1.2)):
        scene = np.full((240, 420, 3), 90, np.uint8)
        scene[20:116, 20:116] = rgb
        if not 10 <= k < 14:  # the larger one is away for a moment
            scene[:, 180:] = cv2.resize(rgb, (240, 240))
        frames.append(scene)
    assert [count_faces(scene) for scene in (frames[0], frames[11], np.full_like(frames[0], 90))] == [2, 1, 0]
    found = detect_video(frames)
    assert not found.valid[10:14].any() and found.valid.sum() >= len(frames) - 5
    assert (found.points[found.valid, :, 0].mean(1) > 180).all()
