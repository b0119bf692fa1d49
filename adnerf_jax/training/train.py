"""Training of one stage, top to bottom: `train(config, workdir)`."""

import contextlib
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from adnerf_jax.common import processes
from adnerf_jax.common.errors import NotFinite, Preempted, UserError
from adnerf_jax.common.progress import Bar, duration, say
from adnerf_jax.common.types import Batch, Scene
from adnerf_jax.configuration.checks import check_settings
from adnerf_jax.data.datasets import SUBJECTS, Dataset, Frames, dataset_of, tuning_split
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.data.person import Person
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.data.schema import LANDMARKS
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.batch_loader import BatchLoader
from adnerf_jax.training.batches import RaySampler
from adnerf_jax.training.collapse import check_collapse, warn_if_collapsed
from adnerf_jax.training.faults import FiniteCheck, Termination
from adnerf_jax.training.logs import MetricWriter
from adnerf_jax.training.losses import psnr_of
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.runs import check_continues, check_description, check_head, describe, save_config
from adnerf_jax.training.stages import Stage, example_batch, head_shapes, make_stage, step_key
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.validation import Validator

# A field is looked after each so many steps.
_LOOK_EVERY = 250
# More steps than so many are not left out: such a run diverges.
_MOST_SKIPPED = 10
# The cost of a training is told after so many steps, where it is more than so many seconds.
_COST_STEPS = 4
_LONG = 3 * 3600.0


def train(config: ConfigDict, workdir: str | pathlib.Path) -> None:
    """Trains the stage that `config` names, from scratch or from the newest checkpoint in `workdir`.

    Writes `config.json`, `person.npz`, `checkpoints/<step>/`, `metrics.jsonl`, TensorBoard events and
    `validation/*.png`. All processes of a run call it; the first one writes.

    Args:
      config: of `configs/head.py` or `configs/torso.py`, with `data` set.
      workdir: the stage's folder.

    Raises:
      UserError: bad data, a missing head, a workdir of another run, or numbers that are not finite.
      Preempted: SIGTERM came; everything is saved.
    """
    workdir = pathlib.Path(workdir)
    check_settings(config)
    check_continues(config, workdir)
    with Termination() as termination:
        _train(config, workdir, termination)


