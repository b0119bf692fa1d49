"""Two processes of two devices train and evaluate as one of one device does.

`benchmarks.faults` checks that each notices the loss of the other.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny

from adnerf_jax.common.files import read_json
from adnerf_jax.evaluation.evaluate import evaluate
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.training import checkpoints
from adnerf_jax.training.runs import load_config
from adnerf_jax.training.train import train
from benchmarks.fault_jobs import free_address

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow

ONE_OF_SEVERAL = """
import pathlib, sys
import jax
jax.config.update("jax_disable_most_optimizations", True)
import tiny
from adnerf_jax.common import processes
from adnerf_jax.common.progress import exit_status
from adnerf_jax.training.train import train

address, count, index, data, workdir, steps, every = sys.argv[1:]

def main():
    processes.start(address, int(count), int(index))
    with processes.together():
        train(tiny.config("head", data, steps=int(steps), checkpoint_every=int(every), validate_every=4), workdir)

sys.exit(exit_status(main))
"""


ONE_PART = """
import sys
import jax
jax.config.update("jax_disable_most_optimizations", True)
from adnerf_jax.evaluation.evaluate import evaluate
from adnerf_jax.training.runs import load_config

workdir, part = sys.argv[1:]
config = load_config(workdir)
config.eval.update(report=False, shard=part)
assert jax.device_count() == 2
evaluate(config, workdir)
"""


def start(code: str, *arguments) -> subprocess.Popen:
    """One process with two devices."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def both(*started: subprocess.Popen) -> list[str]:
    """Waits for two processes; what each printed."""
    said = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return said


def numbers(workdir, name: str) -> np.ndarray:
    return np.array([line[name] for line in tiny.lines(workdir / "metrics.jsonl")])


@pytest.mark.usefixtures("quick_compilation")
def test_two_processes_train_as_one_does_and_one_goes_on_where_they_stopped(tiny_data, tmp_path):
    settings = tiny.config("head", tiny_data, steps=8, checkpoint_every=4, validate_every=4)
    train(settings, tmp_path / "one")
    address = free_address()
    said = both(*(start(ONE_OF_SEVERAL, address, 2, index, tiny_data, tmp_path / "two", 4, 4) for index in range(2)))
    # One of them prints and writes.
    assert "4 cpu device(s) of 2 processes" in said[0] and "head" not in said[1]
    assert len(list((tmp_path / "two").glob("events.*"))) == 1
    assert checkpoints.latest_step(tmp_path / "two") == 4
    assert read_json(tmp_path / "two/config.json", "settings")["train"]["steps"] == 4
    train(settings, tmp_path / "two")
    assert list(numbers(tmp_path / "two", "step")) == list(range(1, 9))
    for name in ("loss", "mse", "gradient"):
        # Means over rays are added in another order, 1e-7 relative; Adam's first steps magnify that.
        np.testing.assert_allclose(numbers(tmp_path / "two", name), numbers(tmp_path / "one", name), rtol=1e-4)
    validated = [tiny.lines(tmp_path / w / "metrics.jsonl")[3]["validation_psnr"] for w in ("one", "two")]
    assert validated[0] == pytest.approx(validated[1], abs=1e-3)


@pytest.mark.usefixtures("quick_compilation")
def test_two_processes_evaluate_as_one_does(trained, monkeypatch):
    config = load_config(trained.torso)
    config.eval.report = False
    written = [trained.torso / "eval" / name for name in ("metrics.json", "frames.csv", "contact.png")]
    evaluate(config, trained.torso)
    one = [path.read_bytes() for path in written]
    both(*(start(ONE_PART, trained.torso, part) for part in ("1/2", "2/2")))
    assert len(list((trained.torso / "eval.frames").glob("*.png"))) > 1
    monkeypatch.delattr(TrainedStage, "layers")  # all is rendered
    evaluate(config, trained.torso)
    assert [path.read_bytes() for path in written] == one
