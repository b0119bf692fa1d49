"""Comparisons of runs and videos, which must show the same frames."""

import hashlib
import json
import pathlib

import av
import numpy as np
import pytest
import tiny

import run
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_json
from adnerf_jax.data.datasets import load_dataset, load_frames
from adnerf_jax.evaluation.compare import compare
from adnerf_jax.evaluation.protocol import describe_protocol, truth_bytes, write_table
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.video import VideoWriter

FRAMES = 40


def stage(
    folder: pathlib.Path, psnr: float, setting: str = "full", lips: float = 0.0, count: int = FRAMES, **protocol
) -> pathlib.Path:
    """A stage's folder after an evaluation: frames around a PSNR, lips that follow the ground truth's with noise."""
    rng, time = np.random.default_rng(0), np.arange(count)
    values = psnr + np.sin(time / 5)
    opening = np.sin(time / 3) + lips * rng.normal(size=count)
    rows = [
        {
            "frame": 100 + k,
            "time": 100 + k,
            "setting": setting,
            "psnr": values[k],
            "lip_opening": opening[k],
            "lip_opening_truth": np.sin(k / 3),
        }
        for k in time
    ]
    write_json(folder / "config.json", tiny.config("torso").to_dict())
    correlation = float(np.corrcoef(opening, np.sin(time / 3))[0, 1])
    known = {"version": 1, "frames": "40 frames", "every": 1, "size": [8, 8], "truth": "as is", "truth_sha256": "ab"}
    known |= {"smoothing": "none", "tracked_codes": []}
    result = {
        "protocol": known | {"measures": {"psnr": "dB"}} | protocol,
        "model": {"family": "fast", "stage": "torso", "step": 5},
        "settings": {setting: {"psnr": values.mean(), "lip_correlation": correlation, "jitter_px": psnr / 100}},
    }
    write_json(folder / "eval" / "metrics.json", result)
    write_table(folder / "eval" / "frames.csv", rows)
    return folder


def settings(*entries: object, **compared):
    config = tiny.config("torso")
    config.compare.update({"runs": ",".join(map(str, entries)), "resamples": 200} | compared)
    return config


def test_values_intervals_and_differences(tmp_path):
    a, b = stage(tmp_path / "a", 30.0), stage(tmp_path / "b", 31.0, lips=1.0)
    result = compare(settings(f"ours={a}", b), tmp_path / "out")
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == result
    assert list(result["settings"]) == ["full"] and list(result["settings"]["full"]) == ["ours", str(b)]
    ours, theirs = result["settings"]["full"].values()
    assert list(ours) == ["psnr", "lip_correlation", "jitter_px"]
    assert ours["psnr"]["low"] < ours["psnr"]["value"] < ours["psnr"]["high"]
    # The same frames are drawn for both: a constant difference has no spread, however wide each interval is.
    assert ours["psnr"]["high"] - ours["psnr"]["low"] > 0.2
    assert [theirs["psnr"][f"difference{end}"] for end in ("", "_low", "_high")] == [1.0, 1.0, 1.0]
    assert ours["lip_correlation"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert theirs["lip_correlation"]["high"] < 1.0 and theirs["lip_correlation"]["difference_high"] < 0
    assert ours["jitter_px"] == {"value": 0.3} and theirs["jitter_px"] == {"value": 0.31, "difference": 0.01}
    page = (tmp_path / "out/comparison.html").read_text()
    assert "+1 (+1 … +1) *" in page and "ours" in page and "<svg" in page
    again = (tmp_path / "out/comparison.json").read_bytes()
    compare(settings(f"ours={a}", b), tmp_path / "out")
    assert (tmp_path / "out/comparison.json").read_bytes() == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth_sha256": "cd"}, r"truth_sha256 \(ab, cd\)"),
        ({"size": [16, 16]}, r"size \(\[8, 8\], \[16, 16\]\)"),
        ({"frames": "20 frames", "count": 20}, r"frames \(40 frames, 20 frames\)"),
        ({"version": 2}, r"version \(1, 2\)"),
    ],
)
def test_other_protocols_are_refused(tmp_path, change, message):
    a, b = stage(tmp_path / "a", 30.0), stage(tmp_path / "b", 31.0, **change)
    with pytest.raises(UserError, match=f"evaluated by different protocols.*{message}"):
        compare(settings(a, b), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_entries_that_cannot_be_compared_are_refused(tmp_path, capsys):
    a = stage(tmp_path / "a", 30.0)
    bare = stage(tmp_path / "bare", 30.0)
    (bare / "eval/metrics.json").unlink()
    other = stage(tmp_path / "other", 30.0, setting="head_only")
    for entries, message in (
        ((), "give two or more"),
        ((a,), "give two or more"),
        ((a, "gone"), "names gone, which does not exist"),
        ((a, a), "twice: give them different names"),
        (
            (a, bare),
            f"{bare} has not been evaluated: evaluate it with mode=eval config=configs/torso.py workdir={bare}",
        ),
        ((a, other), "no setting was evaluated in two of them"),
        ((a, tmp_path), "is not the folder of a trained stage"),
    ):
        with pytest.raises(UserError, match=message):
            compare(settings(*entries), tmp_path / "out")
    for name, value in (("resamples", 0), ("resamples", 10**12), ("setting", "body")):
        with pytest.raises(UserError, match=f"config.compare.{name} is '?{value}'?: it"):
            compare(settings(a, bare, **{name: value}), tmp_path / "out")
    # By the command line, which needs no --config.
    assert run.main(["run.py", "--mode=compare", f"--config.compare.runs={a},{a}"]) == 2
    assert "error: config.compare.runs names" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def drop_last_rows(path: pathlib.Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")


def delete_key(path: pathlib.Path, *names: str) -> None:
    result = json.loads(path.read_text())
    where = result
    for name in names[:-1]:
        where = where[name]
    del where[names[-1]]
    path.write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: drop_last_rows(folder / "frames.csv"), "frames.csv has 37 frames in full, metrics.json 40"),
        (lambda folder: (folder / "frames.csv").unlink(), "cannot read the metrics of the frames"),
        (
            lambda folder: (folder / "frames.csv").write_text("setting\n" + 40 * "full\n"),
            "frames.csv lacks the columns of the lips",
        ),
        (lambda folder: (folder / "metrics.json").write_text("[]"), "is not an evaluation of this program"),
        (lambda folder: delete_key(folder / "metrics.json", "protocol"), "is not an evaluation of this program"),
        (lambda folder: delete_key(folder / "metrics.json", "model"), "is damaged"),
        (lambda folder: delete_key(folder / "metrics.json", "settings"), "is damaged"),
    ],
)
def test_damaged_evaluations_are_refused(tmp_path, damage, message):
    a, b = stage(tmp_path / "a", 30.0), stage(tmp_path / "b", 31.0)
    damage(b / "eval")
    with pytest.raises(UserError, match=message):
        compare(settings(a, b), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def evaluated(tmp_path):
    """A small dataset, the folder of a stage evaluated on it, and the ground truth of the whole clip."""
    data = tiny.make_dataset(tmp_path / "dataset")
    dataset = load_dataset(data)
    frames = load_frames(dataset, dataset.val)
    digest = hashlib.sha256()
    for image, parts in zip(frames.images, frames.parts, strict=True):
        digest.update(truth_bytes(image, parts))
    text = "2 held-out frames, the last 1/11 of the clip"
    protocol = describe_protocol(text, 1, dataset, digest.hexdigest(), "none", (), {}, None, {}, {})
    folder = stage(tmp_path / "ours", 30.0, count=tiny.VAL, **(protocol | {"measures": {"psnr": "dB"}}))
    config = tiny.config("torso", data)
    write_json(folder / "config.json", config.to_dict())
    clip = np.repeat(frames.images[:1], tiny.CLIP, axis=0)
    clip[dataset.val.aud_id] = frames.images
    return folder, dataset, clip


def write_video(path: pathlib.Path, frames: np.ndarray, sound=None) -> pathlib.Path:
    with VideoWriter(path, frames.shape[2], frames.shape[1], sound=sound) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))
    return path


