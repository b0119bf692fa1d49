"""The order of the quickstart's steps, which it skips, and what it refuses beforehand; the steps are stand-ins."""

import json

import numpy as np
import pytest

import run
from adnerf_jax import quickstart as module
from adnerf_jax.configuration.quickstart import get_config
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.video import VideoWriter

EVERYTHING = ["dataset", "head", "torso", "evaluation", "talking video"]
METRICS = {"settings": {"full": {"psnr": 30.0, "ssim": 0.9}}}


@pytest.fixture
def calls(monkeypatch):
    """Names of the steps that ran, in order."""
    made = []

    def stand_in(name, output, result=None):
        def run(*args):
            path = output(*args)
            path.mkdir(parents=True, exist_ok=True)
            made.append(name or path.name)
            return result

        return run

    monkeypatch.setattr(module, "_make_subject", stand_in("subject", lambda out, _: out))
    monkeypatch.setattr(module, "_prepare", stand_in("dataset", lambda _, out, __: out))
    monkeypatch.setattr(module, "_train", stand_in(None, lambda _, workdir: workdir))
    monkeypatch.setattr(module, "_evaluate", stand_in("evaluation", lambda _, workdir: workdir / "eval", METRICS))
    monkeypatch.setattr(
        module, "_synthesize", stand_in("talking video", lambda _, workdir: workdir.parent / "talking.mp4")
    )
    return made


@pytest.fixture
def media(tmp_path):
    """A short video with sound, and a sound."""
    tone = np.sin(np.arange(8000) / 10).astype(np.float32)
    write_wav(tmp_path / "speech.wav", tone, 16000)
    with VideoWriter(tmp_path / "me.mp4", 32, 32, sound=(tone, 16000)) as writer:
        for _ in range(12):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    return tmp_path


def go(workdir, **settings):
    config = get_config()
    for name, value in settings.items():
        config.update_from_flattened_dict({name: value})
    return module.quickstart(config, workdir)


def test_runs_all_steps_in_order_and_then_skips_all(calls, tmp_path):
    first = go(tmp_path / "w")
    assert calls == ["subject", *EVERYTHING]
    assert first["settings"] == METRICS["settings"]
    assert json.loads((tmp_path / "w/summary.json").read_text()) == first
    calls.clear()
    second = go(tmp_path / "w")
    assert calls == []
    assert second["steps"] == first["steps"] and second["settings"] == first["settings"]


def test_a_change_redoes_its_step_and_what_follows(calls, media):
    settings = {"video": str(media / "me.mp4"), "audio": str(media / "speech.wav")}
    go(media / "w", **settings)
    assert calls == EVERYTHING
    calls.clear()
    go(media / "w", **settings, duration=0.2)
    assert calls == ["talking video"]
    calls.clear()
    go(media / "w", **settings, duration=0.2, **{"torso.train.steps": 7})
    assert calls == ["torso", "evaluation", "talking video"]


def test_a_killed_run_resumes_at_the_interrupted_step(calls, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_evaluate", die)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "w")
    calls.clear()
    go(tmp_path / "w")
    assert calls == ["evaluation", "talking video"]


def test_a_step_whose_output_is_gone_is_done_again(calls, tmp_path):
    go(tmp_path / "w")
    (tmp_path / "w/talking.mp4").rmdir()
    calls.clear()
    go(tmp_path / "w")
    assert calls == ["talking video"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.video={0}/none.mp4", "none.mp4"),
        ("--config.video={0}/notes.txt", "notes.txt"),
        ("--config.audio={0}/none.wav", "none.wav"),
        ("--config.audio={0}/notes.txt", "notes.txt"),
        ("--config.speech=mfcc", "mfcc"),
        ("--config.start=nan", "a start at nan s"),
        ("--config.duration=-1.0", "a duration of -1 s"),
        ("--config.subject.head_steps=0", "config.subject.head_steps is 0: it must be at least 1"),
        ("--config.torso.train.rays=0", "config.train.rays is 0"),
        ("--config.parsing=sam", "config.parsing is 'sam': it must be bisenet or permissive"),
        ("--config.speech={0}/deepspeech.npy", "deepspeech.npy"),
    ],
)
def test_wrong_files_are_refused_before_any_work(calls, tmp_path, capsys, flag, message):
    (tmp_path / "notes.txt").write_text("not a sound")
    argv = ["run.py", "--config=configs/quickstart.py", f"--workdir={tmp_path}/w", flag.format(tmp_path)]
    assert run.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert calls == [] and not (tmp_path / "w").exists()


def test_a_start_behind_the_end_of_the_sound_is_refused_before_any_work(calls, media, tmp_path, capsys):
    argv = ["run.py", "--config=configs/quickstart.py", f"--workdir={tmp_path}/w", "--config.start=60"]
    assert run.main([*argv, f"--config.audio={media}/speech.wav"]) == 2
    assert "has no sound from 60 s on" in capsys.readouterr().err and calls == []


def test_a_disk_that_is_full_is_one_line(calls, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(module, "_prepare", full)
    assert run.main(["run.py", "--config=configs/quickstart.py", f"--workdir={tmp_path}/w"]) == 1
    assert "error: the disk is full (somewhere)" in capsys.readouterr().err


def test_modes_of_one_stage_are_refused(capsys):
    assert run.main(["run.py", "--config=configs/quickstart.py", "--mode=eval"]) == 2
    assert "configs/torso.py" in capsys.readouterr().err
