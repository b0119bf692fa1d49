"""Mistakes of users in rendering end in one line and status 2, and leave no file behind."""

import json
import pathlib

import numpy as np
import pytest

import run
from adnerf_jax.media.image import write_image
from adnerf_jax.media.video import VideoWriter

ROOT = pathlib.Path(run.__file__).parent
pytestmark = pytest.mark.usefixtures("quick_compilation")


def render(trained, *arguments: str) -> int:
    base = ["run.py", f"--config={ROOT}/configs/torso.py", "--mode=render", f"--workdir={trained.torso}"]
    return run.main([*base, f"--config.render.audio={trained.sound}", *arguments])


def poses(trained, tmp_path, change) -> str:
    with np.load(trained.torso / "person.npz", allow_pickle=False) as person:
        some = person["transforms"][:10].astype(float)
    (tmp_path / "poses.json").write_text(json.dumps(change(some).tolist()))
    return f"--config.render.pose={tmp_path}/poses.json"


def with_nan(some: np.ndarray) -> np.ndarray:
    some[4, 0, 3] = np.nan
    return some


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("pose=dance", "there is no pose source 'dance'"),
        ("pose=frame:99", "frame:0 … frame:9"),
        ("pose={tmp}/grey.png", "is not a sound or video file"),
        ("offset=yew=3", "offset: there is no 'yew'"),
        ("smooth=-1.0", "give 0 to 60"),
        ("smooth=1e9", "give 0 to 60"),
        ("background=beach", "there is no background 'beach'"),
        ("background=none", ".mp4 has no transparency"),
        ("camera=yaw=100", "up to 60 degrees"),
        ("eyes=wink", "eyes: there is no 'wink'"),
        ("size=1000000", "GiB to render, this machine has"),
        ("size=3", "at least 16 pixels"),
        ("crop=1,1,1,1", "is not a part of the picture"),
        ("shard=0/2", "give 1/4, 2/4, 3/4, 4/4"),
        ("out={tmp}/a.avi", "cannot write .avi"),
        ("start=-3.0", "a start at -3 s: it must be 0 or later"),
        ("start=nan", "a start at nan s: it must be 0 or later"),
        ("duration=inf", "a duration of inf s: it must be longer than 0"),
    ],
)
def test_mistakes(trained, tmp_path, capsys, option, message):
    write_image(tmp_path / "grey.png", np.zeros((8, 8), np.uint8))
    out = [] if option.startswith("out=") else [f"--config.render.out={tmp_path}/a.mp4"]
    assert render(trained, *out, f"--config.render.{option.format(tmp=tmp_path)}") == 2
    refused(capsys, message)
    assert [path.name for path in tmp_path.iterdir()] == ["grey.png"]


def refused(capsys, message: str) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0], lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, "pose 4 holds a number that is not finite"),
        (lambda some: some[:3], "there are 3 poses, and 8 frames to render"),
        (lambda some: some * 2, "pose 0 is not a rotation and a translation"),
        (lambda some: some[0], "has the shape [4, 4]"),
    ],
)
def test_invalid_pose_files(trained, tmp_path, capsys, change, message):
    assert render(trained, f"--config.render.out={tmp_path}/a.mp4", poses(trained, tmp_path, change)) == 2
    refused(capsys, message)
    assert [path.name for path in tmp_path.iterdir()] == ["poses.json"]


def test_a_driving_video_without_a_face(trained, tmp_path, capsys):
    with VideoWriter(tmp_path / "empty.mp4", 64, 64) as writer:
        for _ in range(3):
            writer.write(np.full((64, 64, 3), 90, np.uint8))
    out = f"--config.render.out={tmp_path}/a.mp4"
    assert render(trained, out, f"--config.render.pose={tmp_path}/empty.mp4") == 2
    refused(capsys, "empty.mp4 shows no face")


def test_an_output_that_cannot_be_written(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert render(trained, f"--config.render.out={tmp_path}/file/a.mp4") == 1
    refused(capsys, "file")
