"""A microphone to a talking person: raw sound on standard input, video on standard output.

    arecord -t raw -f S16_LE -r 16000 -c 1 |
        python -m adnerf_jax.inference.stream_demo --workdir runs/quickstart | ffplay -

Input is 16-bit little-endian PCM, 16 kHz, mono. Output is an mp4 that can be watched while it grows, or raw RGB frames,
25 a second (`--format raw`). Picture and sound leave together, about a second after the sound came in.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.options import Parser
from adnerf_jax.common.progress import Stopwatch, exit_status, say
from adnerf_jax.common.timing import FPS

_CHUNK = 640 * 2  # bytes that are waited for: one frame of sound
_LOOKED_AT = 50  # frames, after which it is known whether they are made as fast as they last


def main(argv: Sequence[str], source: BinaryIO | None = None, sink: BinaryIO | None = None) -> int:
    """Runs the demo.

    Args:
      argv: the command line, program name first.
      source, sink: standard input and output by default.

    Returns:
      the exit status (`progress.exit_status`).
    """
    source, sink = source or sys.stdin.buffer, sink or sys.stdout.buffer
    return exit_status(lambda: stream(*_parse(argv[1:]), source, sink))


def _parse(argv: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """Workdir, format and look."""
    parser = Parser("python -m adnerf_jax.inference.stream_demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True, help="of a trained stage, or the quickstart's")
    parser.add_argument("--format", choices=("mp4", "raw"), default="mp4", help="of the output")
    for name in ("pose", "offset", "background", "camera", "eyes", "size", "crop"):
        parser.add_argument(f"--{name}", help=f"as config.render.{name}")
    options = vars(parser.parse_args(argv))
    workdir, form = options.pop("workdir"), options.pop("format")
    return workdir, form, {name: value for name, value in options.items() if value is not None}


def stream(workdir: str, form: str, look: dict[str, str], source: BinaryIO, sink: BinaryIO) -> None:
    """Renders sound as it comes, until it ends or nobody watches any more.

    Raises:
      UserError: no trained person, or a look that cannot be.
    """
    from adnerf_jax.inference.avatar import Avatar
    from adnerf_jax.media.video import VideoWriter

    if look.get("background") == "none":
        raise UserError("a live stream has no transparency: give a background")
    avatar, pace = Avatar.load(workdir), Pace()
    frames = avatar.stream(pace.waited_for(pcm_chunks(source)), keep_sound=form == "mp4", **look)
    say(f"{frames.width}x{frames.height} at {FPS:g} frames a second, {avatar.look_ahead:.2f} s behind the sound")
    try:
        if form == "raw":
            for frame in pace.watched(frames):
                sink.write(frame.tobytes())
                sink.flush()
            return
        tags = avatar.provenance.tags()
        with VideoWriter(sink, frames.width, frames.height, FPS, sound=frames.speech.sound, tags=tags) as writer:
            for frame in pace.watched(frames):
                writer.write(frame)
                sink.flush()
    except BrokenPipeError:
        say("nobody watches any more")


class Pace:
    """Says once that frames take longer to make than they last, so that the picture falls behind the sound."""

    def __init__(self):
        self._waiting, self._making = Stopwatch(), Stopwatch()

    def waited_for(self, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The chunks; the time until they come is not the machine's."""
        return self._waiting.over(chunks)

    def watched(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames; what happens to them then does not count, as a player may hold them back."""
        for i, frame in enumerate(self._making.over(frames), 1):
            if i == _LOOKED_AT:  # the first ones compile
                self._waiting.seconds = self._making.seconds = 0.0
            if i == 2 * _LOOKED_AT:
                made = (self._making.seconds - self._waiting.seconds) / _LOOKED_AT
                if made * FPS > 1:
                    say(
                        f"warning: a frame takes {made:.3f} s to make and lasts {1 / FPS:g} s, so the picture falls "
                        f"behind: give a smaller --size"
                    )
            yield frame


def pcm_chunks(source: BinaryIO) -> Iterator[np.ndarray]:
    """int16 [t] pieces of a raw recording as they come; half a sample at its end is left out."""
    left = b""
    while data := source.read(_CHUNK):
        data = left + data
        whole = len(data) // 2 * 2
        left = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.int16)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
