"""What several files of tests share because it takes a few seconds to make."""

import contextlib
import os
import pathlib
import types

import clips
import jax
import numpy as np
import pytest
import tiny

from adnerf_jax.data.datasets import load_dataset, load_frames
from adnerf_jax.media.audio import write_wav
from adnerf_jax.training.train import train

# The suite's processes could not share an accelerator, and tolerances are those of CPUs.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory) -> None:
    """Many tests compile the same training step; the first one's is kept for the others of this run."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
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
    """For modules of tests that compile for seconds what runs for milliseconds: XLA's cheapest code."""
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
    root = tmp_path_factory.mktemp("trained")
    data = tiny.make_dataset(root / "dataset", channels=80, speech="logmel")
    head = tiny.config("head", data, steps=40, checkpoint_every=15, validate_every=20)
    torso = tiny.config("torso", data, steps=40, checkpoint_every=15)
    torso.head_checkpoint = str(root / "head")
    with _hardly_optimised():
        train(head, root / "head")
        train(torso, root / "torso")
    sound = root / "speech.wav"
    write_wav(sound, np.random.default_rng(1).normal(size=round(0.3 * 16000)) * 0.1, 16000)  # 7.5 frames
    return types.SimpleNamespace(
        root=root, data=data, head=root / "head", torso=root / "torso", sound=sound, configs=(head, torso)
    )


@pytest.fixture(scope="session")
def trained_paper(tmp_path_factory) -> types.SimpleNamespace:
    """A small head and torso of the paper's family, which heard DeepSpeech features; attention begins half-way."""
    root = tmp_path_factory.mktemp("trained_paper")
    data = tiny.make_dataset(root / "dataset", channels=29)
    head, torso = (
        tiny.config(stage, data, "smoke", steps=20, checkpoint_every=6, audio_components=29)
        for stage in ("head", "torso")
    )
    torso.head_checkpoint = str(root / "head")
    with _hardly_optimised():
        train(head, root / "head")
        train(torso, root / "torso")
    return types.SimpleNamespace(root=root, data=data, head=root / "head", torso=root / "torso", configs=(head, torso))
