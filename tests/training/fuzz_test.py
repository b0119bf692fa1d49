"""Part of `benchmarks.fuzz`: corrupted files are read, or refused in one line."""

import dataclasses
import json
import shutil

import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import load_dataset, load_frames
from adnerf_jax.preprocessing.survey import Survey
from adnerf_jax.training import checkpoints
from benchmarks import fuzz as fuzzing
from benchmarks.fuzz import fuzz

SURVEY = {name: [1.0] if name == "cuts" else 2 for name in (field.name for field in dataclasses.fields(Survey))}


@pytest.mark.slow
def test_corrupted_files_are_read_or_refused(trained, tmp_path):
    data = tiny.add_landmarks(shutil.copytree(trained.data, tmp_path / "data"))
    manifest = json.loads((data / schema.MANIFEST).read_text())
    (data / schema.MANIFEST).write_text(json.dumps(manifest | {"survey": SURVEY}))
    seen = fuzz(data, trained.head, 80, 1, tmp_path / "fuzz")
    wrong = {outcome for (_, outcome) in seen if outcome.startswith("WRONG")}
    assert not wrong
    assert sum(n for (_, outcome), n in seen.items() if outcome == "refused") > 20
    assert {("eval", "read"), ("render", "read")} <= seen.keys()
    assert checkpoints.latest_step(trained.head) == 40


def test_a_write_elsewhere_is_noticed(trained, tmp_path, monkeypatch):
    """Where links are followed: an evaluation deletes the report of the folder beside the workdir."""

    def delete(workdir, *_):
        (workdir.parent.parent / "elsewhere/report.html").unlink()

    monkeypatch.setattr(fuzzing, "use", delete)
    seen = fuzz(trained.data, trained.head, 40, 1, tmp_path / "fuzz")
    assert any("wrote or deleted ['elsewhere/report.html']" in outcome for _, outcome in seen)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "1/../../x"])
def test_frames_are_named_by_numbers_alone(tiny_data, tmp_path, name):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    path = data / "transforms_train.json"
    index = json.loads(path.read_text())
    index["frames"][2]["img_id"] = name
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="not an AD-NeRF dataset index"):
        load_dataset(data)


@pytest.mark.parametrize("name", ["-dash", "two words", 'it\'s "a"', "line\nbreak", "Grüße 你好", "%d 100%"])
def test_any_name_of_a_folder(tiny_data, tmp_path, name):
    data = shutil.copytree(tiny_data, tmp_path / name, ignore=shutil.ignore_patterns(".frames"))
    dataset = load_dataset(data)
    assert len(load_frames(dataset, dataset.val)) == tiny.VAL
