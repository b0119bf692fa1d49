"""Cost of the `fast` family's parts, frames and steps, against a roofline of arithmetic and memory.

    python -m benchmarks.fast --workdir W/torso                   # all three parts
    python -m benchmarks.fast --workdir W/torso --part growth     # one of the three

Parts:
- `units`: nanoseconds for each sample, ray or pixel. The roofline is the maximum of the time of the arithmetic (at the
  rate of plain matrix products of these shapes) and of the look-ups (at the rate of a plain gather), both measured
  here.
- `frames`: seconds of a whole uint8 frame, mean over `--frames` frames; seconds of the same frame by the paper's method
  with every sample of every ray, extrapolated from 2048 rays of each network; and the roofline on a GPU, not measured.
- `growth`: milliseconds a frame against the image size and seconds a step against the rays, with fitted exponents.

`benchmarks.quality` measures quality against training time.
"""

import argparse
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.types import Camera, Conditions, Rays
from adnerf_jax.configuration import base as common
from adnerf_jax.data.person import Person
from adnerf_jax.models.build import build_head, build_torso
from adnerf_jax.models.codes.encoder import joined
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.nerf.cameras import pixel_grid
from adnerf_jax.nerf.sampling import even_edges, resample_edges
from adnerf_jax.rendering.renderer import Layers, head_visibility, make_renderer
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.runs import load_config
from adnerf_jax.training.stages import Stage, example_batch, make_stage
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.update import make_update
from benchmarks.machine import REFERENCE_GFLOPS, best_seconds, gather_rate, matrix_rate, step_seconds
from benchmarks.stand_ins import code_constants, zero_codes

SAMPLES, RAYS, PIXELS = 40960, 4096, 16384
PAPER_RAYS = 2048
SIDES = (128, 256, 450, 900)
STEP_RAYS = (512, 1024, 2048, 4096, 8192, 16384)
# H100 SXM (nvidia.com/en-us/data-center/h100): FLOP/s in float32, bytes/s of memory; a look-up takes a sector of it.
GPU_FLOPS, GPU_MEMORY, GPU_SECTOR = 67e12, 3.35e12, 32


class Trained(NamedTuple):
    """A torso's workdir, opened for measuring."""

    config: object
    person: Person
    stage: Stage
    head: object
    torso: object
    scene: object

    @classmethod
    def open(cls, workdir: pathlib.Path) -> "Trained":
        config, person = load_config(workdir), Person.load(workdir)
        _, parts = checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))
        stage = make_stage(config, person.camera)
        return cls(config, person, stage, parts["frozen"], parts["params"], parts["scene"])

    def conditions(self, i: int) -> Conditions:
        """Speech and eyes of a surveyed frame."""
        i %= len(self.person.survey.audio)
        return Conditions(
            self.person.survey.audio[i : i + 1], {name: track[i : i + 1] for name, track in self.person.tracks.items()}
        )

    def frames(self, camera: Camera) -> Callable[[int], np.ndarray]:
        """A function that renders frame `i`, uint8 [H, W, 3], in the poses of the training video."""
        render = make_renderer(self.stage.head, self.stage.torso, camera, self.config.render.chunk)
        background = jax.image.resize(
            self.person.background / np.float32(255), (camera.height, camera.width, 3), "linear"
        )

        @jax.jit
        def compose(layers: Layers) -> jax.Array:
            return to_uint8(layers.person_over(background))

        def frame(i: int) -> np.ndarray:
            transform = self.person.transforms[i % len(self.person.transforms)]
            return np.asarray(compose(render(self.head, self.torso, self.scene, transform, self.conditions(i))))

        return frame


class Unit(NamedTuple):
    """A part of the model: name, unit (sample, ray or pixel), and seconds, FLOP and gathered rows of each unit."""

    name: str
    of: str
    seconds: float
    flop: float
    rows: float


def mlp_flop(*sizes: int) -> float:
    """FLOP of an MLP for one input."""
    return sum(2.0 * i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))


class Work(NamedTuple):
    """FLOP and gathered rows of a field for one input."""

    flop: float
    rows: float


