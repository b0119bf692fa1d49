"""Overhead of the input pipeline, of checkpoints and of logging in a training step, and memory of the frame cache.

    python -m benchmarks.input --data D [--variants fast] [--steps 100] [--repeat 8000]

times training steps on batches from the memory-mapped frames and on one constant batch, alternately. `--repeat N` lists
the dataset's training frames repeatedly, as links to the same files, until there are N. Also prints the seconds of
building the cache, the cost of a checkpoint and of a line of metrics, and the process's anonymous memory. It runs four
times `--turns` times `--steps` steps.
"""

import argparse
import itertools
import os
import pathlib
import tempfile
import time

import jax
import numpy as np

from adnerf_jax.common.files import read_json, write_json
from adnerf_jax.configuration import base as common
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import dataset_of
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.batch_loader import BatchLoader
from adnerf_jax.training.initialise import initial_state
from adnerf_jax.training.logs import MetricWriter
from adnerf_jax.training.runs import checkpoint_metadata
from adnerf_jax.training.stages import make_stage
from adnerf_jax.training.train import make_sampler
from adnerf_jax.training.update import make_update


def repeated(data: pathlib.Path, count: int, folder: pathlib.Path) -> pathlib.Path:
    """A dataset of `count` training frames made of links to the frames of another one."""
    index = read_json(data / schema.TRANSFORMS["train"], "dataset index")
    held_out = read_json(data / schema.TRANSFORMS["val"], "dataset index")
    frames = sorted(index["frames"], key=lambda f: f["img_id"])
    windows, chosen = schema.load_audio_windows(data), []
    for name in ("parsing", "gt", "alpha", "ori_imgs"):
        (folder / name).mkdir(parents=True)
    (folder / "gt/bc.png").symlink_to((data / schema.LOSSLESS_BACKGROUND).absolute())
    (folder / schema.BACKGROUND).symlink_to((data / schema.BACKGROUND).absolute())
    for number in range(count + len(held_out["frames"])):
        split = frames if number < count else held_out["frames"]
        frame = split[(number if number < count else number - count) % len(split)]
        for name in (schema.parsing_image, schema.lossless_image, schema.alpha_image, schema.landmark_file):
            source = data / name(frame["img_id"])
            if source.exists():
                (folder / name(number)).symlink_to(source.absolute())
        chosen.append({**frame, "img_id": number, "aud_id": number})
    order = [min(f["aud_id"], len(windows) - 1) for f in (frames * (count // len(frames) + 1))[:count]]
    order += [min(f["aud_id"], len(windows) - 1) for f in held_out["frames"]]
    np.save(folder / schema.AUDIO_WINDOWS, windows[order])
    write_json(folder / schema.TRANSFORMS["train"], {**index, "frames": chosen[:count]})
    write_json(folder / schema.TRANSFORMS["val"], {**held_out, "frames": chosen[count:]})
    return folder


def anonymous_gib() -> tuple[float, float]:
    """Resident anonymous memory of this process, and its peak resident memory of all kinds, in GiB."""
    lines = dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 2**20 for name in ("RssAnon", "VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--variants", default="fast", help="variants of the head's configuration")
    parser.add_argument("--steps", type=int, default=100, help="steps of each kind in a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=None, help="number of training frames to extend the dataset to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        data = arguments.data
        if arguments.repeat:
            data = repeated(data, arguments.repeat, pathlib.Path(folder) / "data")
        measure(str(data), arguments, pathlib.Path(folder) / "run")


def measure(data: str, arguments: argparse.Namespace, workdir: pathlib.Path) -> None:
    config = common.get_config("head", arguments.variants)
    config.data = data
    start = time.monotonic()
    dataset = dataset_of(config)
    frames, digest = cached_frames(dataset, dataset.train)
    built = time.monotonic()
    frames, digest = cached_frames(dataset, dataset.train)
    print(
        f"{len(frames)} frames of {dataset.camera.width}x{dataset.camera.height}: decoded in {built - start:.1f} s, "
        f"checked again in {time.monotonic() - built:.1f} s, {frames.packed.nbytes / 2**30:.2f} GiB on the disk"
    )
    mesh = sharding.make_mesh()
    stage = make_stage(config, dataset.camera)
    state, tx = initial_state(config, stage, dataset, frames, digest, mesh, workdir)
    loader = BatchLoader(make_sampler(config, dataset, frames), mesh)
    update = make_update(stage, tx, config.seed, config.train.micro_batches)
    print(f"anonymous memory before the first step: {anonymous_gib()[0]:.2f} GiB")

    constant = loader.batch(0)
    state, metrics = update(state, constant)
    jax.block_until_ready(metrics)
    seconds = {"real input": [], "one batch": []}
    for turn in range(arguments.turns):
        first = turn * arguments.steps
        inputs = {
            "real input": loader.batches(first, first + arguments.steps),
            "one batch": itertools.repeat(constant, arguments.steps),
        }
        for name, batches in inputs.items():
            begin = time.monotonic()
            for batch in batches:
                state, metrics = update(state, batch)
            jax.block_until_ready(metrics)
            seconds[name].append(time.monotonic() - begin)
    best = {name: min(times) / arguments.steps for name, times in seconds.items()}
    step = best["real input"]
    ratios = np.divide(*seconds.values())  # within a turn, where other load on the machine affects both alike
    print(", ".join(f"{name} {1e3 * s:.2f} ms a step" for name, s in best.items()), end="; ")
    low, ratio, high = np.percentile(ratios, [25, 50, 75])
    print(f"ratio {ratio:.3f} (median of the turns, quartiles {low:.3f} and {high:.3f})")

    writer, values = MetricWriter(workdir, 0), {name: float(v) for name, v in metrics.items()}
    begin = time.monotonic()
    for line in range(100):
        writer.write(line, values)
    logging = (time.monotonic() - begin) / 100
    plain, saving, held = [], [], []
    with checkpoints.Saver(workdir, 2) as saver:
        saver.save(state, checkpoint_metadata(config, digest))
        saver.wait()
        for _ in range(arguments.turns):
            for times in (plain, saving):
                begin = time.monotonic()
                if times is saving:
                    saver.save(state, checkpoint_metadata(config, digest))
                    held.append(time.monotonic() - begin)
                for _ in range(arguments.steps):
                    state, metrics = update(state, constant)
                jax.block_until_ready(metrics)
                saver.wait()
                times.append(time.monotonic() - begin)
    cost = np.median(np.subtract(saving, plain))
    print(
        f"a checkpoint blocks the loop for {1e3 * min(held):.0f} ms and costs {1e3 * cost:.0f} ms in all: "
        f"{100 * cost / (1000 * step):.2f} % of 1000 steps; a line of metrics takes {1e3 * logging:.2f} ms, "
        f"{100 * logging / (config.train.log_every * step):.2f} % of the {config.train.log_every} steps between two"
    )
    anonymous, most = anonymous_gib()
    print(f"anonymous memory at the end: {anonymous:.2f} GiB; peak of all resident memory: {most:.2f} GiB")


if __name__ == "__main__":
    main()
