"""Training of both stages from end to end, on a dataset of 12 frames."""

import json
import sys
import time
import types

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import dataset_of, load_dataset
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.data.person import Person
from adnerf_jax.training import checkpoints, logs, sharding
from adnerf_jax.training.batch_loader import BatchLoader
from adnerf_jax.training.density_collapse import check_collapse, reinitialise
from adnerf_jax.training.initialise import initial_state
from adnerf_jax.training.stages import make_stage
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.train import train
from adnerf_jax.training.update import make_update
from adnerf_jax.training.validation import Validation

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_the_loss_falls(trained, stage):
    lines = tiny.lines(getattr(trained, stage) / "metrics.jsonl")
    assert np.isfinite([line["loss"] for line in lines]).all()
    # The head's proposal loss rises while the first surfaces form, so the photometric part is watched.
    errors = [line["mse"] for line in lines]
    assert np.mean(errors[-5:]) < 0.6 * np.mean(errors[:5])


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_a_run_writes_all_of_its_files(trained, stage):
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


def test_training_a_torso_leaves_its_head_unchanged(trained):
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
    dataset = dataset_of(settings)
    stage = make_stage(settings, dataset.camera)
    frames = cached_frames(dataset, dataset.train)
    mesh = sharding.make_mesh()
    state, tx = initial_state(settings, stage, dataset, *frames, mesh, trained.head)
    loader = BatchLoader(tiny.ray_sampler(settings, dataset), mesh)
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(stage.loss, n=1)
    update = make_update(stage.replace(loss=counted), tx, settings.seed)
    for step in range(3):
        state, _ = update(state, loader.batch(step))
    assert int(state.step) == 43


@pytest.mark.parametrize("family", ["trained", "trained_paper"])
@pytest.mark.parametrize("stage", ["head", "torso"])
def test_gradients_reach_every_parameter(request, family, stage):
    trained = request.getfixturevalue(family)
    settings = trained.configs[stage == "torso"]
    dataset = load_dataset(trained.data)
    built = make_stage(settings, dataset.camera)
    parts = _parts(getattr(trained, stage))
    batch = tiny.ray_sampler(settings, dataset).batch(0)

    def loss(params):
        return built.loss(
            params, parts["frozen"], parts["scene"], batch, jax.random.key(1), jnp.int32(settings.train.attention_from)
        )[0]

    for path, gradient in jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(parts["params"]))[0]:
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_the_audio_code_is_smoothed_from_its_step_on(trained_paper):
    settings = trained_paper.configs[0]
    begins = settings.train.attention_from
    assert begins == settings.train.steps // 2 == 10
    dataset, parts = load_dataset(trained_paper.data), _parts(trained_paper.head)
    stage = make_stage(settings, dataset.camera)
    batch = tiny.ray_sampler(settings, dataset).batch(0)
    # Other speech around the frame, whose own window is the fifth of eight.
    audio = batch.conditions.audio.copy()
    audio[:, np.arange(8) != 4] += 5.0
    elsewhere = batch.replace(conditions=batch.conditions.replace(audio=audio))

    @jax.jit
    def loss_and_gradient(batch, step):
        def loss(params):
            return stage.loss(params, {}, parts["scene"], batch, jax.random.key(0), step)[0]

        return jax.value_and_grad(loss)(parts["params"])

    before, after = jnp.int32(begins - 1), jnp.int32(begins)
    loss, gradient = loss_and_gradient(batch, before)
    assert loss == loss_and_gradient(elsewhere, before)[0]
    attention = gradient["code_nets"]["audio"].pop("attention")
    chex.assert_trees_all_equal(attention, jax.tree.map(jnp.zeros_like, attention))
    loss, gradient = loss_and_gradient(batch, after)
    assert loss != loss_and_gradient(elsewhere, after)[0]
    assert all(np.abs(a).max() > 0 for a in jax.tree.leaves(gradient["code_nets"]["audio"]["attention"]))


