"""The head turns from side to side and nods while it speaks: `python examples/turn_the_head.py`."""

import argparse
import pathlib

from adnerf_jax import Avatar

# Keys [seconds, degrees]; between them the curves are monotone, beyond them constant.
TURN = {
    "yaw": [[0.0, 0.0], [1.0, 8.0], [2.0, 0.0], [3.0, -8.0], [4.0, 0.0]],
    "pitch": [[0.0, 0.0], [0.5, 3.0], [1.0, 0.0]],
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--audio", type=pathlib.Path, help="any sound or video file; default: the driving speech")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("turned.mp4"))
    parser.add_argument("--size", help="of the picture, as 512 or 640x360")
    options = parser.parse_args(argv)
    audio = options.audio or options.workdir / "subject" / "driving.wav"
    avatar = Avatar.load(options.workdir)
    # From the rest pose; `clamp` keeps the head within the poses of the training video.
    print("wrote", avatar.write(options.out, audio, pose="rest", offset=TURN, clamp=True, size=options.size))


if __name__ == "__main__":
    main()
