"""The command line: every user error ends in one line and status 2."""

import errno
import pathlib
import shutil

import pytest

import run
from adnerf_jax.cli import parse_command

ROOT = pathlib.Path(run.__file__).parent
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Nothing is written into the repository."""
    monkeypatch.chdir(tmp_path)


def config(name: str) -> str:
    return f"--config={ROOT}/configs/{name}"


def refused(capsys, *arguments: str, status: int = 2) -> str:
    """Runs a command that must fail, and returns its one line."""
    assert run.main(["run.py", *map(str, arguments)]) == status
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and err.rstrip().splitlines()[-1] == errors[0], err
    assert "Traceback" not in err and out == ""
    return errors[0]


def test_help(capsys):
    for arguments in (["--help"], ["-h"]):
        assert run.main(["run.py", *arguments]) == 0
        assert "usage: python run.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([config("head.py:fats")], "unknown variant fats; there are: fast, small, smoke, single_nerf, expression"),
        ([config("quickstart.py:fast")], "unknown variant fast"),
        ([config("head.py:small,fast")], "the variant small goes with the paper's family: leave fast out"),
        ([config("torso.py:single_nerf")], "with the variant single_nerf the head stage learns the whole person"),
        ([config("nose.py")], f"error: there is no configuration file {ROOT}/configs/nose.py: check --config"),
        (
            ["--config", "nose.py:fast", "--config.train.steps=3"],
            "there is no configuration file nose.py: check",
        ),
        (["--workdir=w"], "--config is missing"),
        ([config("head.py:fast"), "--config.data=https://host/a//b?c"], "error: https://host/a//b?c is a URL"),
        ([config("head.py:fast"), "--workdir=s3://bucket/w"], "error: s3://bucket/w is a URL"),
        (["--config=~/nose.py"], "there is no configuration file /"),
        ([config("head.py:fast"), "--config.stage=quickstart"], "config.stage is not to be changed"),
        ([config("head.py:fast"), "--mode=dance"], "dance"),
        ([config("head.py:fast"), "--wrokdir=w"], "wrokdir"),
        ([config("head.py:fast"), "--config.train.steps=many"], "many"),
        ([config("head.py:fast"), "--config.train.stepz=3"], "error: no such setting: 'stepz'; Did you mean \"steps\""),
        ([config("head.py:fast"), "--config.trian.steps=3"], "error: no such setting: 'trian'; Did you mean \"train\""),
        ([config("head.py:fast"), "--config.train.steps.x=3"], "error: no such setting: Attribute"),
        ([config("head.py:fast"), "--config.variants[5]=3"], "error: no such setting: tuple index"),
        ([f"--confg={ROOT}/configs/head.py"], "Unknown command line flag 'confg'. Did you mean: config"),
        ([config("head.py:fast"), "w"], "unexpected argument 'w'"),
        ([config("quickstart.py"), "--mode=eval"], "--mode=eval works on one stage"),
        ([config("quickstart.py:smoke"), "--config.video=gone.mp4"], "gone.mp4"),
        ([config("head.py:fast"), "--config.data=gone"], "no dataset at gone"),
        ([config("torso.py:fast"), "--mode=eval", "--workdir=w"], "w is not the folder of a trained stage"),
        ([config("torso.py:fast"), "--mode=render", "--workdir=w"], "w is not the folder of a trained stage"),
    ],
)
def test_mistakes_on_the_command_line(capsys, tmp_path, arguments, message):
    assert message in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_both_stages(capsys, tmp_path):
    hint = "w is not the folder of a trained stage (config.json is missing): use --workdir=w/head"
    for stage, message in (("head", hint), ("torso", f"{hint} or --workdir=w/torso")):
        (tmp_path / "w" / stage).mkdir(parents=True)
        (tmp_path / "w" / stage / "config.json").write_text("{}")
        assert message in refused(capsys, config("head.py"), "--mode=eval", "--workdir=w")


def test_the_torso_before_the_head(capsys, tmp_path):
    """Before the built-in dataset is made."""
    assert run.main(["run.py", config("torso.py:fast,smoke"), "--workdir=w/torso"]) == 2
    (line,) = capsys.readouterr().err.splitlines()  # nothing before it
    assert line.startswith("error: no checkpoint of the head in w/head: train it first")
    assert list(tmp_path.iterdir()) == []


def test_a_head_of_another_size(capsys, trained):
    line = refused(
        capsys,
        config("torso.py:fast,smoke"),
        f"--config.data={trained.data}",
        f"--config.head_checkpoint={trained.head}",
        "--config.model.head.width=24",
        "--workdir=torso",
    )
    assert f"the head in {trained.head} was trained with other settings: model.head." in line


def test_a_run_with_other_settings(capsys, trained):
    line = refused(capsys, config("head.py:fast,smoke"), f"--config.data={trained.data}", f"--workdir={trained.head}")
    assert "holds a run with other settings" in line


def test_renders_that_cannot_be(capsys, trained, tmp_path):
    render = (config("torso.py:fast"), "--mode=render", f"--workdir={trained.torso}")
    assert "nothing to say" in refused(capsys, *render)
    text = tmp_path / "speech.wav"
    text.write_text("these are words, but no sound\n" * 100)
    assert "speech.wav" in refused(capsys, *render, f"--config.render.audio={text}")
    assert "gone.wav" in refused(capsys, *render, "--config.render.audio=gone.wav")
    sound = f"--config.render.audio={trained.sound}"
    assert "no sound from 7 s on" in refused(capsys, *render, sound, "--config.render.start=7")
    assert "holds a torso stage" in refused(
        capsys, config("head.py:fast"), "--mode=render", f"--workdir={trained.torso}", sound
    )
    assert [p.name for p in tmp_path.iterdir()] == ["speech.wav"]


def test_a_workdir_without_its_checkpoints(capsys, trained, tmp_path):
    shutil.copytree(trained.head, tmp_path / "head", ignore=shutil.ignore_patterns("checkpoints"))
    line = refused(capsys, config("head.py:fast"), "--mode=eval", "--workdir=head")
    assert "no checkpoint of a trained stage in head" in line


def test_what_the_machine_refuses_is_status_one(capsys, trained, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adnerf_jax.training.train.train", full)
    line = refused(capsys, config("head.py:fast"), f"--config.data={trained.data}", status=1)
    assert "disk is full" in line


def test_evaluation_takes_the_saved_configuration_and_the_overrides(capsys, trained):
    arguments = [config("torso.py:fast"), "--mode=eval", f"--workdir={trained.torso}", "--config.eval.every=2"]
    assert run.main(["run.py", *arguments]) == 0
    assert len((trained.torso / "eval/frames.csv").read_text().splitlines()) == 1 + 3
    assert "full: PSNR" in capsys.readouterr().err


def test_paths_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = parse_command(["run.py", config("quickstart.py"), "--config.video=~/me.mp4", "--workdir=~/w"])
    assert command.config.video == command.overrides["video"] == f"{tmp_path}/me.mp4"
    assert command.workdir == tmp_path / "w"


def test_default_folders(monkeypatch, trained):
    seen = []
    monkeypatch.setattr("adnerf_jax.training.train.train", lambda config, workdir: seen.append((config, workdir)))
    data = f"--config.data={trained.data}"
    shutil.copytree(trained.head, "runs/fast_smoke/head")
    assert run.main(["run.py", config("torso.py:smoke,fast"), data]) == 0
    settings, workdir = seen[0]
    assert workdir == pathlib.Path("runs/fast_smoke/torso")
    assert settings.head_checkpoint == "runs/fast_smoke/head"


@pytest.mark.parametrize("mode", ["eval", "render"])
def test_other_processes_leave_to_the_first_what_is_not_divided(mode, capsys):
    of_several = f"--mode={mode}", config("torso.py"), "--workdir=nowhere", "--process=1"
    assert run.main(["run.py", *of_several]) == 0
    assert "by the first process alone" in capsys.readouterr().err
    assert "nowhere" in refused(capsys, *of_several, f"--config.{mode}.shard=2/2")
