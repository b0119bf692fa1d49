"""The person of the quickstart speaks a recording: `python examples/say_a_file.py --audio speech.wav`."""

import argparse
import pathlib

from adnerf_jax import Avatar


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--audio", type=pathlib.Path, help="any sound or video file; default: the driving speech")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("talking.mp4"))
    parser.add_argument("--size", help="of the picture, as 512 or 640x360")
    options = parser.parse_args(argv)
    audio = options.audio or options.workdir / "subject" / "driving.wav"
    avatar = Avatar.load(options.workdir)
    print("wrote", avatar.write(options.out, audio, background="blur", size=options.size))


if __name__ == "__main__":
    main()
