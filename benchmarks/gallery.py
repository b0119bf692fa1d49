"""The gallery of docs/rendering.md: three poses, two backgrounds, two voices.

    python -m benchmarks.gallery --workdir runs/quickstart --voices a.wav b.wav --out docs/images/gallery.png

writes one row for each voice and background and one column for each pose, each at another moment of the speech. Takes
about as long as loading a person and rendering twelve frames.
"""

import argparse
import pathlib

import numpy as np

from adnerf_jax import Avatar
from adnerf_jax.media.image import write_image
from adnerf_jax.training.validation import contact_sheet

_POSES = ("yaw=-8", "yaw=0", "yaw=8,pitch=5")
_BACKGROUNDS = ("original", "#3c6e8f")
_MOMENT = 1.0  # seconds into the speech


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--voices", nargs=2, required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    avatar = Avatar.load(arguments.workdir)

    def show(voice: pathlib.Path, background: str, column: int) -> np.ndarray:
        look = dict(pose="rest", offset=_POSES[column], background=background, eyes=1)
        return next(avatar.render(voice, start=_MOMENT + 0.4 * column, duration=0.4, **look))

    rows = [
        [show(voice, background, column) for column in range(len(_POSES))]
        for voice in arguments.voices
        for background in _BACKGROUNDS
    ]
    write_image(arguments.out, contact_sheet(rows), provenance=avatar.provenance)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