def _train(config: ConfigDict, workdir: pathlib.Path, termination: Termination) -> None:
    dataset = dataset_of(config)
    check_expression(config, dataset)
    training, held_out = tuning_split(dataset.train) if config.train.tuning else (dataset.train, dataset.val)
    person = Person.of(dataset)
    person.check_continues(workdir)
    mesh = sharding.make_mesh()
    frames_per_step = min(config.train.frames_per_step, len(training))
    sharding.check_divides(config.train.rays, frames_per_step, config.train.micro_batches, mesh)
    frames, digest = cached_frames(dataset, training)
    say(
        f"{config.stage} stage: {len(frames)} frames of {dataset.camera.width}x{dataset.camera.height}, "
        f"{config.train.steps} steps of {config.train.rays} rays on {jax.device_count()} "
        f"{jax.devices()[0].platform} device(s){_shared()}, into {workdir}"
    )

    stage = make_stage(config, dataset.camera)
    state, tx = initial_state(config, stage, dataset, frames, digest, mesh, workdir)
    if processes.is_main():
        save_config(config, workdir)
        person.save(workdir)

    loader = BatchLoader(make_sampler(config, dataset, frames), mesh)
    update = make_update(stage, tx, config.seed, config.train.micro_batches)
    validator = Validator(
        stage,
        dataset,
        held_out,
        config.train.validate_frames,
        workdir / "validation",
        config.render.chunk,
        family=config.family,
        subject=SUBJECTS[config.subject],
        smooth=not config.compat.rough_validation,
    )
    meta = describe(config, digest)
    skipped: set[int] = set()

    def run(state: TrainState) -> None:
        """The steps from a state to the last one."""
        first, picture = int(state.step), None
        bar = Bar(config.stage, config.train.steps, "steps", done=first, compiles=True)
        watch = FiniteCheck()
        with (
            MetricWriter(workdir, first) if processes.is_main() else contextlib.nullcontext() as writer,
            checkpoints.Saver(workdir, config.train.keep_checkpoints, config.train.keep_best) as saver,
            contextlib.closing(loader.batches(first, config.train.steps)) as batches,
        ):
            began = since = time.monotonic()
            since_step = first
            for step in range(first, config.train.steps):
                if termination.requested(step):
                    watch.check()
                    saver.save(state, meta)
                    saver.wait()
                    raise Preempted(f"{config.stage} is saved at step {step} of {config.train.steps} in {workdir}")
                batch = next(batches)
                done = step + 1
                last = done == config.train.steps
                report = done % config.train.log_every == 0 or last
                keep = done % config.train.checkpoint_every == 0 or last
                look = done % _LOOK_EVERY == 0 and not last
                if done in skipped:
                    state = state.replace(step=state.step + 1)
                    report = look = False
                else:
                    state, metrics = update(state, batch)
                    watch.add(done, metrics)
                if done - first == 1:
                    jax.block_until_ready(state.step)
                    began = time.monotonic()
                elif done - first == _COST_STEPS:
                    jax.block_until_ready(state.step)
                    a_step = (time.monotonic() - began) / (_COST_STEPS - 1)
                    say_cost(a_step * (config.train.steps - done), config.family)
                if report or keep or look:
                    watch.check()
                rate = (done - since_step) * config.train.rays / (time.monotonic() - since)
                if look:
                    state = check_collapse(state, float(metrics["opacity"]), stage, tx, config, dataset, mesh)
                if last and report and done not in skipped:
                    warn_if_collapsed(float(metrics["opacity"]), config)
                validate, validated = done % config.train.validate_every == 0 or last, None
                if validate:
                    picture, validated = validator.save(state, done)
                note = ""
                if report:
                    values = {k: float(v) for k, v in metrics.items()}
                    values["psnr"] = psnr_of(values["mse"])
                    if validated is not None:
                        values["validation_psnr"] = validated
                    if writer is not None:
                        writer.write(done, {**values, "rays_per_s": rate})
                    note = f"loss {values['loss']:.5f} PSNR {values['psnr']:.1f} dB {rate:,.0f} rays/s"
                if report or validate:
                    since, since_step = time.monotonic(), done
                if keep:
                    saver.save(state, meta, validated)
                bar.update(note=note)
        bar.close()
        if first < config.train.steps:
            say(f"wrote {workdir}/checkpoints, metrics.jsonl and {picture}")
        else:
            say(f"{workdir} is trained already ({first} steps)")

    if jax.process_count() > 1:
        # On CPUs a collective gives up on processes that come 30 seconds late, as from compiling.
        update.lower(state, loader.batch(0)).compile()
        processes.wait_for_all("to train")
    while True:
        try:
            return run(state)
        except NotFinite as error:
            explain_not_finite(error, config, workdir, skipped)
            skipped.add(error.step)
            state, _ = initial_state(config, stage, dataset, frames, digest, mesh, workdir)


def make_sampler(config: ConfigDict, dataset: Dataset, frames: Frames) -> RaySampler:
    """What draws the rays of a configuration's steps."""
    return RaySampler(
        dataset,
        frames,
        frames_per_step=config.train.frames_per_step,
        rays_per_frame=config.train.rays // min(config.train.frames_per_step, len(frames)),
        regions=dict(config.train.regions),
        swapped_rect=config.compat.face_rect,
        random_background=config.train.random_background,
        subject=SUBJECTS[config.subject],
        seed=config.seed,
    )


