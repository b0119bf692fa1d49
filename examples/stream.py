"""Frames while the sound still arrives, as from a microphone: `python examples/stream.py`."""

import argparse
import pathlib
from collections.abc import Iterator

import numpy as np

from adnerf_jax import Avatar
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.media.audio import read_audio

CHUNK = round(SAMPLE_RATE / FPS)  # samples: one frame


def microphone(audio: pathlib.Path, received: list[int]) -> Iterator[np.ndarray]:
    """Chunks of sound; `received` counts their samples. A real microphone would block until each has arrived."""
    samples = read_audio(audio, SAMPLE_RATE)
    for start in range(0, len(samples), CHUNK):
        chunk = samples[start : start + CHUNK]
        received[0] += len(chunk)
        yield chunk


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--audio", type=pathlib.Path, help="any sound or video file; default: the driving speech")
    parser.add_argument("--size", default="96", help="of the picture, as 512 or 640x360")
    options = parser.parse_args(argv)
    avatar = Avatar.load(options.workdir)
    print(f"a frame needs {avatar.look_ahead:.2f} s of sound after its beginning")
    received = [0]
    chunks = microphone(options.audio or options.workdir / "subject" / "driving.wav", received)
    for i, frame in enumerate(avatar.stream(chunks, size=options.size)):
        print(f"frame {i}: {frame.shape}, after {received[0] / SAMPLE_RATE:.2f} s of sound")


if __name__ == "__main__":
    main()
