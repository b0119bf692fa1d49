"""Long speech: a live stream for an hour, or minutes into an mp4; memory must stay flat, sound and picture together.

    python -m benchmarks.long_render --workdir W/torso --minutes 60 --live
    python -m benchmarks.long_render --workdir W/torso --minutes 10 --size 128 --out long.mp4

prints a line for each tenth of the speech: milliseconds a frame (of them for the speech features) and the process's
memory; for a file then the seconds at which its picture and its sound end. The speech is noise that comes and goes.
"""

import argparse
import pathlib
import resource
import time
from collections.abc import Iterator

import av
import numpy as np

from adnerf_jax import Avatar
from adnerf_jax.avatar import Rendering
from adnerf_jax.media.audio import write_wav
from adnerf_jax.output import write_output
from adnerf_jax.schema import FPS
from adnerf_jax.speech import SAMPLE_RATE, SAMPLES_PER_FRAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--size", help="of the picture; by default as learned")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--live", action="store_true", help="stream, and keep nothing")
    how.add_argument("--out", type=pathlib.Path, help="write a video")
    arguments = parser.parse_args()
    avatar = Avatar.load(arguments.workdir)
    frames = round(arguments.minutes * 60 * FPS)
    print("| minutes | ms a frame | of them speech features | resident MiB |\n|---|---|---|---|")
    if arguments.live:
        for _ in reported(avatar.stream(babble(frames), size=arguments.size), frames):
            pass
        return
    sound = arguments.out.with_suffix(".wav")
    write_wav(sound, np.concatenate(list(babble(frames))), SAMPLE_RATE)
    rendering = avatar.render(sound, size=arguments.size)
    write_output(
        arguments.out,
        reported(rendering, frames),
        rendering.width,
        rendering.height,
        alpha=False,
        said=rendering.said,
        provenance=avatar.provenance,
    )
    with av.open(str(arguments.out)) as container:
        ends = [float(((s.start_time or 0) + s.duration) * s.time_base) for s in container.streams]
    print(f"picture ends at {ends[0]:.3f} s, sound at {ends[1]:.3f} s")


def babble(frames: int) -> Iterator[np.ndarray]:
    """Sound of so many frames, a frame at a time."""
    rng = np.random.default_rng(0)
    for i in range(frames):
        loudness = 0.05 * (1.0 + np.sin(0.9 * i)) * (i % 60 < 45)
        yield (loudness * rng.standard_normal(SAMPLES_PER_FRAME)).astype(np.float32)


def reported(rendering: Rendering, frames: int) -> Iterator[np.ndarray]:
    """The frames, with a line after each tenth of them."""
    listening = Stopwatch()
    said = rendering.said
    rendering.said = said.replace(audio=lambda: listening.over(said.audio()))
    tenth, since = max(frames // 10, 1), time.monotonic()
    for i, (_, frame) in enumerate(rendering.picked(lambda _: True), 1):
        yield frame
        if i % tenth == 0:
            now = time.monotonic()
            each, heard = 1000 * (now - since) / tenth, 1000 * listening.taken() / tenth
            print(f"| {i / FPS / 60:.1f} | {each:.1f} | {heard:.1f} | {resident():.0f} |", flush=True)
            since = now


class Stopwatch:
    """Seconds that an iterator takes for its values."""

    def __init__(self):
        self._seconds = 0.0

    def over(self, values: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The values."""
        while True:
            start = time.monotonic()
            value = next(values, None)
            self._seconds += time.monotonic() - start
            if value is None:
                return
            yield value

    def taken(self) -> float:
        """Seconds since it was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def resident() -> float:
    """MiB of memory that the process holds now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
