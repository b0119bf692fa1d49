"""The user study: clips that do not reveal their method, and the analysis of ratings."""

import csv
import json
import pathlib
import re
import shutil
import subprocess

import av
import numpy as np
import pytest

from adnerf_jax.media.video import VideoWriter, read_frames
from benchmarks import user_study


@pytest.fixture
def clips(tmp_path):
    """Two methods with three clips of two frames each."""
    for method, level in (("ours", 60), ("theirs", 180)):
        (tmp_path / method).mkdir()
        for k in range(3):
            sound = (np.zeros(1280, np.float32), 16000)
            with VideoWriter(tmp_path / method / f"{method}_{k}.mp4", 16, 16, sound=sound) as writer:
                for _ in range(2):
                    writer.write(np.full((16, 16, 3), level + 10 * k, np.uint8))
    return tmp_path


def make(folder, *more: str) -> int:
    methods = [f"--method={name}={folder / name}" for name in ("ours", "theirs")]
    return user_study.main(["make", *methods, f"--out={folder / 'study'}", *more])


def test_the_page_does_not_reveal_the_methods(clips):
    assert make(clips) == 0
    study, key = clips / "study", json.loads((clips / "study.key.json").read_text())
    assert sorted(path.name for path in study.iterdir()) == ["clips", "index.html"]
    assert sorted(key["clips"]) == [f"{k:03d}" for k in range(6)]
    page = (study / "index.html").read_text()
    assert json.loads(re.search(r"const clips = (\[.*?\])", page)[1]) == sorted(key["clips"])
    assert "ours" not in page and "theirs" not in page
    order = [key["clips"][f"{k:03d}"]["method"] for k in range(6)]
    assert order not in (sorted(order), sorted(order, reverse=True))  # shuffled
    for number, clip in key["clips"].items():
        path = study / "clips" / f"{number}.mp4"
        level = {"ours": 60, "theirs": 180}[clip["method"]] + 10 * int(clip["file"][-5])
        frames = list(read_frames(path))
        assert len(frames) == 2 and abs(float(frames[0].mean()) - level) < 4  # the clip that the key names
        with av.open(str(path)) as opened:
            assert len(opened.streams.audio) == 1
            assert clip["method"] not in str(opened.metadata)


def test_browsers_store_each_study_separately(clips):
    def storage_key(out: str) -> str:
        return re.search(r'"study-" \+ "(\w+)"', (clips / out / "index.html").read_text())[1]

    assert make(clips) == 0
    (clips / "ours/ours_0.mp4").rename(clips / "ours/ours_9.mp4")  # another order, so other numbers
    (clips / "other").mkdir()
    methods = [f"--method={name}={clips / name}" for name in ("ours", "theirs")]
    assert user_study.main(["make", *methods, f"--out={clips / 'other' / 'study'}"]) == 0
    assert storage_key("study") != storage_key("other/study")


@pytest.mark.skipif(shutil.which("node") is None, reason="node, which runs the page's script, is not installed")
@pytest.mark.parametrize("browser", ["common", "forgetful"])
def test_a_participant_rates_all_clips(clips, browser):
    """Runs the page's script in a stub of a browser, with and without local storage."""
    assert make(clips) == 0
    script = clips / "script.js"
    script.write_text(re.search(r"<script>(.*)</script>", (clips / "study/index.html").read_text(), re.DOTALL)[1])
    visit = pathlib.Path(__file__).with_name("study_visit.js")
    result = json.loads(subprocess.run(["node", visit, script, browser], check=True, capture_output=True).stdout)
    assert sorted(result["shown"]) == [f"clips/{k:03d}.mp4" for k in range(6)]
    (clips / result["name"]).write_text(result["saved"])
    rows = list(csv.DictReader(result["saved"].splitlines()))
    assert [f"clips/{row['clip']}.mp4" for row in rows] == result["shown"]
    assert [row["position"] for row in rows] == list("123456")
    assert [(row["sync"], row["fidelity"], row["realism"]) for row in rows] == [
        (str(k), str(k + 3), str(k + 6)) for k in range(1, 5)
    ] + [("5", "8", "1"), ("6", "9", "2")]
    command = ["analyse", f"--key={clips / 'study.key.json'}", f"--out={clips / 'out'}", str(clips / result["name"])]
    assert user_study.main(command) == 0


