"""Training of one stage, top to bottom: `train(config, workdir)`."""

import concurrent.futures
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from adnerf_jax import checkpoints, sharding
from adnerf_jax.batches import RaySampler
from adnerf_jax.datasets import SUBJECTS, Dataset, Frames, dataset_of, load_frames, tuning_split
from adnerf_jax.errors import UserError
from adnerf_jax.logs import MetricWriter
from adnerf_jax.metrics import psnr_of
from adnerf_jax.optim import AdamMoments, make_optimizer, with_moments
from adnerf_jax.person import Person
from adnerf_jax.progress import Bar, duration, say
from adnerf_jax.runs import check_continues, save_config
from adnerf_jax.scenes import make_scene
from adnerf_jax.schema import LANDMARKS
from adnerf_jax.stages import Stage, example_batch, head_init, make_stage, step_key
from adnerf_jax.state import TrainState
from adnerf_jax.types import Batch, Scene
from adnerf_jax.validation import Validator

# A field is looked after each so many steps; one that has died shows less than so much on average.
_LOOK_EVERY = 250
DEAD_OPACITY = 1e-3


# The cost of a training is told after so many steps, where it is more than so many seconds.
_COST_STEPS = 4
_LONG = 3 * 3600.0


def train(config: ConfigDict, workdir: str | pathlib.Path) -> None:
    """Trains the stage that `config` names, from scratch or from the newest checkpoint in `workdir`.

    Writes `config.json`, `person.npz`, `checkpoints/<step>/`, `metrics.jsonl`, TensorBoard events and
    `validation/*.png`.

    Args:
      config: of `configs/head.py` or `configs/torso.py`, with `data` set.
      workdir: the stage's folder.

    Raises:
      UserError: bad data, a missing head, or a workdir of another run.
    """
    workdir = pathlib.Path(workdir)
    check_settings(config)
    check_continues(config, workdir)

    dataset = dataset_of(config)
    check_expression(config, dataset)
    training, held_out = tuning_split(dataset.train) if config.train.tuning else (dataset.train, dataset.val)
    frames = load_frames(dataset, training)
    say(
        f"{config.stage} stage: {len(frames)} frames of {dataset.camera.width}x{dataset.camera.height}, "
        f"{config.train.steps} steps of {config.train.rays} rays on {jax.device_count()} "
        f"{jax.devices()[0].platform} device(s), into {workdir}"
    )

    person = Person.of(dataset)
    person.check_continues(workdir)

    mesh = sharding.make_mesh()
    rays_per_frame = config.train.rays // min(config.train.frames_per_step, len(frames))
    sharding.check_divides(rays_per_frame, config.train.micro_batches, mesh)
    stage = make_stage(config, dataset.camera)
    state, tx = initial_state(config, stage, dataset, frames, mesh, workdir)
    save_config(config, workdir)
    person.save(workdir)

    sampler = RaySampler(
        dataset,
        frames,
        frames_per_step=config.train.frames_per_step,
        rays_per_frame=rays_per_frame,
        regions=dict(config.train.regions),
        swapped_rect=config.compat.face_rect,
        random_background=config.train.random_background,
        subject=SUBJECTS[config.subject],
        seed=config.seed,
    )
    batch_shardings = sharding.batch_sharding(mesh, sampler.batch(0))
    update = make_update(stage, tx, config.seed, config.train.micro_batches)

    validator = Validator(
        stage,
        dataset,
        held_out,
        config.train.validate_frames,
        workdir / "validation",
        config.render.chunk,
        subject=SUBJECTS[config.subject],
        smooth=not config.compat.rough_validation,
    )

    first = int(state.step)
    bar = Bar(config.stage, config.train.steps, "steps", done=first)
    with (
        MetricWriter(workdir, first) as writer,
        checkpoints.Saver(workdir, config.train.keep_checkpoints) as saver,
        concurrent.futures.ThreadPoolExecutor(1) as loader,
    ):
        upcoming = loader.submit(sampler.batch, first)
        began = since = time.monotonic()
        since_step = first
        for step in range(first, config.train.steps):
            batch = upcoming.result()
            if step + 1 < config.train.steps:
                upcoming = loader.submit(sampler.batch, step + 1)
            state, metrics = update(state, sharding.put(batch, batch_shardings))
            done = step + 1
            if done - first == 1:
                jax.block_until_ready(metrics)
                began = time.monotonic()
            elif done - first == _COST_STEPS:
                jax.block_until_ready(metrics)
                say_cost((time.monotonic() - began) / (_COST_STEPS - 1) * (config.train.steps - done), config.family)
            last = done == config.train.steps
            note = ""
            if done % config.train.log_every == 0 or last:
                values = {k: float(v) for k, v in metrics.items()}
                rate = (done - since_step) * batch.target.shape[0] * batch.target.shape[1] / (time.monotonic() - since)
                psnr = psnr_of(values["mse"])
                writer.write(done, {**values, "psnr": psnr, "rays_per_s": rate})
                note = f"loss {values['loss']:.5f} PSNR {psnr:.1f} dB {rate:,.0f} rays/s"
                since, since_step = time.monotonic(), done
            bar.update(note=note)
            if done % _LOOK_EVERY == 0 and not last:
                state = look_after(state, float(metrics["opacity"]), stage, tx, config, dataset, mesh)
            if done % config.train.checkpoint_every == 0 or last:
                saver.save(state, {"stage": config.stage, "family": config.family})
            if done % config.train.validate_every == 0 or last:
                pictures = validator.save(state, done)
                since, since_step = time.monotonic(), done
    bar.close()
    if first < config.train.steps:
        say(f"wrote {checkpoints.directory(workdir)}, metrics.jsonl and {pictures}")
    else:
        say(f"{workdir} is trained already ({first} steps)")


