"""Training of both stages from end to end, on a dataset of 12 frames."""

import json
import sys

import chex
import cv2
import jax
import numpy as np
import pytest
import tiny

from adnerf_jax import checkpoints, sharding
from adnerf_jax.datasets import load_dataset, load_frames
from adnerf_jax.errors import UserError
from adnerf_jax.person import Person
from adnerf_jax.stages import make_stage
from adnerf_jax.train import initial_state, make_update, train

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_the_loss_falls(trained, stage):
    lines = tiny.lines(getattr(trained, stage) / "metrics.jsonl")
    assert np.isfinite([line["loss"] for line in lines]).all()
    # The head's proposal loss rises while the first surfaces form, so the photometric part is watched.
    errors = [line["mse"] for line in lines]
    assert np.mean(errors[-5:]) < 0.6 * np.mean(errors[:5])


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_a_run_leaves_what_the_design_lists(trained, stage):
    workdir = getattr(trained, stage)
    lines = tiny.lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert {"loss", "psnr", "rays_per_s"} <= lines[-1].keys()
    saved = json.loads((workdir / "config.json").read_text())
    assert (saved["stage"], saved["family"], saved["train"]["steps"]) == (stage, "fast", 40)
    assert checkpoints.latest_step(workdir) == 40
    assert Person.load(workdir).transforms.shape == (tiny.TRAIN, 4, 4)
    picture = cv2.imread(str(workdir / "validation/000040.png"))
    # truth | render | error | depth | opacity, one row for the one validation frame of `smoke`.
    assert picture.shape == (tiny.SIZE, 5 * tiny.SIZE, 3)
    assert list(workdir.glob("events.out.tfevents.*"))


def test_checkpoints_and_pictures_come_at_their_steps(trained):
    assert {int(p.name) for p in (trained.head / "checkpoints").iterdir() if p.name.isdigit()} == {30, 40}
    assert {p.name for p in (trained.head / "validation").iterdir()} == {"000020.png", "000040.png"}


def test_the_torso_keeps_its_head_as_it_was(trained):
    head, torso = _parts(trained.head), _parts(trained.torso)
    chex.assert_trees_all_equal(torso["frozen"], head["params"])
    chex.assert_trees_all_equal(torso["scene"], head["scene"])


def test_training_is_finished_once(trained, capsys):
    before = (trained.head / "metrics.jsonl").read_text()
    train(trained.configs[0], trained.head)
    assert "trained already (40 steps)" in capsys.readouterr().err
    assert (trained.head / "metrics.jsonl").read_text() == before


def test_the_step_is_traced_once(trained):
    settings = trained.configs[0]
    dataset = load_dataset(trained.data)
    stage = make_stage(settings, dataset.camera)
    frames = load_frames(dataset, dataset.train)
    state, tx = initial_state(settings, stage, dataset, frames, sharding.make_mesh(), trained.head)
    batches = tiny.ray_sampler(settings, dataset)
    shardings = sharding.batch_sharding(sharding.make_mesh(), batches.batch(0))
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(stage.loss, n=1)
    update = make_update(stage.replace(loss=counted), tx, settings.seed)
    for step in range(3):
        state, _ = update(state, sharding.put(batches.batch(step), shardings))
    assert int(state.step) == 43


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_gradients_reach_every_parameter(trained, stage):
    settings = trained.configs[stage == "torso"]
    dataset = load_dataset(trained.data)
    built = make_stage(settings, dataset.camera)
    parts = _parts(getattr(trained, stage))
    batch = tiny.ray_sampler(settings, dataset).batch(0)

    def loss(params):
        return built.loss(params, parts["frozen"], parts["scene"], batch, jax.random.key(1), jax.numpy.int32(0))[0]

    for path, gradient in jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(parts["params"]))[0]:
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_a_workdir_of_other_settings_is_not_touched(trained):
    other = tiny.config("head", trained.data, steps=40, rays=64)
    before = (trained.head / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"train.rays \(there 128, here 64\)"):
        train(other, trained.head)
    assert (trained.head / "config.json").read_bytes() == before


def test_the_torso_needs_a_head_of_the_same_size(trained, tmp_path):
    settings = tiny.config("torso", trained.data)
    settings.head_checkpoint = str(trained.head)
    settings.model.head.width = 24
    with pytest.raises(UserError, match=r"params/\S+ is \(.*\) there and \(.*\) here"):
        train(settings, tmp_path / "torso")
    settings.head_checkpoint = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="no checkpoint of the head"):
        train(settings, tmp_path / "torso")
    assert not (tmp_path / "torso" / "config.json").exists()


def test_tuning_trains_without_held_out_frames(trained, tmp_path, monkeypatch):
    module = sys.modules["adnerf_jax.train"]
    read = []
    load = module.load_frames
    monkeypatch.setattr(module, "load_frames", lambda dataset, split: read.append(split) or load(dataset, split))
    validators = []
    monkeypatch.setattr(
        module, "Validator", lambda stage, data, held_out, *_, **__: validators.append(held_out) or Mute()
    )
    train(tiny.config("head", trained.data, steps=1, tuning=True), tmp_path / "head")
    assert read[0].img_id.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert validators[0].img_id.tolist() == [10]


class Mute:
    """A validator that draws nothing."""

    def save(self, state, step):
        return None


def _parts(workdir):
    return checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))[1]
