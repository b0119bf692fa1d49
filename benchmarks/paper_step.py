"""Throughput of the paper's training step and rendering, relative to plain matrix products on the same machine.

    python -m benchmarks.paper_step [--width 256] [--rays 2048] [--micro-batches 8 16 32]

measures a head step, a torso step and rendering on random data, at the published sizes by default, and in the same run
plain chains of matrix products of the same shapes, forward and backward. GFLOP count the matrix products of the layers;
what a ray or an image shares is counted once. Memory is XLA's figure for the compiled step. It takes a few steps for
each number of micro-batches and stage: a step of 2048 rays at full width takes several seconds on two cores.
"""

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.types import Camera, Rays, Scene
from adnerf_jax.configuration import base as common
from adnerf_jax.models.build import build_head
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.stages import example_batch, head_init, make_stage
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.update import make_update
from benchmarks.machine import best_seconds, matrix_rate, step_seconds

CHANNELS = 29
CHAIN_SAMPLES = (2048, 4096, 8192, 16384)  # sample counts of the plain chains, of which the fastest counts


def shapes(model) -> list[tuple[int, int, bool]]:
    """(inputs, outputs, whether the inputs need a gradient) of a field's matrix products for each sample."""
    position, width, colour = 3 * (1 + 2 * model.position_levels), model.width, model.colour_width
    layers = [(position, width, False)]
    layers += [(width, width, True)] * (model.depth - 1) + [(position, width, False)]
    layers += [(width, 1, True), (width, colour, True)] + [(colour, colour, True)] * (model.colour_depth - 1)
    return [*layers, (colour, 3, True)]


def samples(model) -> int:
    """Samples of a ray at which fields are evaluated, both levels; the last of each level is the background."""
    return (model.coarse_samples - 1) + (model.coarse_samples + model.fine_samples - 1)


def forward_flop(model) -> float:
    """FLOP of a ray in the forward pass, both levels."""
    return samples(model) * sum(2.0 * i * o for i, o, _ in shapes(model))


def training_flop(model) -> float:
    """FLOP of a ray forward and backward, with one product more for the weights' gradient and one for the inputs'."""
    return samples(model) * sum(2.0 * i * o * (3 if inner else 2) for i, o, inner in shapes(model))


def chain_rate(model, count: int, backward: bool, repeats: int) -> float:
    """GFLOP/s of the plain products for `count` samples."""
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=(i, o)) / np.sqrt(i), jnp.float32) for i, o, _ in shapes(model)]
    where = jnp.asarray(rng.normal(size=(count, shapes(model)[0][0])), jnp.float32)

    def chain(weights):
        first, *hidden = weights[: model.depth]
        again, density, *colours = weights[model.depth :]
        h = where @ first
        for layer, w in enumerate(hidden):
            h = h @ w + (where @ again if layer == model.skip else 0.0)
        c = h
        for w in colours:
            c = c @ w
        return (h @ density).sum() + c.sum()

    run = jax.jit(jax.grad(chain) if backward else chain)
    seconds = best_seconds(lambda: run(weights), repeats)
    per_ray = training_flop(model) if backward else forward_flop(model)
    return per_ray / samples(model) * count / seconds / 1e9


def scene() -> Scene:
    """Constants that the paper's fields use; the others are empty."""
    empty = np.zeros(1, np.float32)
    names = {name: empty for name in Scene.__dataclass_fields__}
    used = dict(
        near=np.float32(0.6), far=np.float32(1.2), torso_camera=np.eye(4, dtype=np.float32),
        codes={"audio": {"mean": np.zeros(CHANNELS, np.float32), "basis": np.eye(CHANNELS, dtype=np.float32)}},
    )  # fmt: skip
    return Scene(**(names | used))


class Line(NamedTuple):
    """A measurement: seconds, rays, GFLOP forward and backward, GFLOP of forward passes alone, GiB."""

    name: str
    seconds: float
    rays: int
    trained: float
    rendered: float
    memory: float | None