def look_after(
    state: TrainState, opacity: float, stage: Stage, tx, config: ConfigDict, dataset: Dataset, mesh
) -> TrainState:
    """The state itself while its field lives, a reborn one where it has died.

    Raises:
      UserError: the field's numbers are not finite.
    """
    if not np.isfinite(opacity):
        raise UserError(
            f"step {int(state.step)}: the {config.stage}'s opacity is not a number: lower "
            f"config.optim.learning_rate, or go on from the newest checkpoint with the same command"
        )
    if opacity >= DEAD_OPACITY:
        return state
    if config.compat.dead_density:
        say(f"step {int(state.step)}: the {config.stage} has died; config.compat.dead_density leaves it so")
        return state
    return reborn(state, stage, tx, config, dataset, mesh)


def reborn(state: TrainState, stage: Stage, tx, config: ConfigDict, dataset: Dataset, mesh) -> TrainState:
    """A state with fresh parameters at the same step, for one whose field has died.

    Behind a ReLU a density that is negative everywhere has no gradient: it never comes back by itself.
    """
    step = int(state.step)
    say(
        f"step {step}: nothing of the {config.stage} is left (its mean opacity is below {DEAD_OPACITY:g}); a field "
        f"without density has no gradient, so it begins anew from other parameters"
    )
    example = example_batch(rays=1, frames=1, windows=dataset.windows.shape[1:])

    def create(scene: Scene, frozen) -> TrainState:
        params = stage.init(jax.random.fold_in(jax.random.key(config.seed), step), example, scene)
        fresh = TrainState.create(params, tx, frozen, scene)
        # Rates, and the step from which attention is trained, go by the steps of the run.
        zeros = jax.tree.map(jnp.zeros_like, params)
        return fresh.replace(opt_state=with_moments(fresh.opt_state, AdamMoments({}, zeros, zeros), step))

    fresh = jax.jit(create, out_shardings=sharding.replicated(mesh))(state.scene, state.frozen)
    # Copies: the next step gives up the buffers of its state.
    return fresh.replace(step=state.step, born=jnp.copy(state.step))


def say_cost(seconds: float, family: str) -> None:
    """Tells what the rest of a long training will take, before anybody waits for it."""
    if seconds > _LONG:
        hint = "; the variant :fast takes minutes, :small about half an hour" if family == "paper" else ""
        say(f"at this rate, training takes {duration(seconds)} on this machine{hint}")