def head_work(head) -> Work:
    """Work of the head's field (`config.model.head`) for a sample."""
    features = sum(grid.levels * grid.features for grid in (head.grid, head.shape_grid))
    inner = 1 + head.geometry
    flop = mlp_flop(features, head.width, head.width, inner) + mlp_flop(inner, head.width, 3)
    return Work(flop, 8.0 * (head.grid.levels + head.shape_grid.levels))


def torso_work(torso) -> Work:
    """Work of the torso's field (`config.model.torso`) for a pixel."""
    deformation = mlp_flop(2 * (1 + 2 * torso.position_levels), torso.deformation_width, 12)
    picture = mlp_flop(torso.grid.levels * torso.grid.features, torso.width, torso.width, 4)
    return Work(deformation + picture, 4.0 * torso.grid.levels)


def unit_costs(trained: Trained) -> Iterable[Unit]:
    """The parts of a frame, measured one at a time in the forward pass."""
    head, torso, model = trained.stage.head, trained.stage.torso, trained.config.model
    rng = np.random.default_rng(0)
    # Neighbouring rays look up neighbouring cells: points ordered along a small surface, not random ones.
    side = int(np.sqrt(RAYS))
    across = np.stack(np.meshgrid(*[np.linspace(0.3, 0.7, side)] * 2, indexing="ij"), -1).reshape(-1, 1, 2)
    depth = np.sort(rng.uniform(0.45, 0.55, (len(across), SAMPLES // RAYS, 1)), axis=1)
    points = np.concatenate([np.broadcast_to(across, (*depth.shape[:2], 2)), depth], -1).reshape(1, -1, 3)
    points = points.astype(np.float32)
    code = zero_codes(make_codes(model.head), trained.scene, trained.person.channels)
    shape, codes = joined(code, model.head.shape_codes), joined(code, model.head.codes)

    def timed(module, params, method, *inputs) -> float:
        run = jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs, method=method))
        return best_seconds(lambda: run(params, *inputs), 10)

    count = points.shape[1]
    yield Unit(
        "grids of features", "sample", timed(head, trained.head, lambda m, x: m.field.grid(x), points) / count,
        0.0, 8.0 * model.head.grid.levels,
    )  # fmt: skip
    yield Unit(
        "grids of shapes", "sample",
        timed(head, trained.head, lambda m, x, s: m.field.shapes(x, s), points, shape) / count,
        0.0, 8.0 * model.head.shape_grid.levels,
    )  # fmt: skip
    directions = np.broadcast_to(np.float32([0, 0, -1]), (1, side * side, 3))
    whole = timed(
        head, trained.head, lambda m, *inputs: m.field(*inputs), points.reshape(1, side * side, -1, 3), directions,
        codes, shape,
    )  # fmt: skip
    yield Unit("head field, all of it", "sample", whole / count, *head_work(model.head))
    rays = Rays(
        np.zeros((1, RAYS, 3), np.float32) + np.asarray(trained.person.transforms[0][:3, 3]),
        np.broadcast_to(-np.asarray(trained.person.transforms[0][:3, 2]), (1, RAYS, 3)).astype(np.float32)
        + rng.normal(0, 0.02, (1, RAYS, 3)).astype(np.float32),
    )
    seen = timed(head, trained.head, lambda m, r: m.visible(r, trained.scene), rays)
    yield Unit("proposal", "ray", seen / RAYS, 0.0, float(model.head.coarse_samples))
    edges = np.broadcast_to(np.asarray(even_edges(jnp.zeros(1), jnp.ones(1), model.head.coarse_samples)),
                            (RAYS, model.head.coarse_samples + 1))  # fmt: skip
    weights = rng.random((RAYS, model.head.coarse_samples), np.float32) ** 8
    resample = jax.jit(lambda e, w: resample_edges(e, w, model.head.fine_samples, None, 0.01))
    yield Unit(
        "intervals from the proposal", "ray", best_seconds(lambda: resample(edges, weights), 10) / RAYS, 0.0, 0.0
    )
    place = np.stack(np.meshgrid(*[np.linspace(200, 250, int(PIXELS**0.5))] * 2, indexing="ij"), -1).reshape(1, -1, 2)
    pixels = timed(
        torso, trained.torso,
        lambda m, p: m(p, trained.person.camera, trained.person.transforms[:1], head.torso_code(code), trained.scene),
        place.astype(np.float32),
    )  # fmt: skip
    yield Unit("torso field", "pixel", pixels / place.shape[1], *torso_work(model.torso))


def print_units(trained: Trained) -> None:
    """Prints the table of unit costs."""
    width = trained.config.model.head.width
    narrow, rows = matrix_rate(width, rows=SAMPLES), gather_rate()
    print(f"products {width} wide: {narrow:.0f} GFLOP/s; gathers of 2 floats: {rows / 1e6:.0f} M/s")
    print(f"{'':30}{'ns':>8}{'FLOP':>8}{'rows':>6}{'roofline ns':>13}{'ratio':>7}")
    for unit in unit_costs(trained):
        roofline = max(unit.flop / (narrow * 1e9), unit.rows / rows)
        ratio = f"{roofline / unit.seconds:7.2f}" if roofline else ""
        print(
            f"{unit.name + ', a ' + unit.of:30}{1e9 * unit.seconds:8.1f}{unit.flop:8.0f}{unit.rows:6.0f}"
            f"{1e9 * roofline:13.1f}{ratio}"
        )


def paper_seconds(camera: Camera, trained: Trained) -> float:
    """Seconds of a frame, head and torso, by the paper's method at every sample of every ray."""
    config = common.get_config("torso", None)
    head, torso = (build(config.model[n], config.compat) for n, build in (("head", build_head), ("torso", build_torso)))
    rng = np.random.default_rng(0)
    rays = Rays(
        np.zeros((1, PAPER_RAYS, 3), np.float32),
        np.concatenate([rng.uniform(-0.2, 0.2, (1, PAPER_RAYS, 2)), -np.ones((1, PAPER_RAYS, 1))], -1).astype(
            np.float32
        ),
    )
    pixels = rng.uniform(0, camera.height, (1, PAPER_RAYS, 2)).astype(np.float32)
    codes = make_codes(config.model.head)
    channels = config.train.audio_components
    scene = trained.scene.replace(codes=code_constants(codes.members, channels, channels))
    code = zero_codes(codes, scene, channels)
    nothing = np.zeros((1, PAPER_RAYS, 3), np.float32)
    pose = trained.person.transforms[:1]
    inputs = {
        head: (rays, code, nothing, scene),
        torso: (pixels, camera, pose, head.torso_code(code), scene),
    }
    total = 0.0
    for net, given in inputs.items():
        params = jax.jit(lambda net=net, given=given: net.init(jax.random.key(0), *given))()
        run = jax.jit(lambda params, net=net, given=given: net.apply(params, *given))
        total += best_seconds(lambda: run(params), 2)  # noqa: B023 (called at once)
    return total / PAPER_RAYS * camera.height * camera.width


def print_frames(trained: Trained, count: int) -> None:
    """Prints the seconds of a frame, and those of the paper's method."""
    camera = trained.person.camera
    rate = matrix_rate()
    frame = trained.frames(camera)
    frame(0)
    start = time.monotonic()
    for i in range(count):
        frame(i)
    seconds = (time.monotonic() - start) / count
    paper = paper_seconds(camera, trained)
    rate = max(rate, matrix_rate())
    scaled = f"{seconds * rate / REFERENCE_GFLOPS:.2f} s at {REFERENCE_GFLOPS:.0f} GFLOP/s"
    print(
        f"{camera.width}x{camera.height}, {count} frames: {seconds:.3f} s each, {1 / seconds:.1f} frames/s "
        f"(this machine: {rate:.0f} GFLOP/s; {scaled})"
    )
    print(f"the paper's method, every sample of every ray: {paper:.0f} s, {paper / seconds:.0f} times as long")
    print_prediction(trained)


def print_prediction(trained: Trained) -> None:
    """Prints the roofline of a frame's fields on a GPU."""
    camera, head, model = trained.person.camera, trained.stage.head, trained.config.model
    transform = trained.person.transforms[0]
    rays = float(head_visibility(head, trained.head, trained.scene, transform, camera).sum())
    places = pixel_grid(camera.height, camera.width)[None]
    pixels = float(trained.stage.torso.visible(places, camera, trained.scene).sum())
    counted = ((rays * model.head.fine_samples, head_work(model.head)), (pixels, torso_work(model.torso)))
    flop, rows = (sum(count * work[i] for count, work in counted) for i in (0, 1))
    roofline = max(flop / GPU_FLOPS, rows * GPU_SECTOR / GPU_MEMORY)
    print(
        f"{rays:.0f} rays of the head, {pixels:.0f} pixels of the torso: {flop / 1e9:.1f} GFLOP, {rows / 1e6:.0f} M "
        f"look-ups; roofline on an H100: {1e3 * roofline:.2f} ms (not measured; launches and the proposal come on top)"
    )


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The exponent b of cost = a·size^b, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def print_growth(trained: Trained) -> None:
    """Prints the cost of a frame against its size, and of a step against its rays."""
    whole = trained.person.camera
    costs = []
    for side in SIDES:
        scale = side / max(whole.width, whole.height)
        camera = Camera(whole.focal * scale, whole.cx * scale, whole.cy * scale, height=side, width=side)
        frame = trained.frames(camera)
        costs.append(best_seconds(lambda frame=frame: frame(0), 5))
        print(f"{side:6} px a side: {1e3 * costs[-1]:8.1f} ms a frame")
    print(f"frame ~ side^{exponent(SIDES, costs):.2f}")
    for stage in ("head", "torso"):
        costs = [seconds_of_step(trained, stage, rays) for rays in STEP_RAYS]
        for rays, seconds in zip(STEP_RAYS, costs, strict=True):
            print(f"{rays:6} rays, {stage} step: {1e3 * seconds:8.1f} ms, {1e9 * seconds / rays:6.0f} ns a ray")
        print(f"{stage} step ~ rays^{exponent(STEP_RAYS, costs):.2f}")


def seconds_of_step(trained: Trained, name: str, rays: int) -> float:
    """Seconds of a training step with `rays` rays, from the trained parameters."""
    config = common.get_config(name, "fast")
    stage = make_stage(config, trained.person.camera)
    frames = config.train.frames_per_step
    conditions = jax.tree.map(lambda x: np.repeat(x, frames, 0), trained.conditions(0))
    batch = example_batch(rays // frames, frames, trained.person.survey.audio.shape[-2:])
    rng = np.random.default_rng(0)
    batch = batch.replace(
        pixels=rng.uniform(0.3, 0.7, batch.pixels.shape).astype(np.float32) * trained.person.camera.height,
        target=rng.random(batch.target.shape, np.float32),
        background=rng.random(batch.background.shape, np.float32),
        transforms=np.asarray(trained.person.transforms[:frames]),
        conditions=conditions,
    )
    tx = make_optimizer(config.optim, config.train.attention_from)
    params, frozen = (trained.head, {}) if name == "head" else (trained.torso, trained.head)
    state = jax.jit(lambda p, f: TrainState.create(p, tx, f, trained.scene))(params, frozen)
    return step_seconds(make_update(stage, tx, 0), state, batch, 5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fast", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of a trained torso of the fast family")
    parser.add_argument("--part", choices=("units", "frames", "growth"), action="append", help="default: all")
    parser.add_argument("--frames", type=int, default=100, help="number of rendered frames")
    arguments = parser.parse_args()
    trained = Trained.open(pathlib.Path(arguments.workdir))
    parts = arguments.part or ["units", "frames", "growth"]
    if "units" in parts:
        print_units(trained)
    if "frames" in parts:
        print_frames(trained, arguments.frames)
    if "growth" in parts:
        print_growth(trained)


if __name__ == "__main__":
    main()