def explain_not_finite(error: NotFinite, config: ConfigDict, workdir: pathlib.Path, skipped: set[int]) -> None:
    """Says what a training goes back to, or why it does not.

    Raises:
      UserError: it stops.
    """
    newest = checkpoints.latest_step(workdir)
    good = "there is no checkpoint yet" if newest is None else f"the last good checkpoint is that of step {newest}"
    what = f"step {error.step} of the {config.stage}: not a finite number: {', '.join(error.terms)}; {good}"
    if config.train.on_nan != "rollback":
        raise UserError(
            f"{what}: lower config.optim.learning_rate, or let --config.train.on_nan=rollback go back to it and leave "
            f"the rays of that step out"
        ) from None
    if len(skipped) == _MOST_SKIPPED:
        raise UserError(
            f"{what}; {len(skipped)} steps were left out before, so it is not single batches: lower "
            f"config.optim.learning_rate"
        ) from None
    say(f"{what}; going back to {'the beginning' if newest is None else f'step {newest}'}, leaving that step out")


def _shared() -> str:
    count = jax.process_count()
    return f" of {count} processes" if count > 1 else ""


def say_cost(seconds: float, family: str) -> None:
    """Tells what the rest of a long training will take, before anybody waits for it."""
    if seconds > _LONG:
        hint = "; the variant :fast takes minutes, :small about half an hour" if family == "paper" else ""
        say(f"at this rate, training takes {duration(seconds)} on this machine{hint}")


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
                    params, state.frozen, state.scene, part, key, state.step, state.step - state.initialised_at
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
        # Parameters are finite after the step if this is.
        metrics["gradient"] = optax.tree.norm(gradients)
        changes, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(update, donate_argnums=0)


def initial_state(config, stage: Stage, dataset: Dataset, frames: Frames, digest: str, mesh, workdir: pathlib.Path):
    """The state to start from: the newest checkpoint of the workdir, else fresh parameters (and the trained head).

    Order: shapes without computing → shardings → restore, or initialise on the devices.

    Args:
      config, stage, dataset, frames, mesh: of the run.
      digest: of the data (`cached_frames`).
      workdir: the stage's folder.

    Returns:
      (state, optimizer).
    """
    tx = make_optimizer(config.optim, config.train.attention_from)
    whole = sharding.replicated(mesh)
    # A torso stage's volume is the head that it stands on.
    volume = SUBJECTS[config.subject if config.stage == "head" else "head"]
    scene = make_scene(dataset, frames, config.train.audio_components, volume)
    example = example_batch(rays=1, frames=1, windows=dataset.windows.shape[1:])
    frozen = {}
    if config.stage == "torso":
        check_head(config)
        scene, frozen = trained_head(config.head_checkpoint, stage, dataset, whole, scene)

    def create(scene: Scene, frozen) -> TrainState:
        params = stage.init(jax.random.key(config.seed), example, scene)
        return TrainState.create(params, tx, frozen, scene)

    if checkpoints.latest_step(workdir) is not None:
        state = checkpoints.restore(
            workdir,
            _abstract(create, whole, scene, frozen),
            what="this run",
            check=lambda meta: check_description(meta, config, digest, workdir),
        )
        if not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state.frozen, frozen)):
            raise UserError(
                f"the head in {config.head_checkpoint} has been trained on since this torso began: delete {workdir} to "
                f"train the torso for it, or use another --workdir"
            )
        return state, tx
    return jax.jit(create, out_shardings=whole)(scene, frozen), tx


def trained_head(workdir, stage: Stage, dataset: Dataset, whole, scene: Scene):
    """The scene and the parameters of the head that the torso stands in front of.

    Raises:
      UserError: no trained head, one of another size, or one of another person.
    """
    if checkpoints.latest_step(workdir) is not None:
        Person.of(dataset).check_same(
            workdir,
            f"the head in {workdir} learned from other data, or another size of it, than {dataset.path}",
        )
    shapes = head_shapes(stage, dataset.camera, dataset.windows.shape[1:], scene)
    expected = {"params": shapes, "scene": scene}
    expected = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=whole), expected)
    restored = checkpoints.restore_params(workdir, expected, what="the head")
    return restored["scene"], restored["params"]


def _abstract(create, whole, *args) -> TrainState:
    shapes = jax.eval_shape(create, *args)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)