def test_a_study_is_not_overwritten(clips, capsys):
    assert make(clips) == 0
    before = (clips / "study.key.json").read_bytes()
    assert make(clips, "--seed=1") == 2
    assert "exists already" in capsys.readouterr().err
    assert (clips / "study.key.json").read_bytes() == before


@pytest.mark.parametrize("method", ["ours", "=x", "ours=nowhere"])
def test_methods_without_clips(tmp_path, capsys, method):
    assert user_study.main(["make", f"--method={method}", f"--out={tmp_path / 'study'}"]) == 2
    assert "names no folder with mp4 files" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def key_of(folder) -> str:
    clips = {"000": "ours", "001": "theirs", "002": "ours", "003": "theirs"}
    path = folder / "study.key.json"
    path.write_text(json.dumps({"clips": {n: {"method": m, "file": "x.mp4"} for n, m in clips.items()}}))
    return f"--key={path}"


def rated(folder, name: str, *rows: tuple) -> str:
    path = folder / f"{name}.csv"
    lines = ["participant,position,clip,sync,fidelity,realism"]
    lines += [f"{name},{k + 1}," + ",".join(map(str, row)) for k, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_means_and_intervals(tmp_path, capsys):
    files = [
        rated(tmp_path, f"p{k}", ("000", 8, 7, 6), ("001", 4, 5, 6), ("002", 10, 7, 6), ("003", 2 + k % 3, 5, 6))
        for k in range(9)
    ]
    assert user_study.main(["analyse", key_of(tmp_path), f"--out={tmp_path / 'out'}", *files]) == 0
    result = json.loads((tmp_path / "out/results.json").read_text())
    assert result["participants"] == 9 and list(result["methods"]) == ["ours", "theirs"]
    ours, theirs = result["methods"].values()
    assert ours["sync"] == {"mean": 9.0, "low": 9.0, "high": 9.0, "ratings": 18}  # all agree
    assert theirs["sync"]["mean"] == 3.5 and theirs["sync"]["low"] < 3.5 < theirs["sync"]["high"]
    # ± 1.96 σ / √9 of the participants' means 3, 3.5 and 4.
    assert theirs["sync"]["high"] - theirs["sync"]["low"] == pytest.approx(2 * 1.96 * np.std([3, 3.5, 4]) / 3, rel=0.2)
    assert ours["realism"]["mean"] == theirs["realism"]["mean"] == 6.0
    assert "9.00 (9.00 … 9.00)" in capsys.readouterr().out
    for file in map(pathlib.Path, files):  # as a spreadsheet saves it
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert user_study.main(["analyse", key_of(tmp_path), f"--out={tmp_path / 'again'}", *files]) == 0
    assert (tmp_path / "again/results.json").read_bytes() == (tmp_path / "out/results.json").read_bytes()
    assert (tmp_path / "out/results.html").read_text().count("<svg") == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("009", 1, 1, 1)], "line 2: clip 009 is not in this study"),
        ([("000", 1, 1, 1), ("001", 11, 1, 1)], "line 3: sync is 11, not a whole number from 1 to 10"),
        ([("000", 0, 1, 1)], "sync is 0"),
        ([("000", 1, 1, "")], "realism is ,"),
        ([("000", 1, 1, 1), ("000", 2, 2, 2)], "rated clip 000 twice"),
        ([("000", 1, 1, 1)], "no clip of theirs was rated"),
        ([], "holds no ratings"),
    ],
)
def test_unusable_ratings_are_refused(tmp_path, capsys, rows, message):
    file = rated(tmp_path, "p", *rows)
    assert user_study.main(["analyse", key_of(tmp_path), f"--out={tmp_path / 'out'}", file]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
