"""The scripts of examples/, run on a small trained person."""

import importlib.util
import pathlib
import types

import pytest

EXAMPLES = sorted((pathlib.Path(__file__).parents[1] / "examples").glob("*.py"))
WRITES = {"cut_out": "out.webm", "say_a_file": "out.mp4", "stream": None, "turn_the_head": "out.mp4"}


def load(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_examples_are_run_here():
    assert [path.stem for path in EXAMPLES] == sorted(WRITES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_runs(path, trained, tmp_path, capsys):
    assert len(path.read_text().splitlines()) <= 40
    out = WRITES[path.stem]
    options = [f"--workdir={trained.torso}", f"--audio={trained.sound}", "--size=32"]
    load(path).main([*options, *([f"--out={tmp_path / out}"] if out else [])])
    said = capsys.readouterr().out
    if out:
        assert (tmp_path / out).stat().st_size > 500 and str(tmp_path / out) in said
    else:
        assert "after" in said and said.count(": (32, 32, 3)") == 8  # 7.5 frames of sound


def test_example_defaults_to_the_driving_speech(trained, tmp_path):
    (tmp_path / "subject").mkdir()
    (tmp_path / "torso").symlink_to(trained.torso)
    (tmp_path / "head").symlink_to(trained.head)
    (tmp_path / "subject" / "driving.wav").symlink_to(trained.sound)
    (path,) = [path for path in EXAMPLES if path.stem == "say_a_file"]
    load(path).main([f"--workdir={tmp_path}", "--size=32", f"--out={tmp_path / 'said.mp4'}"])
    assert (tmp_path / "said.mp4").exists()
