"""Predicted step times and efficiency of data-parallel training on 1 to 256 GPUs or TPUs.

    python -m benchmarks.scaling [--families paper fast] [--stages head torso]

compiles the training step for 8 virtual devices and takes from it what does not depend on the machine: FLOP (XLA's cost
analysis before compilation), bytes accessed (after it), and bytes of collectives (from the HLO). Takes the time of
compiling the four steps. A step on N devices is then predicted to take

    max(FLOP / N / (peak · 0.4), (bytes / N + 3 · state) / (memory · 0.6)) + all-reduce + 20 µs

where a ring all-reduce of B bytes takes 2 (N − 1)/N · B / link + 2 (N − 1) · hop, once within the nodes and once
between them. The fractions of peak and memory bandwidth and the 20 µs are assumptions, printed with the table; the rest
are published figures:

- H100 SXM: 989 TFLOP/s bf16 (dense), 3.35 TB/s, NVLink 900 GB/s in both directions together
  (nvidia.com/en-us/data-center/h100); between nodes 400 Gb/s a GPU (DGX H100 user guide).
- TPU v5e: 197 TFLOP/s bf16, 819 GB/s, links 1600 Gb/s a chip (cloud.google.com/tpu/docs/v5e).
- TPU v5p: 459 TFLOP/s bf16, 2765 GB/s, links 1200 GB/s a chip in both directions together (…/docs/v5p).
"""

import argparse
import os
from typing import NamedTuple

VIRTUAL = 8
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PEAK_SHARE, MEMORY_SHARE, LAUNCH = 0.4, 0.6, 20e-6
GOOD = 0.8  # lowest efficiency that counts as worthwhile
CHANNELS = {"paper": 29, "fast": 384}  # of the speech features: DeepSpeech's; Whisper's


class Device(NamedTuple):
    """FLOP/s, memory bytes/s, bytes/s (one direction) and seconds a hop of links within and between nodes of `node`."""

    name: str
    peak: float
    memory: float
    link: float
    hop: float
    node: int
    outer_link: float
    outer_hop: float


DEVICES = (
    Device("H100", 989e12, 3.35e12, 450e9, 1e-6, 8, 50e9, 5e-6),
    Device("TPU v5e", 197e12, 819e9, 100e9, 1e-6, 256, 100e9, 1e-6),
    Device("TPU v5p", 459e12, 2765e9, 600e9, 1e-6, 256, 600e9, 1e-6),
)


class Work(NamedTuple):
    """FLOP and memory bytes of a step that devices share, and memory bytes and all-reduced bytes of each device."""

    flop: float
    accessed: float
    fixed: float
    reduced: float


def ring(size: float, count: int, link: float, hop: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes over `count` devices."""
    return 2 * (count - 1) / count * size / link + 2 * (count - 1) * hop if count > 1 else 0.0


def step_seconds(work: Work, device: Device, count: int) -> float:
    """Predicted seconds of a step on `count` devices."""
    touched = work.accessed / count + work.fixed
    compute = max(work.flop / count / (device.peak * PEAK_SHARE), touched / (device.memory * MEMORY_SHARE))
    inner = ring(work.reduced, min(count, device.node), device.link, device.hop)
    outer = ring(work.reduced, -(-count // device.node), device.outer_link, device.outer_hop)
    return compute + inner + outer + LAUNCH


def efficiency(work: Work, device: Device, count: int) -> float:
    """Parallel efficiency: time on one device over `count` times the time on `count` devices."""
    return step_seconds(work, device, 1) / (count * step_seconds(work, device, count))


def restoring_batch(work: Work, device: Device, count: int) -> float:
    """The factor, a power of 2, by which the rays must grow for `count` devices to reach `GOOD` efficiency."""
    factor = 1
    while factor < 2**20:
        larger = work._replace(flop=work.flop * factor, accessed=work.accessed * factor)
        if efficiency(larger, device, count) >= GOOD:
            return factor
        factor *= 2
    return float("inf")


def measure(family: str, stage: str, rays: int | None) -> tuple[Work, int]:
    """The work of the compiled step of a family and stage, and its number of rays."""
    from adnerf_jax.common.types import Camera
    from adnerf_jax.configuration import base as common
    from adnerf_jax.models.codes.registry import make_codes
    from adnerf_jax.training import sharding
    from adnerf_jax.training.dry_run import plan_step

    config = common.get_config(stage, "fast" if family == "fast" else None)
    config.train.micro_batches = 1  # XLA counts a loop's body once
    if rays is not None:
        config.train.rays = rays
    channels = CHANNELS[family]
    components = min(channels, config.train.audio_components)
    scene = plain_scene(make_codes(config.model.head).members, channels, components)
    camera = Camera(1200.0, 225.0, 225.0, height=450, width=450)
    plan = plan_step(config, camera, scene, (16, channels), config.train.frames_per_step, sharding.make_mesh())
    # Each device reads and writes the state and handles its gradients.
    fixed = min(3.0 * plan.state, plan.accessed)
    divided = (plan.accessed - fixed) * plan.devices
    return Work(plan.flop, divided, fixed, float(sum(plan.collectives.values()))), config.train.rays


def plain_scene(codes, channels: int, components: int):
    """A person's constants: a range of depths, those of the condition codes, and zeros."""
    import numpy as np

    from adnerf_jax.common.types import Scene
    from benchmarks.stand_ins import code_constants

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    return Scene(
        near=np.float32(0.6),
        far=np.float32(1.2),
        box=zeros(2, 3),
        pose_mean=zeros(6),
        pose_scale=zeros(6),
        torso_top=zeros(),
        torso_camera=zeros(4, 4),
        codes=code_constants(codes, channels, components),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["paper", "fast"], choices=("paper", "fast"))
    parser.add_argument("--stages", nargs="+", default=["head", "torso"], choices=("head", "torso"))
    parser.add_argument("--rays", type=int, default=None, help="rays of a step; default: the configuration's")
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={VIRTUAL}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    # The counts do not depend on how fast the program would run here.
    jax.config.update("jax_disable_most_optimizations", True)
    print(f"assumed: {PEAK_SHARE:g} of peak, {MEMORY_SHARE:g} of memory bandwidth, {LAUNCH * 1e6:.0f} µs a step")
    for family in arguments.families:
        for stage in arguments.stages:
            work, rays = measure(family, stage, arguments.rays)
            print(
                f"\n{family} {stage}, {rays} rays a step: {work.flop / 1e9:.0f} GFLOP, {work.accessed / 2**30:.2f} GiB "
                f"read and written, {work.reduced / 2**20:.2f} MiB of collectives"
            )
            print(f"{'devices':>8}" + "".join(f"{d.name + ' ms':>14}{'eff.':>6}" for d in DEVICES))
            for count in COUNTS:
                cells = (
                    f"{1e3 * step_seconds(work, d, count):14.3f}{efficiency(work, d, count):6.2f}" for d in DEVICES
                )
                print(f"{count:8d}{''.join(cells)}")
            for device in DEVICES:
                reach = max(c for c in COUNTS if efficiency(work, device, c) >= GOOD)
                beyond = next((c for c in COUNTS if c > reach), None)
                more = (
                    f"; {beyond} take {restoring_batch(work, device, beyond):g} times the rays, 256 "
                    f"{restoring_batch(work, device, 256):g} times"
                    if beyond
                    else ""
                )
                print(f"{device.name}: {GOOD:g} or better up to {reach} device(s){more}")


if __name__ == "__main__":
    main()
