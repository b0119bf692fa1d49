"""What is due after which step, and the throughput that is logged."""

import jax.numpy as jnp
import pytest
import tiny

from adnerf_jax.training import logs
from adnerf_jax.training.logs import MetricWriter, Throughput, log_step
from adnerf_jax.training.schedule import COLLAPSE_CHECK_EVERY, Schedule
from adnerf_jax.training.train import say_cost

SCHEDULE = Schedule(steps=12, log_every=5, checkpoint_every=4, validate_every=6, collapse_check_every=3)


def steps_of(name: str, left_out: tuple[int, ...] = ()) -> list[int]:
    """Steps after which something is due."""
    return [step for step in range(1, 13) if getattr(SCHEDULE.due(step, left_out=step in left_out), name)]


def test_each_thing_is_due_at_its_steps_and_at_the_last_one():
    assert steps_of("log") == [5, 10, 12]
    assert steps_of("checkpoint") == [4, 8, 12]
    assert steps_of("validation") == [6, 12]
    assert steps_of("collapse_check") == [3, 6, 9]  # after the last step, nothing could follow from it
    assert steps_of("last") == [12]
    assert steps_of("finite_check") == [3, 4, 5, 6, 8, 9, 10, 12]
    assert steps_of("update") == list(range(1, 13))


def test_a_step_that_is_left_out_has_no_metrics():
    assert steps_of("log", left_out=(5, 12)) == [10]
    assert steps_of("collapse_check", left_out=(6,)) == [3, 9]
    assert steps_of("update", left_out=(6,)) == [step for step in range(1, 13) if step != 6]
    assert steps_of("checkpoint", left_out=(4, 12)) == [4, 8, 12]  # of the state before
    assert steps_of("validation", left_out=(6, 12)) == [6, 12]


def test_a_configurations_schedule():
    settings = tiny.config("head", steps=40, log_every=7, checkpoint_every=15, validate_every=20)
    assert Schedule.of(settings) == (40, 7, 15, 20, COLLAPSE_CHECK_EVERY)


@pytest.fixture
def clock(monkeypatch):
    """A list whose only item is the time."""
    now = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    return now


def test_the_first_step_is_not_in_the_throughput(clock):
    throughput = Throughput(rays=1000)
    clock[0] += 90.0  # compilation
    throughput.start(1)
    assert throughput.since_start(1) is None
    clock[0] += 2.0
    assert throughput.since_start(5) == 4 * 1000 / 2.0
    clock[0] += 60.0  # validation
    throughput.start(5)
    clock[0] += 1.0
    assert throughput.since_start(7) == 2000.0


def test_what_is_logged(tmp_path):
    metrics = {"loss": jnp.float32(0.02), "mse": jnp.float32(0.01)}
    with MetricWriter(tmp_path, 0) as writer:
        first = log_step(writer, 1, metrics, None, None)
        second = log_step(writer, 2, metrics, 12345.6, 21.5)
    assert first == "loss 0.02000 PSNR 20.0 dB" and second == "loss 0.02000 PSNR 20.0 dB 12,346 rays/s"
    lines = tiny.lines(tmp_path / "metrics.jsonl")
    assert list(lines[0]) == ["step", "loss", "mse", "psnr"]
    assert list(lines[1]) == ["step", "loss", "mse", "psnr", "validation_psnr", "rays_per_s"]
    assert lines[1]["validation_psnr"] == 21.5 and lines[1]["rays_per_s"] == 12345.6
    assert log_step(None, 2, metrics, 12345.6, None) == second  # a process that writes nothing


def test_the_cost_of_a_long_training_is_printed(capsys):
    say_cost(2 * 3600.0, "paper")
    assert capsys.readouterr().err == ""
    say_cost(5 * 3600.0, "fast")
    assert capsys.readouterr().err == "at this rate, training takes 5 h 00 min on this machine\n"
    say_cost(5 * 3600.0, "paper")
    assert "the variant :fast takes minutes" in capsys.readouterr().err
