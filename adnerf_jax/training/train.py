"""Training of one stage: `train(config, workdir)`.

A training begins, or is resumed, in this order. Each check raises a UserError before the workdir is written:

1. Settings: their ranges, and that those of the workdir's `config.json` are the same but for what may change.
2. Data: the dataset, that `person.npz` in the workdir is of the same person, and the decoded frames.
3. State: the newest readable checkpoint, whose settings and digest of the data are compared too, and the torso's head;
   without a checkpoint, initialised parameters (`initialise.initial_state`).
4. `config.json` and `person.npz` are written, and lines of `metrics.jsonl` after the state's step removed.
5. Steps from the state's step on. The rays and the random key of a step depend on the seed and its number alone, so a
   resumed training ends with the same parameters, bit for bit.

After numbers that are not finite, 3 and 5 are repeated without that step (`config.train.on_nan`).
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from optax import GradientTransformation

from adnerf_jax.common import processes
from adnerf_jax.common.errors import NotFinite, Preempted, UserError
from adnerf_jax.common.progress import Bar, duration, say
from adnerf_jax.common.types import Batch
from adnerf_jax.configuration.checks import check_settings
from adnerf_jax.data.datasets import SUBJECTS, Dataset, Frames, dataset_of, tuning_split
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.data.person import Person
from adnerf_jax.data.schema import Split
from adnerf_jax.models.codes.registry import CODES
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.batch_loader import BatchLoader
from adnerf_jax.training.batches import RaySampler
from adnerf_jax.training.density_collapse import check_collapse, reinitialise, warn_if_collapsed
from adnerf_jax.training.faults import FiniteCheck, Termination, roll_back_or_stop
from adnerf_jax.training.initialise import initial_state
from adnerf_jax.training.logs import MetricWriter, Throughput, log_step
from adnerf_jax.training.runs import check_continues, checkpoint_metadata, save_config
from adnerf_jax.training.schedule import Due, Schedule
from adnerf_jax.training.stages import Stage, make_stage
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.update import Metrics, make_update
from adnerf_jax.training.validation import Validator
from adnerf_jax.training.workdir_lock import alone_in

# Steps after which the time that a training takes is estimated, and the seconds above which it is printed.
_COST_STEPS = 4
_LONG = 3 * 3600.0


class Run(NamedTuple):
    """What is the same in all steps of a training.

    Attributes:
      config, workdir: as given to `train`.
      dataset: the prepared video.
      mesh: the devices.
      stage: what is trained.
      start: returns the state to start from or to roll back to, and the optimizer (`initialise.initial_state`).
      tx: the optimizer.
      update: the compiled step (`update.make_update`).
      loader: makes the batches.
      validator: renders held-out frames, and the tuning frames that choose checkpoints.
      schedule: what is due after which step.
      metadata: JSON values stored in each checkpoint.
    """

    config: ConfigDict
    workdir: pathlib.Path
    dataset: Dataset
    mesh: Mesh
    stage: Stage
    start: Callable[[], tuple[TrainState, GradientTransformation]]
    tx: GradientTransformation
    update: jax.stages.Wrapped
    loader: BatchLoader
    validator: Validator
    schedule: Schedule
    metadata: dict[str, Any]


def train(config: ConfigDict, workdir: str | pathlib.Path) -> None:
    """Trains the stage that `config` names, from scratch or from the newest checkpoint in `workdir`.

    Writes `config.json`, `person.npz`, `checkpoints/<step>/`, `metrics.jsonl`, TensorBoard events and
    `validation/*.png`. All processes of a run call it; the first one writes.

    Args:
      config: the stage's configuration, with `data` set.
      workdir: the stage's folder.

    Raises:
      UserError: bad data, a missing head, a workdir of another run or one that another run trains in, or numbers that
        are not finite.
      Preempted: SIGTERM came; everything is saved.
    """
    workdir = pathlib.Path(workdir)
    check_settings(config)
    check_continues(config, workdir)
    with Termination() as termination, alone_in(workdir):
        run, state = _prepare(config, workdir)
        _compile_in_all_processes(run, state)
        skipped: set[int] = set()
        while True:
            try:
                return _train_from(state, run, termination, skipped)
            except NotFinite as error:
                roll_back_or_stop(error, config, workdir, skipped)
                skipped.add(error.step)
                state, _ = run.start()


def _train_from(state: TrainState, run: Run, termination: Termination, skipped: set[int]) -> None:
    """The steps from a state to the last one; those in `skipped` are counted, but update nothing.

    Raises:
      NotFinite: a step's metrics or gradient are not finite.
      Preempted: SIGTERM came; the state is saved.
    """
    config, first, picture = run.config, int(state.step), None
    bar = Bar(config.stage, run.schedule.steps, "steps", done=first, compiles=not skipped)
    finite = FiniteCheck()
    with (
        MetricWriter(run.workdir, first) if processes.is_main() else contextlib.nullcontext() as writer,
        checkpoints.Saver(run.workdir, config.train.keep_checkpoints, config.train.keep_best) as saver,
        contextlib.closing(run.loader.batches(first, run.schedule.steps)) as batches,
    ):
        throughput = Throughput(config.train.rays)
        for step in range(first, run.schedule.steps):
            if termination.requested(step):
                finite.check()
                _save_and_stop(state, run, saver)
            due = run.schedule.due(step + 1, left_out=step + 1 in skipped)
            state, metrics = _step(state, next(batches), run, due, finite)
            if step == first:
                jax.block_until_ready(state.step)  # until it is compiled
                throughput.start(due.step)
            if due.finite_check:
                finite.check()
            rays_per_s, psnr, tuning_psnr, note = throughput.since_start(due.step), None, None, ""
            state = _treat_collapse(state, metrics, run, due)
            if due.validation:
                choose = due.checkpoint and config.train.keep_best > 0
                picture, psnr, tuning_psnr = run.validator.save(state, due.step, choose)
            if due.log:
                note = log_step(writer, due.step, metrics, rays_per_s, psnr, tuning_psnr)
            if due.checkpoint:
                saver.save(state, run.metadata, tuning_psnr)
            if due.log or due.validation or due.checkpoint:
                throughput.start(due.step)
            bar.update(note=note)
            if due.step == first + _COST_STEPS:
                jax.block_until_ready(state.step)
                say_cost(bar.seconds_left or 0.0, config.family)
    bar.close()
    if first < run.schedule.steps:
        say(f"wrote {run.workdir}/checkpoints, metrics.jsonl and {picture}")
    else:
        say(f"{run.workdir} is trained already ({first} steps)")


def _step(state: TrainState, batch: Batch, run: Run, due: Due, finite: FiniteCheck) -> tuple[TrainState, Metrics]:
    """The state after a step, and its metrics; without an update, the step is only counted and has none."""
    if not due.update:
        return state.replace(step=state.step + 1), {}
    state, metrics = run.update(state, batch)
    finite.add(due.step, metrics)
    return state, metrics


def _treat_collapse(state: TrainState, metrics: Metrics, run: Run, due: Due) -> TrainState:
    """The given state, or a reinitialised one where its density has collapsed."""
    if due.collapse_check and check_collapse(state, float(metrics["opacity"]), run.config):
        return reinitialise(state, run.stage, run.tx, run.config, run.dataset, run.mesh)
    if due.last and due.log:
        warn_if_collapsed(float(metrics["opacity"]), run.config)
    return state


def _save_and_stop(state: TrainState, run: Run, saver: checkpoints.Saver) -> NoReturn:
    saver.save(state, run.metadata)
    saver.wait()
    step, steps = int(state.step), run.schedule.steps
    raise Preempted(f"{run.config.stage} is saved at step {step} of {steps} in {run.workdir}")


def _prepare(config: ConfigDict, workdir: pathlib.Path) -> tuple[Run, TrainState]:
    """Loads the data and the first state, and writes the files that describe the run.

    Raises:
      UserError: bad data, a missing head, or a workdir of another run.
    """
    dataset = dataset_of(config)
    check_codes(config, dataset)
    training, held_out = tuning_split(dataset.train) if config.train.tuning else (dataset.train, dataset.val)
    person = Person.of(dataset)
    person.check_continues(workdir)
    mesh = sharding.make_mesh()
    frames_per_step = min(config.train.frames_per_step, len(training))
    sharding.check_divides(config.train.rays, frames_per_step, config.train.micro_batches, mesh)
    frames, digest = cached_frames(dataset, training)
    _say_beginning(config, dataset, len(frames), workdir)

    stage = make_stage(config, dataset.camera)
    start = functools.partial(initial_state, config, stage, dataset, frames, digest, mesh, workdir)
    state, tx = start()
    if processes.is_main():
        save_config(config, workdir)
        person.save(workdir)
    run = Run(
        config=config,
        workdir=workdir,
        dataset=dataset,
        mesh=mesh,
        stage=stage,
        start=start,
        tx=tx,
        update=make_update(stage, tx, config.seed, config.train.micro_batches),
        loader=BatchLoader(make_sampler(config, dataset, frames), mesh),
        validator=_make_validator(config, stage, dataset, held_out, workdir),
        schedule=Schedule.of(config),
        metadata=checkpoint_metadata(config, digest),
    )
    return run, state


def _say_beginning(config: ConfigDict, dataset: Dataset, frames: int, workdir: pathlib.Path) -> None:
    count = jax.process_count()
    say(
        f"{config.stage} stage: {frames} frames of {dataset.camera.width}x{dataset.camera.height}, "
        f"{config.train.steps} steps of {config.train.rays} rays on {jax.device_count()} "
        f"{jax.devices()[0].platform} device(s){f' of {count} processes' if count > 1 else ''}, into {workdir}"
    )


def _compile_in_all_processes(run: Run, state: TrainState) -> None:
    """Waits until all processes have compiled the step: on CPUs, a collective fails after 30 s without one of them."""
    if jax.process_count() > 1:
        run.update.lower(state, run.loader.batch(0)).compile()
        processes.wait_for_all("to train")


def make_sampler(config: ConfigDict, dataset: Dataset, frames: Frames) -> RaySampler:
    """The sampler that draws the rays of a configuration's steps."""
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


def _make_validator(
    config: ConfigDict, stage: Stage, dataset: Dataset, held_out: Split, workdir: pathlib.Path
) -> Validator:
    return Validator(
        stage,
        dataset,
        held_out,
        tuning_split(dataset.train)[1],
        config.train.validate_frames,
        workdir / "validation",
        config.render.chunk,
        family=config.family,
        subject=SUBJECTS[config.subject],
        smooth=not config.compat.rough_validation,
    )


def say_cost(seconds: float, family: str) -> None:
    """Prints how long the rest of a training will take, where that is long."""
    if seconds > _LONG:
        hint = "; the variant :fast takes minutes, :small about half an hour" if family == "paper" else ""
        say(f"at this rate, training takes {duration(seconds)} on this machine{hint}")


def check_codes(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError where a condition code needs a measurement that the dataset does not have."""
    for name in config.model.head.codes:
        missing = CODES[name].check(dataset.tracks_of(name), len(dataset.windows))
        if missing:
            raise UserError(
                f"{dataset.path} has no {missing}, which the code {name!r} of config.model.head.codes is trained on: "
                f"prepare the video with `python -m adnerf_jax.preprocessing`"
            )