def measure_step(config, micro_batches: int, repeats: int) -> tuple[float, float]:
    """Seconds and GiB (arguments, outputs and temporaries) of a training step."""
    camera = Camera(1200.0, 225.0, 225.0, height=450, width=450)
    stage = make_stage(config, camera)
    batch = example_batch(config.train.rays, 1, (16, CHANNELS))
    batch = jax.tree.map(lambda a: np.random.default_rng(0).random(a.shape, np.float32), batch)
    batch = batch.replace(transforms=np.eye(4, dtype=np.float32)[None], pixels=batch.pixels * 450)
    tx = make_optimizer(config.optim, config.train.attention_from)
    init = head_init(stage.head, camera)
    frozen = jax.jit(init)(jax.random.key(1), batch, scene()) if config.stage == "torso" else {}

    def create():
        return TrainState.create(stage.init(jax.random.key(0), batch, scene()), tx, frozen, scene())

    state = jax.jit(create)()
    update = make_update(stage, tx, 0, micro_batches)
    memory = update.lower(state, batch).compile().memory_analysis()
    bytes_ = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return step_seconds(update, state, batch, repeats), bytes_ / 2**30


def measure_rendering(config, rays: int, repeats: int) -> float:
    """Seconds of rendering rays of a head at every sample, without an occupancy grid."""
    head = build_head(config.model.head, config.compat)
    rng = np.random.default_rng(0)
    directions = np.concatenate([rng.uniform(-0.2, 0.2, (1, rays, 2)), -np.ones((1, rays, 1))], -1)
    bundle = Rays(np.zeros((1, rays, 3), np.float32), directions.astype(np.float32))
    codes = {"audio": np.zeros((1, 64), np.float32)}
    nothing = np.zeros((1, rays, 3), np.float32)
    params = head.init(jax.random.key(0), bundle, codes, nothing, scene())
    run = jax.jit(lambda params: head.apply(params, bundle, codes, nothing, scene()).rendered[-1].rgb)
    return best_seconds(lambda: run(params), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_step", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rays", type=int, default=2048)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    def config_of(stage: str):
        config = common.get_config(stage, None)
        for model in config.model.values():
            model.update(width=arguments.width, colour_width=arguments.width // 2)
        config.train.rays = arguments.rays
        return config

    model = config_of("head").model.head
    print(f"square products of 2048: {matrix_rate():.0f} GFLOP/s")
    lines: list[Line] = []
    best = {True: 0.0, False: 0.0}

    def measure_chains() -> None:
        # Before, between and after the steps, so that other load on the machine does not lower the reference.
        for backward in best:
            rates = [chain_rate(model, count, backward, 8) for count in CHAIN_SAMPLES]
            best[backward] = max(best[backward], *rates)

    measure_chains()
    for stage in ("head", "torso"):
        config = config_of(stage)
        for parts in arguments.micro_batches:
            seconds, memory = measure_step(config, parts, arguments.repeats)
            trained = training_flop(config.model[stage]) * arguments.rays / 1e9
            # The torso's step renders the frozen head.
            rendered = forward_flop(model) * arguments.rays / 1e9 if stage == "torso" else 0.0
            lines.append(
                Line(f"{stage} step, {parts} micro-batches", seconds, arguments.rays, trained, rendered, memory)
            )
        measure_chains()
    for rays in (256, 1024):
        seconds = measure_rendering(config_of("head"), rays, arguments.repeats)
        flop = forward_flop(model) * rays / 1e9
        lines.append(Line(f"rendering the head, {rays} rays at once", seconds, rays, 0.0, flop, None))
    measure_chains()
    print(f"plain chains: {best[True]:.0f} GFLOP/s forward and backward, {best[False]:.0f} forward")
    print(f"{'':34}{'s':>8}{'rays/s':>9}{'GFLOP/s':>9}{'of plain':>9}{'GiB':>7}")
    for line in lines:
        plain = line.trained / best[True] + line.rendered / best[False]
        rate = (line.trained + line.rendered) / line.seconds
        memory = "" if line.memory is None else f"{line.memory:7.2f}"
        print(
            f"{line.name:34}{line.seconds:8.2f}{line.rays / line.seconds:9.0f}{rate:9.0f}"
            f"{plain / line.seconds:9.2f}{memory}"
        )


if __name__ == "__main__":
    main()
