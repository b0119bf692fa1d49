"""The table of strangers' files, with stand-ins for the networks of the preparation."""

import functools

import numpy as np
import pytest
from clips import film_portrait

from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.media.audio import write_wav
from adnerf_jax.preprocessing import steps
from benchmarks import cases

ERRORS = {"landmarks_alone": [2.8, 5.6], "refined": [2.5, 5.0]}


@pytest.fixture
def folder(tmp_path, nets, monkeypatch):
    """A video, a sound, a file that is neither, and a description."""
    facts = {"reprojection_px": 0.5, "kept_from_landmarks": 0, "held_out": {"landmarks_px": ERRORS}}
    monkeypatch.setattr(steps, "refine_track", lambda head, *others: (head, facts))
    monkeypatch.setattr(cases, "prepare", functools.partial(cases.prepare, speech="logmel"))
    monkeypatch.setattr(cases, "person_left", lambda picture, frames: 0.0123)
    monkeypatch.setattr(cases, "tilt", lambda data: 1.25)
    monkeypatch.setattr(cases, "matrix_rate", lambda: 100.0)
    monkeypatch.setattr(cases, "enable_cache", lambda: None)
    data = tmp_path / "data"
    data.mkdir()
    film_portrait(data / "b.mp4")
    write_wav(data / "a.wav", 0.1 * np.sin(np.arange(3 * SAMPLE_RATE) / 10), SAMPLE_RATE)
    (data / "c.mov").write_text("no video")
    (data / "README.md").write_text("what these are")
    return data


def rows_of(table: str) -> dict[str, dict[str, str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    names, _, *rows = ([cell.strip(" `") for cell in line[1:-1].split("|")] for line in lines)
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def test_a_row_a_file(folder, tmp_path, nets, capsys):
    command = [f"--data={folder}", f"--workdir={tmp_path / 'w'}"]
    assert cases.main(command) == 0
    table = capsys.readouterr().out
    rows = rows_of(table)
    assert list(rows) == ["a.wav", "b.mp4", "c.mov"]
    video = rows["b.mp4"]
    assert (video[cases.PERSON], video[cases.TILT]) == ("1.23", "1.2°")
    assert video[cases.LANDMARKS] == "2.80, 5.60 → 2.50, 5.00"
    assert video[cases.PICTURE] == "2.20 of 2.20"
    assert video[cases.SOUND].startswith("2.2") and video[cases.TRACK] == "1 of 1, all"
    assert "report: length 2.2 s: film for" in video[cases.SAYS]
    assert video[cases.SAYS].count("shorter side 64 px") == 1  # warned of, and reported
    assert "█" not in table and "Preparing" not in table
    sound = rows["a.wav"]
    assert sound[cases.SOUND] == "3.00 of 3.00" and not sound[cases.PICTURE] and not sound[cases.PERSON]
    assert rows["c.mov"][cases.SAYS].startswith("error: c.mov is not a sound or video file")
    assert "1 of 1 backgrounds show a person in more than 0.5 %. Preparation at 100 GFLOP/s" in table
    assert (tmp_path / "w/table.md").read_text() == table

    parsed = nets["parsed"]
    assert cases.main(command) == 0
    assert capsys.readouterr().out == table  # with what the steps said that did not run again
    assert nets["parsed"] == parsed


def test_an_error_of_preparation_is_its_rows_text(folder, tmp_path, nets, capsys):
    nets["faces"] = False
    assert cases.main([f"--data={folder}", f"--workdir={tmp_path / 'w'}", "--only=b.mp4"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == ["b.mp4"]
    assert "error: a face was found in 0 of 55 frames of b.mp4" in rows["b.mp4"][cases.SAYS]
    assert rows["b.mp4"][cases.PICTURE] == "2.20 of 2.20" and not rows["b.mp4"][cases.PERSON]


def test_a_traceback_is_its_rows_text(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cases, "prepare", lambda *_: 1 / 0)
    assert cases.main([f"--data={folder}", f"--workdir={tmp_path / 'w'}", "--only=b.mp4,a.wav"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == ["b.mp4", "a.wav"]
    assert "error: traceback, ZeroDivisionError" in rows["b.mp4"][cases.SAYS]


def test_a_name_that_is_not_there(folder, tmp_path, capsys):
    assert cases.main([f"--data={folder}", f"--workdir={tmp_path / 'w'}", "--only=d.mp4"]) == 2
    assert capsys.readouterr().err.strip().endswith("has no file d.mp4; there are: a.wav, b.mp4, c.mov")
