"""What can interrupt a long training: SIGTERM, numbers that are not finite, data that change."""

import os
import pathlib
import runpy
import signal
import sys

import chex
import jax
import jax.numpy as jnp
import pytest
import tiny

from adnerf_jax.common.errors import Preempted, UserError
from adnerf_jax.common.progress import PREEMPTED, exit_status
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.batch_loader import BatchLoader
from adnerf_jax.training.faults import Termination
from adnerf_jax.training.runs import check_metadata, checkpoint_metadata
from adnerf_jax.training.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")


def parts_of(workdir):
    step, parts = checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))
    return step, parts["params"]


def steps_reported(workdir):
    return [line["step"] for line in tiny.lines(workdir / "metrics.jsonl")]


def test_sigterm_saves_and_the_next_run_ends_the_same(tiny_data, tmp_path, monkeypatch, capsys):
    settings = tiny.config("head", tiny_data, steps=6)
    train(settings, tmp_path / "straight")
    batches = BatchLoader.batches

    def terminated(self, first, end):
        for step, batch in enumerate(batches(self, first, end), first):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(BatchLoader, "batches", terminated)
    assert exit_status(lambda: train(settings, tmp_path / "terminated")) == PREEMPTED == 75
    assert "stopped by SIGTERM: head is saved at step" in capsys.readouterr().err
    kept = checkpoints.latest_step(tmp_path / "terminated")
    assert kept == 4 and steps_reported(tmp_path / "terminated") == [1, 2, 3, 4]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.setattr(BatchLoader, "batches", batches)
    train(settings, tmp_path / "terminated")
    chex.assert_trees_all_equal(parts_of(tmp_path / "terminated"), parts_of(tmp_path / "straight"))
    assert steps_reported(tmp_path / "terminated") == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def poisoned(monkeypatch):
    """The fifth step's squared error is not a number."""
    module = sys.modules["adnerf_jax.training.train"]
    make = module.make_stage

    def spoilt(*args):
        stage = make(*args)

        def loss(params, frozen, scene, batch, key, step, age=None):
            total, metrics = stage.loss(params, frozen, scene, batch, key, step, age)
            wrong = jnp.where(step == 4, jnp.nan, 0.0)
            return total + wrong, metrics | {"mse": metrics["mse"] + wrong}

        return stage.replace(loss=loss)

    monkeypatch.setattr(module, "make_stage", spoilt)


def test_metrics_that_are_not_finite_stop_the_run_and_are_named(tiny_data, tmp_path, poisoned):
    settings = tiny.config("head", tiny_data, steps=8, checkpoint_every=3, log_every=100)
    with pytest.raises(UserError, match="step 5 of the head: not a finite number: .*mse.* that of step 3: lower"):
        train(settings, tmp_path)
    assert checkpoints.latest_step(tmp_path) == 3


def test_rollback_goes_back_and_leaves_the_step_out(tiny_data, tmp_path, poisoned, capsys):
    settings = tiny.config("head", tiny_data, steps=8, checkpoint_every=3, on_nan="rollback")
    train(settings, tmp_path)
    assert "going back to step 3, leaving that step out" in capsys.readouterr().err
    step, params = parts_of(tmp_path)
    assert step == 8 and all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert steps_reported(tmp_path) == [1, 2, 3, 4, 6, 7, 8]


def test_on_nan_is_stop_or_rollback(tiny_data, tmp_path):
    with pytest.raises(UserError, match="config.train.on_nan is 'ignore': it must be stop or rollback"):
        train(tiny.config("head", tiny_data, on_nan="ignore"), tmp_path)


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path, capsys):
    settings = tiny.config("head")
    meta = checkpoint_metadata(settings, "a" * 32)
    assert meta["seed"] == 0 and meta["versions"]["jax"] == jax.__version__
    check_metadata(meta, settings, "a" * 32, tmp_path)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="has changed since the checkpoints in .* aaaaaaaa… there, bbbbbbbb… here"):
        check_metadata(meta, settings, "b" * 32, tmp_path)
    with pytest.raises(UserError, match=r"other settings: train.rays \(there 128, here 64\)"):
        check_metadata(meta, tiny.config("head", rays=64), "a" * 32, tmp_path)
    meta["versions"]["jax"] = "0.0.1"
    check_metadata(meta, settings, "a" * 32, tmp_path)
    assert "written by jax 0.0.1" in capsys.readouterr().err


def test_the_handler_of_sigterm_is_restored():
    with Termination() as termination:
        assert not termination.requested(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.requested(1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_after_the_work_is_done_is_ignored(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--help"])
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(pathlib.Path(__file__).parents[2] / "run.py"), run_name="__main__")
        assert ended.value.code == 0 and signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_the_exit_status_of_a_preemption(capsys):
    def ended():
        raise Preempted("head is saved")

    assert exit_status(ended) == 75
    assert capsys.readouterr().err == "stopped by SIGTERM: head is saved; run the same command again to continue\n"
