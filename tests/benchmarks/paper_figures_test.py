"""The paper's figures from small trained stages, and the results table with stubbed runs."""

import json
import pathlib

import cv2
import numpy as np
import pytest
import tiny

import run
from adnerf_jax import cli
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_json
from adnerf_jax.common.timing import WINDOW
from adnerf_jax.data import schema
from adnerf_jax.evaluation.scoring import make_scorer
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.image import write_image
from adnerf_jax.media.video import read_frames
from benchmarks import ablations, own_table, paper_figures

SIZE, ROOT = tiny.SIZE, pathlib.Path(run.__file__).parent


@pytest.mark.usefixtures("quick_compilation")
class TestFigures:
    def test_two_fields_against_one(self, trained, tmp_path, monkeypatch, capsys):
        names = [name for name, _, _ in paper_figures.SETTINGS]
        monkeypatch.setattr(paper_figures, "compared", lambda *_: dict.fromkeys(names, trained.torso))
        assert paper_figures.main(["figure4", f"--data={trained.data}", f"--workdir={tmp_path}"]) == 0
        table = json.loads((tmp_path / "figure4.json").read_text())
        assert [table[name]["SSIM in the paper"] for name in names] == [0.92, 0.88, 0.87]
        assert {"ssim", "psnr", "seam_error"} <= table[names[0]].keys()
        # Rows: truth, and render and error of both; columns: the two held-out frames.
        assert cv2.imread(str(tmp_path / "figure4.png")).shape == (5 * SIZE, 2 * SIZE, 3)
        assert "SSIM in the paper" in (tmp_path / "figure4.html").read_text() + capsys.readouterr().out

    @pytest.mark.parametrize(("family", "steps"), [("small", 1600), ("fast", None)])
    def test_trainings_of_the_figures(self, tmp_path, monkeypatch, family, steps):
        trained = []
        monkeypatch.setattr(
            ablations, "train", lambda config, folder: trained.append((folder, config.train.steps, config.variants))
        )
        last = paper_figures.compared((0, 1, 2), tmp_path, tmp_path, family, None)
        folders = [str(folder.relative_to(tmp_path)) for folder, *_ in trained]
        two, one = (f"{family}/head", f"{family}/torso"), (f"{family}_single_nerf/head",)
        assert folders == [*two, f"{family}_expression/head", f"{family}_expression/torso", *one]
        assert [folder.name for folder in last.values()] == ["torso", "torso", "head"]
        assert trained[3][2] == (family, "expression")
        # As many rays for one field as for two together; the fast family as configured.
        assert [count for _, count, _ in trained] == ([800] * 4 + [1600] if steps else [2600, 600, 2600, 600, 2600])

    @pytest.mark.parametrize("family", ["small", "fast"])
    def test_no_other_code_moves_the_lips_that_figure_3_compares(self, tmp_path, monkeypatch, family):
        trained = {}
        monkeypatch.setattr(
            ablations, "train", lambda config, folder: trained.update({folder.relative_to(tmp_path): config.model.head})
        )

        class Trained(Exception):
            """After the trainings."""

        def evaluate(*_):
            raise Trained

        monkeypatch.setattr(paper_figures, "settings_of", lambda *_, **__: None)
        monkeypatch.setattr(paper_figures, "evaluate", evaluate)
        with pytest.raises(Trained):
            paper_figures.figure3(tmp_path, tmp_path, family, None)
        eyes, name = (("eyes",), "fast{}_no_lips") if family == "fast" else ((), "small{}")
        codes = {str(folder): tuple(head.codes) for folder, head in trained.items()}
        assert codes == {
            f"{name.format(variant)}/{stage}": (code, *eyes)
            for variant, code in (("", "audio"), ("_expression", "expression"))
            for stage in ("head", "torso")
        }
        assert family == "small" or {tuple(head.shape_codes) for head in trained.values()} == {eyes}

    def test_a_ground_truth_without_faces_is_refused(self, trained, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(paper_figures, "compared", lambda *_, **__: {"a": trained.torso})
        monkeypatch.setattr(paper_figures, "evaluate", lambda *_: {"settings": {"full": {"ssim": 0.9}}})
        rows = [{"setting": "full", "lip_opening_truth": np.nan}]
        monkeypatch.setattr(paper_figures, "read_table", lambda path: rows)
        assert paper_figures.main(["figure3", f"--data={trained.data}", f"--workdir={tmp_path}"]) == 2
        assert "finds no face in the held-out frames" in capsys.readouterr().err

    def test_background_and_pose(self, trained, tmp_path):
        write_image(tmp_path / "red.png", np.full((90, 70, 3), (250, 0, 0), np.uint8))
        command = ["figure10", f"--stage={trained.torso}", f"--workdir={tmp_path}"]
        assert paper_figures.main([*command, "--backgrounds", str(tmp_path / "red.png")]) == 0
        rows = cv2.imread(str(tmp_path / "figure10.png"))[..., ::-1].reshape(5, SIZE, -1, 3)
        truth, ours, red, *turned = rows
        corner = (0, 0)
        np.testing.assert_array_equal(red[corner], (250, 0, 0))
        np.testing.assert_array_equal(ours[corner], turned[0][corner])  # the background does not turn with the head
        assert np.abs(truth[corner].astype(int) - ours[corner]).max() <= 1
        assert (ours != turned[0]).any() and (turned[0] != turned[1]).any()
        angles = json.loads((tmp_path / "figure10.json").read_text())
        assert angles["turned"] != angles["turned back"]

    def test_the_speech_of_others(self, trained, tmp_path, monkeypatch):
        monkeypatch.setattr(paper_figures, "make_scorer", lambda *_: make_scorer("", False, SIZE))
        other = tmp_path / "other.wav"
        write_wav(other, np.random.default_rng(2).normal(size=4800) * 0.1, 16000)
        command = ["figure9", f"--stage={trained.torso}", f"--workdir={tmp_path}", "--voices", str(trained.sound)]
        assert paper_figures.main([*command, str(other)]) == 0
        assert set(json.loads((tmp_path / "figure9.json").read_text())) == {"speech", "other"}
        assert sum(1 for _ in read_frames(tmp_path / "figure9/other.mp4")) == 8
        assert cv2.imread(str(tmp_path / "figure9.png")).shape == (2 * SIZE, 5 * SIZE, 3)
        assert paper_figures.main([*command, str(trained.sound)]) == 2  # the same twice


METRICS = {"settings": {"full": {"psnr": 25.5, "ssim": 0.9}, "head": {"psnr": 30.126}}}


@pytest.fixture
def runs(monkeypatch):
    """Stubs `run.main` and records its commands; each evaluation writes the same metrics."""
    commands = []

    def main(argv):
        commands.append(argv[1:])
        if "--mode=eval" in argv:
            folder = next(a.removeprefix("--workdir=") for a in argv if a.startswith("--workdir="))
            write_json(f"{folder}/eval/metrics.json", METRICS)
        return 0

    monkeypatch.setattr(own_table.run, "main", main)
    monkeypatch.setattr(own_table, "matrix_rate", lambda: 110.0)
    return commands


def test_finished_settings_are_not_repeated(runs, tiny_data, tmp_path, capsys):
    command = [f"--data=clip={tiny_data}", f"--workdir={tmp_path}", "--only", "fast", "… one field", "… no attention"]
    assert own_table.main(command) == 0
    trained = [" ".join(c) for c in runs if "--mode=eval" not in c]
    assert len(trained) == 4 and len(runs) == 7  # one field, and a head without attention, have no torso stage
    assert sum("--config.train.attention_from=" in c for c in trained) == 1
    assert sum("--config.eval.attention=False" in c for c in runs) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[2] == "| clip, fast |  | 30.13 |  |  |  | 25.50 | 0.900 |  |  | 0 |"
    assert (tmp_path / "table.md").read_text() == printed
    runs.clear()
    assert own_table.main(command) == 0 and runs == []
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", own_table.SETTINGS)
def test_the_options_of_each_setting_are_valid(name):
    setting = own_table.SETTINGS[name]
    for fields, mode in ((setting.changes, "train"), (setting.evaluation, "eval")):
        options = own_table._options(fields)
        command = cli.parse_command(
            ["run.py", f"--config={ROOT}/configs/head.py:{setting.variants}", f"--mode={mode}", *options]
        )
        assert command.overrides == fields


def test_a_failed_run_ends_the_table_with_an_error(runs, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own_table.run, "main", lambda argv: 130)
    assert own_table.main([f"--data=clip={tiny_data}", f"--workdir={tmp_path}", "--only", "fast"]) == 2
    assert "ended with status 130: run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=clip"], "names no dataset"),
        (["--data=clip=nowhere"], "names no dataset"),
        (["--data=clip=nowhere", "--only", "slow"], "no setting is called slow"),
    ],
)
def test_unusable_arguments_are_refused(tmp_path, capsys, arguments, message):
    assert own_table.main([*arguments, f"--workdir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_dataset_with_other_features(tmp_path):
    source = tiny.make_dataset(tmp_path / "source")
    write_wav(source / schema.SOUND, np.random.default_rng(0).normal(size=16000) * 0.1, 16000)
    before = np.load(source / schema.AUDIO_WINDOWS)
    copy = own_table.changed_dataset(source, tmp_path / "copy", own_table.logmel)
    assert np.load(copy / schema.AUDIO_WINDOWS).shape == (tiny.CLIP, WINDOW, 80)
    assert schema.load_manifest(copy)["speech"]["encoder"] == "logmel"
    np.testing.assert_array_equal(np.load(source / schema.AUDIO_WINDOWS), before)  # files are shared, not changed
    assert (copy / schema.BACKGROUND).samefile(source / schema.BACKGROUND)

    def broken(source, copy):
        raise UserError("no")

    with pytest.raises(UserError):
        own_table.changed_dataset(source, tmp_path / "other", broken)
    assert not (tmp_path / "other").exists()
