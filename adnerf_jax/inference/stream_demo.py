"""Live demo: raw sound from a microphone on standard input, a talking person as video on standard output.

    arecord -t raw -f S16_LE -r 16000 -c 1 |
        python -m adnerf_jax.inference.stream_demo --workdir runs/quickstart | ffplay -

Input is 16-bit little-endian PCM, 16 kHz, mono. Output is a fragmented mp4, which players show while it is written, or
raw RGB frames at 25 fps (`--format raw`). The latency of picture and sound is about one second.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.options import Parser
from adnerf_jax.common.progress import Stopwatch, exit_status, say
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.configuration.settings.rendering import DRIVEN

_CHUNK = round(SAMPLE_RATE / FPS) * 2  # bytes of 16-bit sound that are read at once: those of one frame
_MEASURED = 50  # frames over which the rendering time is averaged, after the same number of unmeasured ones


def main(argv: Sequence[str], source: BinaryIO | None = None, sink: BinaryIO | None = None) -> int:
    """Runs the demo.

    Args:
      argv: the command line, program name first.
      source, sink: standard input and output by default.

    Returns:
      the exit status (`progress.exit_status`).
    """
    source, sink = source or sys.stdin.buffer, sink or sys.stdout.buffer
    return exit_status(lambda: stream(*_parse(argv[1:]), source, sink), _word)


def _word(option: Option) -> str:
    """An option of a message as a flag of the demo; settings that it has no flag for as arguments of the library."""
    name = option.name.removeprefix("render.")
    if name in ("workdir", *_render_flags()):
        return f"--{option._replace(name=name)}"
    return f"Avatar.stream({option._replace(name=name)})"


def _parse(argv: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """The workdir, the format, and the arguments of `Avatar.render`."""
    parser = Parser("python -m adnerf_jax.inference.stream_demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True, help="folder of a trained stage, or of the quickstart")
    parser.add_argument("--format", choices=("mp4", "raw"), default="mp4", help="format of the output")
    for name in _render_flags():
        parser.add_argument(f"--{name}", help=f"as config.render.{name}")
    options = vars(parser.parse_args(argv))
    workdir, container = options.pop("workdir"), options.pop("format")
    return workdir, container, {name: value for name, value in options.items() if value is not None}


def _render_flags() -> tuple[str, ...]:
    """The arguments of `Avatar.render` that have a flag."""
    return ("pose", "offset", "background", "camera", *DRIVEN, "size", "crop")


def stream(workdir: str, container: str, options: dict[str, str], source: BinaryIO, sink: BinaryIO) -> None:
    """Renders a live stream until the sound ends or the player closes its pipe.

    Args:
      workdir: folder of the person.
      container: `mp4` or `raw`.
      options: arguments of `Avatar.render`.
      source: gives 16-bit little-endian PCM, 16 kHz, mono.
      sink: takes the video.

    Raises:
      UserError: there is no trained person, an option is invalid, or no sound is received.
    """
    from adnerf_jax.inference.avatar import Avatar
    from adnerf_jax.media.video import VideoWriter

    if options.get("background") == "none":
        raise UserError("a live stream has no transparency: give a background")
    avatar, pace = Avatar.load(workdir), Pace()
    frames = avatar.stream(pace.time_input(pcm_chunks(source)), keep_sound=container == "mp4", **options)
    say(f"{frames.width}x{frames.height} at {FPS:g} fps, {avatar.look_ahead:.2f} s behind the sound")
    try:
        if container == "raw":
            for frame in pace.time_frames(frames):
                sink.write(frame.tobytes())
                sink.flush()
            return
        tags = avatar.provenance.tags()
        with VideoWriter(sink, frames.width, frames.height, FPS, sound=frames.speech.sound, tags=tags) as writer:
            for frame in pace.time_frames(frames):
                writer.write(frame)
                sink.flush()
    except BrokenPipeError:
        say("the player has closed its input")
        if sink is sys.stdout.buffer:  # what it still holds would be written, and fail, when the program ends
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), sys.stdout.fileno())


class Pace:
    """Warns once if rendering is slower than real time, so that the latency of the picture grows."""

    def __init__(self):
        self._input, self._total = Stopwatch(), Stopwatch()

    def time_input(self, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The chunks; the time spent waiting for them is measured, as it is no rendering time."""
        return self._input.over(chunks)

    def time_frames(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames; the time until each is rendered is measured, not what its consumer does: a player may block."""
        for i, frame in enumerate(self._total.over(frames), 1):
            if i == _MEASURED:  # the first frames include compilation
                self._input.seconds = self._total.seconds = 0.0
            if i == 2 * _MEASURED:
                seconds = (self._total.seconds - self._input.seconds) / _MEASURED
                if seconds * FPS > 1:
                    say(
                        f"warning: a frame takes {seconds:.3f} s to render and lasts {1 / FPS:g} s, so the latency "
                        f"grows: give a smaller ",
                        Option("size"),
                    )
            yield frame


def pcm_chunks(source: BinaryIO) -> Iterator[np.ndarray]:
    """Chunks int16 [t] of a raw recording as they arrive; half a sample at its end is ignored."""
    rest = b""
    while data := source.read(_CHUNK):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.int16)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