def test_a_video_is_scored_like_a_run(tmp_path, evaluated):
    folder, dataset, clip = evaluated
    first = int(dataset.val.aud_id[0])
    wrong = clip.copy()
    wrong[:, :8] = 255 - wrong[:, :8]
    videos = {
        "evaluated": write_video(tmp_path / "evaluated.mp4", clip[first:]),
        "clip": write_video(tmp_path / "clip.mp4", clip),
        "wrong": write_video(tmp_path / "wrong.mp4", wrong),
    }
    result = compare(settings(folder, *(f"{name}={path}" for name, path in videos.items())), tmp_path / "out")
    runs = result["settings"]["full"]
    assert list(runs) == [str(folder), *videos]
    # Compression alone costs some PSNR (in so small an image mostly by chroma subsampling), whichever part of the clip
    # the video shows; a wrong background costs more.
    assert runs["evaluated"]["psnr"]["value"] > 25 and runs["clip"]["psnr"]["value"] > 25
    assert runs["wrong"]["psnr"]["value"] < 18
    assert "the clip's sound" in result["runs"]["clip"]["note"]


def lossless(path: pathlib.Path, frames: np.ndarray) -> pathlib.Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_the_ground_truth_as_a_video_is_perfect(tmp_path, evaluated):
    folder, dataset, clip = evaluated
    values = compare(settings(folder, f"truth={lossless(tmp_path / 'truth.mkv', clip)}"), tmp_path / "out")
    truth = values["settings"]["full"]["truth"]
    assert [truth["psnr"][name] for name in ("value", "low", "high")] == [100.0, 100.0, 100.0]


def test_videos_of_another_size_or_length_are_refused(tmp_path, evaluated):
    folder, _, clip = evaluated
    short = write_video(tmp_path / "short.mp4", clip[:5])
    with pytest.raises(UserError, match="short.mp4 has 5 frames at 25 a second: give the 2 that are evaluated"):
        compare(settings(folder, short), tmp_path / "out")
    large = write_video(tmp_path / "large.mp4", clip.repeat(2, axis=1).repeat(2, axis=2))
    with pytest.raises(UserError, match="large.mp4 is 64x64, the ground truth 32x32"):
        compare(settings(folder, large), tmp_path / "out")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(UserError, match="text.mp4"):
        compare(settings(folder, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_video_is_compared_with_its_own_sound(tmp_path, evaluated):
    folder, _, clip = evaluated
    write_wav(tmp_path / "s.wav", np.random.default_rng(0).normal(size=8320) * 0.1, 16000)
    spoken = write_video(tmp_path / "spoken.mp4", clip, tmp_path / "s.wav")
    result = compare(settings(folder, spoken), tmp_path / "out")
    assert "its own sound" in result["runs"][str(spoken)]["note"]