def test_the_code_that_conditions_the_torso_is_smoothed_from_its_first_step_on(trained_paper):
    settings = trained_paper.configs[1]
    dataset, parts = load_dataset(trained_paper.data), _parts(trained_paper.torso)
    stage = make_stage(settings, dataset.camera)
    batch = tiny.ray_sampler(settings, dataset).batch(0)
    audio = batch.conditions.audio.copy()
    audio[:, 0] += 5.0
    elsewhere = batch.replace(conditions=batch.conditions.replace(audio=audio))
    loss = jax.jit(
        lambda b: stage.loss(parts["params"], parts["frozen"], parts["scene"], b, jax.random.key(0), jnp.int32(0))[0]
    )
    losses = [loss(b) for b in (batch, elsewhere)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_gradients_of_micro_batches_are_averaged_to_the_whole_batchs(trained_paper, micro_batches):
    settings = trained_paper.configs[0]
    dataset, parts = load_dataset(trained_paper.data), _parts(trained_paper.head)
    stage = make_stage(settings, dataset.camera)
    still = stage.replace(loss=lambda *args: stage.loss(*args[:4], None, args[5]))  # no jitter
    batch = tiny.ray_sampler(settings, dataset).batch(0)

    def one_step(parts_of_batch):
        """The state after a step against the gradient itself, and the metrics."""
        tx = optax.sgd(1.0)
        # A copy: the step takes the state's memory.
        params, scene = jax.tree.map(jnp.array, (parts["params"], parts["scene"]))
        state = TrainState.create(params, tx, {}, scene).replace(step=jnp.int32(settings.train.attention_from))
        return make_update(still, tx, settings.seed, parts_of_batch)(state, batch)

    (whole, metrics), (split, split_metrics) = one_step(1), one_step(micro_batches)
    gradient, split_gradient = (jax.tree.map(jnp.subtract, parts["params"], s.params) for s in (whole, split))
    largest = max(np.abs(a).max() for a in jax.tree.leaves(gradient))
    # Differences of parameters of order 1 are rounded to 6e-8.
    chex.assert_trees_all_close(split_gradient, gradient, atol=1e-6)
    assert largest > 1e-3
    for name in ("loss", "mse"):
        np.testing.assert_allclose(split_metrics[name], metrics[name], rtol=1e-5)


class Interfered:
    """Replaces `make_stage`: the loss may be traced once, and each call of `init` applies the next change."""

    def __init__(self, monkeypatch, *changes):
        self.changes = list(changes)
        module = sys.modules["adnerf_jax.training.train"]
        make = module.make_stage

        def interfered(*args):
            stage = make(*args)
            chex.clear_trace_counter()
            loss = chex.assert_max_traces(stage.loss, n=1)
            return stage.replace(loss=loss, init=lambda *inputs: self._next(stage.init(*inputs)))

        monkeypatch.setattr(module, "make_stage", interfered)

    def _next(self, params):
        return self.changes.pop(0)(params) if self.changes else params


def with_density(bias: float):
    """Sets the bias of both fields' raw density."""

    def change(params):
        volume = {
            name: field | {"density": field["density"] | {"bias": jnp.full(1, bias, jnp.float32)}}
            for name, field in params["volume"].items()
        }
        return params | {"volume": volume}

    return change


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_parameters_with_density_are_not_reinitialised_and_the_step_is_traced_once(
    trained_paper, tmp_path, monkeypatch, capsys, stage
):
    monkeypatch.setattr("adnerf_jax.training.schedule.COLLAPSE_CHECK_EVERY", 1)
    Interfered(monkeypatch, with_density(1.0))
    settings = tiny.config(stage, trained_paper.data, "smoke", steps=4, audio_components=29, validate_every=2)
    settings.head_checkpoint = str(trained_paper.head)
    train(settings, tmp_path / stage)  # over the step from which attention smooths
    assert np.isfinite([line["loss"] for line in tiny.lines(tmp_path / stage / "metrics.jsonl")]).all()
    assert "initialised again" not in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_a_collapsed_density_is_noticed_and_reinitialised(trained_paper, tmp_path, monkeypatch, capsys, stage):
    monkeypatch.setattr("adnerf_jax.training.schedule.COLLAPSE_CHECK_EVERY", 2)
    Interfered(monkeypatch, with_density(-100.0), with_density(1.0))
    settings = tiny.config(
        stage, trained_paper.data, "smoke", steps=6, audio_components=29, checkpoint_every=2, density_leak_steps=0
    )
    settings.head_checkpoint = str(trained_paper.head)
    train(settings, tmp_path / stage)
    messages = capsys.readouterr().err
    assert messages.count("without density there is no gradient, so its parameters are initialised again") == 1
    assert f"step 2: the density of the {stage} has collapsed" in messages
    opacity = [line["opacity"] for line in tiny.lines(tmp_path / stage / "metrics.jsonl")]
    assert len(opacity) == 6 and max(opacity[:2]) < 1e-5 and min(opacity[2:]) > 0.01
    assert checkpoints.latest_step(tmp_path / stage) == 6


def test_a_collapse_at_the_end_is_warned_of(trained_paper, tmp_path, monkeypatch, capsys):
    Interfered(monkeypatch, with_density(-100.0))
    settings = tiny.config("head", trained_paper.data, "smoke", steps=2, audio_components=29, density_leak_steps=0)
    train(settings, tmp_path / "head")
    messages = capsys.readouterr().err
    assert "the density of the head has collapsed" in messages and "raise config.train.steps" in messages


def test_which_collapses_are_reinitialised(trained_paper, capsys):
    settings = tiny.config("head", trained_paper.data, "smoke")
    state = types.SimpleNamespace(step=7, initialised_at=0)
    assert not check_collapse(state, 0.3, settings)
    assert check_collapse(state, 0.0, settings)
    assert "step 7: the density of the head has collapsed" in capsys.readouterr().err
    old = types.SimpleNamespace(step=5000, initialised_at=2500)
    assert not check_collapse(old, 0.0, settings)
    assert "step 5000: the density of the head has collapsed" in capsys.readouterr().err
    settings.compat.dead_density = True
    assert not check_collapse(state, 0.0, settings)
    assert "below 0.001); config.compat.dead_density turns reinitialisation off" in capsys.readouterr().err


def test_reinitialisation_keeps_step_scene_and_frozen_head(trained_paper):
    settings = trained_paper.configs[0]
    dataset = dataset_of(settings)
    stage, mesh = make_stage(settings, dataset.camera), sharding.make_mesh()
    old, tx = initial_state(settings, stage, dataset, *cached_frames(dataset, dataset.train), mesh, trained_paper.head)
    new = reinitialise(old, stage, tx, settings, dataset, mesh)
    assert int(new.step) == int(old.step) == 20
    chex.assert_trees_all_equal((new.scene, new.frozen), (old.scene, old.frozen))
    chex.assert_trees_all_equal_shapes_and_dtypes(new, old)
    kernels = [s.params["volume"]["fine"]["layer0"]["kernel"] for s in (old, new)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    for path, leaf in jax.tree_util.tree_flatten_with_path(new.opt_state)[0]:
        name = jax.tree_util.keystr(path)
        # Rates and the attention's beginning go by the run's steps, the moments have had no update.
        expected = 20 if name.endswith("inner_state[1].count") or name.endswith(".step") else 0
        np.testing.assert_array_equal(leaf, expected, err_msg=name)


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_density_gradients_leak_during_warm_up_but_not_as_published(trained_paper, stage):
    dataset = load_dataset(trained_paper.data)
    parts = _parts(getattr(trained_paper, stage))
    dead = with_density(-0.05)(jax.tree.map(np.array, parts["params"]))
    for field in dead["volume"].values():
        field["density"]["kernel"][:] = 0.0
        field["colour"]["bias"][:] = 9.0

    def gradient(settings):
        """Of both levels' density biases at a step, compiled."""
        built = make_stage(settings, dataset.camera)
        # White in front of black: the loss favours more of it, with any head.
        batch = tiny.ray_sampler(settings, dataset).batch(0)
        batch = batch.replace(target=np.ones_like(batch.target), background=np.zeros_like(batch.background))

        def loss(params, step):
            return built.loss(params, parts["frozen"], parts["scene"], batch, jax.random.key(0), step)[0]

        compiled = jax.jit(jax.grad(loss))

        def at(step):
            volume = compiled(dead, jnp.int32(step))["volume"]
            return [float(volume[level]["density"]["bias"][0]) for level in ("coarse", "fine")]

        return at

    settings = tiny.config(stage, trained_paper.data, "smoke", audio_components=29, density_leak_steps=5)
    at = gradient(settings)
    assert max(at(0)) < -1e-4 and max(at(4)) < -1e-4  # the loss favours more density
    assert at(5) == [0.0, 0.0]
    settings.compat.dead_density = True
    assert gradient(settings)(0) == [0.0, 0.0]


@pytest.mark.parametrize("rough", [False, True])
def test_validation_is_smoothed_unless_as_published(trained_paper, tmp_path, monkeypatch, rough):
    class Stop(Exception):
        """Before the first step."""

    seen = []

    def validator(*_, smooth, **__):
        seen.append(smooth)
        raise Stop

    monkeypatch.setattr("adnerf_jax.training.train.Validator", validator)
    settings = tiny.config("head", trained_paper.data, "smoke", audio_components=29)
    settings.compat.rough_validation = rough
    with pytest.raises(Stop):
        train(settings, tmp_path / "head")
    assert seen == [not rough]


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
    other = r"the head in .* was trained with other settings: model.head.width \(there 16, here 24\)"
    with pytest.raises(UserError, match=other + "; add model.head.width=16"):
        train(settings, tmp_path / "torso")
    settings.head_checkpoint = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="no checkpoint of the head"):
        train(settings, tmp_path / "torso")
    assert not (tmp_path / "torso" / "config.json").exists()


def test_the_torso_needs_the_same_persons_head(trained, tmp_path):
    data = tiny.make_dataset(tmp_path / "dataset", channels=80, speech="logmel")
    path = data / "transforms_train.json"
    meta = json.loads(path.read_text())
    meta["frames"].pop(3)
    path.write_text(json.dumps(meta))
    settings = tiny.config("torso", data)
    settings.head_checkpoint = str(trained.head)
    with pytest.raises(UserError, match="the head in .* was trained on other data, or at another size, than .*dataset"):
        train(settings, tmp_path / "torso")
    assert not (tmp_path / "torso").exists()


def test_tuning_trains_without_held_out_frames(trained, tmp_path, monkeypatch):
    module = sys.modules["adnerf_jax.training.train"]
    read = []
    load = module.cached_frames
    monkeypatch.setattr(module, "cached_frames", lambda dataset, split: read.append(split) or load(dataset, split))
    validators = []
    monkeypatch.setattr(
        module, "Validator", lambda stage, data, held_out, *_, **__: validators.append(held_out) or Mute()
    )
    train(tiny.config("head", trained.data, steps=1, tuning=True), tmp_path / "head")
    assert read[0].img_id.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert validators[0].img_id.tolist() == [10]


class Mute:
    """A validator that renders nothing."""

    def save(self, state, step, choose):
        return Validation(None, None, None)


def test_held_out_frames_choose_no_checkpoint(trained, tmp_path, monkeypatch):
    module = sys.modules["adnerf_jax.training.train"]
    scores = {2: (30.0, 20.0), 4: (10.0, 25.0), 6: (20.0, 15.0)}  # of held-out and tuning frames, after each step
    frames = []

    class Scored:
        def __init__(self, stage, dataset, held_out, tuning, *_, **__):
            frames.append((held_out.img_id.tolist(), tuning.img_id.tolist()))

        def save(self, state, step, choose):
            assert choose
            return Validation(tmp_path, *scores[step])

    monkeypatch.setattr(module, "Validator", Scored)
    settings = tiny.config("head", trained.data, steps=6, checkpoint_every=2, validate_every=2, keep_checkpoints=1)
    train(settings, tmp_path / "head")
    assert frames == [([11, 12], [10])]
    assert sorted(int(path.name) for path in (tmp_path / "head" / "checkpoints").glob("[0-9]*")) == [4, 6]
    logged = tiny.lines(tmp_path / "head" / "metrics.jsonl")[1]
    assert (logged["validation_psnr"], logged["tuning_psnr"]) == scores[2]


def test_the_logged_rate_is_that_of_the_steps_alone(trained, tmp_path, monkeypatch):
    module = sys.modules["adnerf_jax.training.train"]
    now = [0.0]
    monkeypatch.setattr(
        logs, "time", types.SimpleNamespace(monotonic=lambda: now[0], monotonic_ns=time.monotonic_ns, time=time.time)
    )

    def lasting(call, seconds):
        def timed(*arguments, **named):
            now[0] += seconds()
            return call(*arguments, **named)

        return timed

    durations = iter([90.0, *[1.0] * 5])  # the first step compiles
    monkeypatch.setattr(module, "_step", lasting(module._step, lambda: next(durations)))
    monkeypatch.setattr(module, "Validator", lambda *_, **__: Mute())
    monkeypatch.setattr(Mute, "save", lasting(Mute.save, lambda: 30.0))
    monkeypatch.setattr(checkpoints.Saver, "save", lasting(checkpoints.Saver.save, lambda: 20.0))
    train(tiny.config("head", trained.data, steps=6, checkpoint_every=3, validate_every=2), tmp_path / "head")
    rates = [line.get("rays_per_s") for line in tiny.lines(tmp_path / "head" / "metrics.jsonl")]
    assert rates == [None, *[128.0] * 5]


def _parts(workdir):
    return checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))[1]
