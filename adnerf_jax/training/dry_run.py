"""Arithmetic, memory and traffic of a training step, from the compiled program without running it (`dry_run`)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from adnerf_jax.common.progress import say
from adnerf_jax.common.types import Batch, Camera, Scene
from adnerf_jax.data.datasets import CHANNELS, Dataset, dataset_of, load_frames, tuning_split
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.data.schema import Split
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.training import sharding
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.stages import example_batch, head_shapes, make_stage
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.update import make_update

_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_SAMPLED_FRAMES = 16


@struct.dataclass
class Plan:
    """The cost of one training step on a mesh.

    Attributes:
      processes, devices: numbers of them in the run.
      frames: number of frames in a step.
      rays: number of rays of each frame.
      parameters, state: bytes on each device.
      transferred: bytes of a batch that go to each device.
      flop: floating-point operations of the whole step, as XLA counts them before it compiles.
      memory: bytes on a device while it runs; None where XLA does not report it.
      accessed: bytes that a device reads and writes in a step, as XLA counts.
      collectives: bytes of each kind of collective on a device in a step.
    """

    processes: int
    devices: int
    frames: int
    rays: int
    parameters: int
    state: int
    transferred: int
    flop: float
    memory: int | None
    accessed: float
    collectives: dict[str, int]


def plan_step(
    config: ConfigDict, camera: Camera, scene: Scene, windows: tuple[int, ...], frames: int, mesh: Mesh
) -> Plan:
    """Compiles the step of a configuration for a mesh, and reads its cost from the compiled program.

    Args:
      config: the stage's configuration.
      camera, scene: the person's; only shapes and types of the scene's arrays matter.
      windows: shape of a speech window.
      frames: number of frames in a step.
      mesh: the devices.
    """
    rays = config.train.rays // frames
    update, state, batch = abstract_step(config, camera, scene, windows, frames, rays, mesh)
    lowered = update.lower(state, batch)
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    counted = compiled.cost_analysis() or {}
    return Plan(
        processes=jax.process_count(),
        devices=mesh.size,
        frames=frames,
        rays=rays,
        parameters=_bytes(state.params),
        state=_bytes(state),
        transferred=sum(
            int(np.prod(a.sharding.shard_shape(a.shape))) * a.dtype.itemsize for a in jax.tree.leaves(batch)
        ),
        flop=float((lowered.cost_analysis() or {}).get("flops", 0.0)),
        memory=None
        if memory is None
        else memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        accessed=float(counted.get("bytes accessed", 0.0)),
        collectives=collective_bytes(compiled.as_text()),
    )


def abstract_step(
    config: ConfigDict, camera: Camera, scene: Scene, windows: tuple[int, ...], frames: int, rays: int, mesh: Mesh
) -> tuple[Any, TrainState, Batch]:
    """The compiled step's function, and shapes with shardings of its state and batch; arguments as in `plan_step`."""
    stage = make_stage(config, camera)
    tx = make_optimizer(config.optim, config.train.attention_from)
    example, key = example_batch(1, 1, windows), jax.random.key(0)
    frozen = {} if stage.torso is None else head_shapes(stage, camera, windows, scene)

    def create(scene: Scene, frozen: Any) -> TrainState:
        return TrainState.create(stage.init(key, example, scene), tx, frozen, scene)

    whole = sharding.replicated(mesh)
    state = sharding.abstract(jax.eval_shape(create, scene, frozen), whole)
    batch = example_batch(rays, frames, windows, config.model.head.codes)
    batch = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), batch, sharding.batch_sharding(mesh, batch)
    )
    return make_update(stage, tx, config.seed, config.train.micro_batches), state, batch


def say_plan(config: ConfigDict) -> None:
    """Prints the cost of a stage's training on the devices of this run.

    Raises:
      UserError: bad data, or a batch that cannot be divided.
    """
    dataset = dataset_of(config)
    training = tuning_split(dataset.train)[0] if config.train.tuning else dataset.train
    mesh = sharding.make_mesh()
    frames = min(config.train.frames_per_step, len(training))
    sharding.check_divides(config.train.rays, frames, config.train.micro_batches, mesh)
    scene = _sampled_scene(config, dataset, training)
    plan = plan_step(config, dataset.camera, scene, dataset.windows.shape[1:], frames, mesh)
    device = jax.devices()[0]
    pixels = len(training) * dataset.camera.height * dataset.camera.width
    limit = (device.memory_stats() or {}).get("bytes_limit")
    for line in (
        f"{plan.devices} {device.device_kind} device(s) of {plan.processes} process(es)",
        f"a step: {config.train.rays} rays of {frames} frame(s), {plan.rays // plan.devices * frames} on each device, "
        f"in {config.train.micro_batches} micro-batch(es)",
        f"on each device: parameters {_shown(plan.parameters)}, with optimizer and frozen parts {_shown(plan.state)}, "
        f"at most {'unknown' if plan.memory is None else _shown(plan.memory)} in a step"
        + (f" of {_shown(limit)}" if limit else ""),
        f"moved in a step: to each device {_shown(plan.transferred)}; "
        f"between devices: {list_collectives(plan.collectives)}",
        f"arithmetic of a step: {plan.flop / 1e9:.1f} GFLOP{_once(config)}",
        f"on the disk: decoded frames {_shown(CHANNELS * pixels)}, a checkpoint up to {_shown(plan.state)}",
    ):
        say(line)


def list_collectives(sizes: Mapping[str, int]) -> str:
    """Bytes by kind of collective, in words."""
    return ", ".join(f"{kind} {_shown(size)}" for kind, size in sizes.items()) or "none"


def _once(config: ConfigDict) -> str:
    count = config.train.micro_batches
    return "" if count == 1 else f" (of one of {count} micro-batches, as XLA counts)"


def _sampled_scene(config: ConfigDict, dataset: Dataset, training: Split) -> Scene:
    """A scene of the right shapes, from a few frames."""
    rows = np.unique(np.linspace(0, len(training) - 1, _SAMPLED_FRAMES).astype(int))
    frames = load_frames(dataset, training.take(rows))
    return make_scene(dataset, frames, make_codes(config.model.head).members, config.train.audio_components)


def collective_bytes(text: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective in an HLO module's text, on one device.

    Those in the body of a loop count once for each of its iterations, where XLA knows their number.
    """
    bodies, entry = _computations(text)

    def within(name: str) -> Iterator[tuple[str, int]]:
        for line in bodies.get(name, ()):
            found = re.search(rf"= (.*?) ({_COLLECTIVES})(?:-start)?\(", line)
            if found:
                yield found[2], _size_of(found[1])
            loop = re.search(r" while\(.*body=%?([\w.\-]+)", line)
            if loop:
                count = re.search(r"known_trip_count\D*(\d+)", line)
                for kind, size in within(loop[1]):
                    yield kind, size * (int(count[1]) if count else 1)
            for called in re.findall(r"(?:call\(.*to_apply|true_computation|false_computation)=%?([\w.\-]+)", line):
                yield from within(called)

    total: dict[str, int] = {}
    for kind, size in within(entry):
        total[kind] = total.get(kind, 0) + size
    return total


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation of an HLO module, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _size_of(shapes: str) -> int:
    """Bytes of `f32[2,3]{1,0}` or of a tuple of such."""
    total = 0
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        digits = re.search(r"\d+", kind)
        bits = 8 if digits is None else int(digits[0])  # `pred` takes a byte
        total += int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64)) * bits // 8
    return total


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _shown(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
