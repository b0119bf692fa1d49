"""Time and memory of the preparation against the length of the video.

    python -m benchmarks.long_video --video V.mp4 --minutes 1 2.5 5 --workdir runs/long

repeats the video to each length, prepares it in a separate process and prints the seconds of each step, milliseconds a
frame and the peak of the anonymous memory (`RssAnon`, Linux; without memory-mapped files and the page cache). It takes
as long as preparing the videos.
"""

import argparse
import pathlib
import subprocess
import sys
import time

import numpy as np

from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import VideoWriter, probe, read_frames
from benchmarks.machine import REFERENCE_GFLOPS, anonymous_mib, matrix_rate

_INTERVAL = 0.2  # seconds between two polls of the process


def loop(video: pathlib.Path, out: pathlib.Path, minutes: float) -> None:
    """Writes a video of `minutes` minutes that repeats another one with its sound."""
    info = probe(video)
    frames = round(60 * minutes * FPS)
    own = round(info.duration * FPS)
    sound = np.resize(read_audio(video, SAMPLE_RATE, duration=own / FPS), round(60 * minutes * SAMPLE_RATE))
    with VideoWriter(out, info.width, info.height, FPS, sound=(sound, SAMPLE_RATE)) as writer:
        while writer.frames < frames:
            for _, rgb in zip(range(min(own, frames - writer.frames)), read_frames(video, FPS), strict=False):
                writer.write(rgb)


def prepare_watched(video: pathlib.Path, out: pathlib.Path, parsing: str) -> float:
    """Prepares a video in another process and returns the peak of its anonymous memory in MiB.

    Raises:
      RuntimeError: the preparation failed.
    """
    command = [sys.executable, "-m", "preprocessing", f"--video={video}", f"--out={out}", f"--parsing={parsing}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    sizes = []
    while process.poll() is None:
        sizes.append(anonymous_mib(process.pid))
        time.sleep(_INTERVAL)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return float(np.nanmax(sizes))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_video", description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 2.5, 5.0])
    parser.add_argument("--parsing", default="bisenet")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/long"))
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    for minutes in options.minutes:
        video, out = options.workdir / f"{minutes:g}.mp4", options.workdir / f"{minutes:g}"
        loop(options.video, video, minutes)
        peak = prepare_watched(video, out, options.parsing)
        steps = schema.load_manifest(out)["steps"]
        frames, total = steps["frames"]["frames"], sum(step["seconds"] for step in steps.values())
        parts = ", ".join(f"{name} {step['seconds']:.0f}" for name, step in steps.items())
        print(
            f"{minutes:g} min, {frames} frames: {total:.0f} s ({parts}), {1000 * total / frames:.1f} ms a frame, "
            f"{peak:.0f} MiB of anonymous memory",
            flush=True,
        )
    rate = matrix_rate()
    print(f"{rate:.0f} GFLOP/s; scaled to {REFERENCE_GFLOPS:g}: times {rate / REFERENCE_GFLOPS:.2f}")


if __name__ == "__main__":
    main()
