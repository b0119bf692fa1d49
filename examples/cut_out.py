"""The person without a background: a transparent video and RGBA frames: `python examples/cut_out.py`."""

import argparse
import pathlib

import numpy as np

from adnerf_jax import Avatar


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--audio", type=pathlib.Path, help="any sound or video file; default: the driving speech")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("cut_out.webm"), help=".webm, .mov or .png")
    parser.add_argument("--size", help="of the picture, as 512 or 640x360")
    options = parser.parse_args(argv)
    audio = options.audio or options.workdir / "subject" / "driving.wav"
    avatar = Avatar.load(options.workdir)
    print("wrote", avatar.write(options.out, audio, background="none", size=options.size))

    # The same frames as arrays: uint8 [H, W, 4], colours not multiplied with opacity. Composite one over grey.
    frame = next(avatar.render(audio, background="none", size=options.size)).astype(np.float32)
    opacity = frame[..., 3:] / 255
    over_grey = frame[..., :3] * opacity + 128 * (1 - opacity)
    print(f"the first frame is {frame.shape}, {opacity.mean():.0%} opaque, over grey {over_grey.mean():.0f} on average")


if __name__ == "__main__":
    main()
