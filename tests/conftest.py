"""Fixtures that several test files share because they take seconds to make."""

import collections
import contextlib
import fcntl
import os
import pathlib
import shutil
import types
from collections.abc import Callable

import clips
import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.data.datasets import load_dataset, load_frames
from adnerf_jax.media.audio import write_wav
from adnerf_jax.training.train import train

# Without fusion emitters XLA compiles in two thirds of the time. Newer versions have no choice, and end the process at
# an unknown flag. Processes that tests start inherit it.
if jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

# The suite's processes could not share an accelerator, and tolerances are those of CPUs.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
# Two devices, so that every training of the suite is sharded. Shapes and types that match by accident are errors.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests come first, so that the workers end at about the same time."""
    tests = collections.Counter(item.path for item in items)
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path] / tests[item.path])


def _of_this_run(tmp_path_factory) -> pathlib.Path:
    """A folder that all workers of a run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def _made_once(tmp_path_factory, name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """A folder that the first worker to request it fills; the others wait."""
    folder = _of_this_run(tmp_path_factory) / name
    done = folder.with_suffix(".done")
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory) -> None:
    """Many tests compile the same programs: the first one's are kept for all workers, or where the environment says."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(_of_this_run(tmp_path_factory) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@contextlib.contextmanager
def _hardly_optimised():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def quick_compilation():
    """Turns off XLA's optimisations for tests that compile for seconds what runs for milliseconds."""
    with _hardly_optimised():
        yield


@pytest.fixture
def nets(monkeypatch) -> dict:
    """The preparation without its networks (`clips.stand_in`)."""
    return clips.stand_in(monkeypatch)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> pathlib.Path:
    """A small dataset. Tests do not write into it."""
    return tiny.make_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture(scope="session")
def dataset(tiny_data):
    """The small dataset, loaded."""
    return load_dataset(tiny_data)


@pytest.fixture(scope="session")
def frames(dataset):
    """Its training frames."""
    return load_frames(dataset, dataset.train)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> types.SimpleNamespace:
    """A small head and its torso, trained by `train`, and a sound to speak."""

    def settings(root: pathlib.Path) -> tuple[ConfigDict, ConfigDict]:
        head = tiny.config("head", root / "dataset", steps=40, checkpoint_every=15, validate_every=20)
        torso = tiny.config("torso", root / "dataset", steps=40, checkpoint_every=15)
        torso.head_checkpoint = str(root / "head")
        return head, torso

    def make(root: pathlib.Path) -> None:
        tiny.make_dataset(root / "dataset", channels=80, speech="logmel")
        _train_both(settings(root), root)
        sound = np.random.default_rng(1).normal(size=round(0.3 * SAMPLE_RATE)) * 0.1  # 7.5 frames
        write_wav(root / "speech.wav", sound, SAMPLE_RATE)

    shared = _made_once(tmp_path_factory, "trained", make)
    return _own_copy(shared, tmp_path_factory, settings(shared))


@pytest.fixture(scope="session")
def trained_paper(tmp_path_factory) -> types.SimpleNamespace:
    """A small head and torso of the paper's family, trained on DeepSpeech features; attention begins half-way."""

    def settings(root: pathlib.Path) -> tuple[ConfigDict, ConfigDict]:
        head, torso = (
            tiny.config(stage, root / "dataset", "smoke", steps=20, checkpoint_every=6, audio_components=29)
            for stage in ("head", "torso")
        )
        torso.head_checkpoint = str(root / "head")
        return head, torso

    def make(root: pathlib.Path) -> None:
        tiny.make_dataset(root / "dataset", channels=29)
        _train_both(settings(root), root)

    shared = _made_once(tmp_path_factory, "trained_paper", make)
    return _own_copy(shared, tmp_path_factory, settings(shared))


def _train_both(settings: tuple[ConfigDict, ConfigDict], root: pathlib.Path) -> None:
    with _hardly_optimised():
        for config in settings:
            train(config, root / config.stage)


def _own_copy(shared: pathlib.Path, tmp_path_factory, configs: tuple[ConfigDict, ConfigDict]) -> types.SimpleNamespace:
    """The stages' folders as this worker's own, since tests evaluate and render into them."""
    root = tmp_path_factory.mktemp(shared.name)
    for stage in ("head", "torso"):
        shutil.copytree(shared / stage, root / stage)
    return types.SimpleNamespace(
        root=root,
        data=shared / "dataset",
        head=root / "head",
        torso=root / "torso",
        sound=shared / "speech.wav",
        configs=configs,
    )