def check_settings(config: ConfigDict) -> None:
    """Raises UserError for settings that cannot be trained with."""
    every = ("log_every", "validate_every", "checkpoint_every")
    counts = ("rays", "micro_batches", "frames_per_step", *every, "keep_checkpoints")
    for name in counts:
        if config.train[name] < 1:
            raise UserError(f"config.train.{name} is {config.train[name]}: it must be at least 1")
    if config.train.rays < config.train.frames_per_step:
        raise UserError(
            f"{config.train.rays} rays a step are too few for {config.train.frames_per_step} frames: raise "
            f"config.train.rays or lower config.train.frames_per_step"
        )


def check_expression(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError where an expression is to be learned from that the dataset does not have."""
    if "expression" in config.model.head.codes and not dataset.expression.any():
        raise UserError(
            f"{dataset.path} has no tracked expressions ({LANDMARKS} is missing or empty), which the variant "
            f"expression learns from: prepare the video with `python -m preprocessing`"
        )


def make_update(stage: Stage, tx, seed: int, micro_batches: int = 1):
    """The compiled step: state, batch → state, metrics. The state is donated.

    Args:
      stage: what is trained.
      tx: the optimizer.
      seed: of the step's random numbers.
      micro_batches: parts that the rays are computed in, one after the other; their gradients are averaged.
    """

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = step_key(seed, state.step)

        def gradient(part: Batch, key: jax.Array):
            def loss_of(params):
                loss, metrics = stage.loss(
                    params, state.frozen, state.scene, part, key, state.step, state.step - state.born
                )
                return loss, {"loss": loss, **metrics}

            return jax.grad(loss_of, has_aux=True)(state.params)

        if micro_batches == 1:
            gradients, metrics = gradient(batch, key)
        else:
            parts, keys = sharding.split_rays(batch, micro_batches), jax.random.split(key, micro_batches)
            zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradient, batch, key))

            def add(total, part_and_key):
                return jax.tree.map(jnp.add, total, gradient(*part_and_key)), None

            total, _ = jax.lax.scan(add, zero, (parts, keys))
            gradients, metrics = jax.tree.map(lambda a: a / micro_batches, total)
        changes, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(update, donate_argnums=0)


def initial_state(config, stage: Stage, dataset: Dataset, frames: Frames, mesh, workdir: pathlib.Path):
    """The state to start from: the newest checkpoint of the workdir, else fresh parameters (and the trained head).

    Order: shapes without computing → shardings → restore, or initialise on the devices.

    Returns:
      (state, optimizer).
    """
    tx = make_optimizer(config.optim, config.train.attention_from)
    whole = sharding.replicated(mesh)
    scene = make_scene(dataset, frames, config.train.audio_components)
    example = example_batch(rays=1, frames=1, windows=dataset.windows.shape[1:])
    frozen = {}
    if config.stage == "torso":
        scene, frozen = trained_head(config.head_checkpoint, stage, dataset, example, whole, scene)

    def create(scene: Scene, frozen) -> TrainState:
        params = stage.init(jax.random.key(config.seed), example, scene)
        return TrainState.create(params, tx, frozen, scene)

    if checkpoints.latest_step(workdir) is not None:
        state = checkpoints.restore(workdir, _abstract(create, whole, scene, frozen), what="this run")
        if not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state.frozen, frozen)):
            raise UserError(
                f"the head in {config.head_checkpoint} has been trained on since this torso began: delete {workdir} to "
                f"train the torso for it, or use another --workdir"
            )
        return state, tx
    return jax.jit(create, out_shardings=whole)(scene, frozen), tx


def trained_head(workdir, stage: Stage, dataset: Dataset, example, whole, scene: Scene):
    """The scene and the parameters of the head that the torso stands in front of.

    Raises:
      UserError: no trained head, one of another size, or one of another person.
    """
    if checkpoints.latest_step(workdir) is not None:
        Person.of(dataset).check_same(
            workdir,
            f"the head in {workdir} learned from other data, or another size of it, than {dataset.path}",
        )
    init = head_init(stage.head, dataset.camera)
    expected = {"params": jax.eval_shape(init, jax.random.key(0), example, scene), "scene": scene}
    expected = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=whole), expected)
    restored = checkpoints.restore_params(workdir, expected, what="the head")
    return restored["scene"], restored["params"]


def _abstract(create, whole, *args) -> TrainState:
    shapes = jax.eval_shape(create, *args)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)
