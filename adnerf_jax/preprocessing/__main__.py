"""`python -m preprocessing --video V.mp4 --out D`: makes a dataset of a portrait video."""

import pathlib
import sys
from collections.abc import Sequence

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.options import Parser
from adnerf_jax.common.progress import exit_status

DESCRIPTION = """Makes a training dataset of a portrait video: one person talking to the camera in front of a static
background, ideally for 3 to 5 minutes. Run the same command again to continue after an interruption."""

LICENCES = """Weights that are downloaded on first use have their own licences. Those of the face parsing were trained
on CelebAMask-HQ, which is for non-commercial research and education only. With --parsing=permissive they are neither
downloaded nor used; all weights are then under Apache-2.0 or MIT."""

# Options whose values may begin with a dash: file names and a negative number.
DASHED_VALUES = ("--video", "--out", "--speech", "--audio_offset")


def _program() -> str:
    """The command as it was given: the installed one, or a module of the checkout or of the package."""
    path = pathlib.Path(sys.argv[0])
    if path.name == "adnerf-prepare":
        return path.name
    in_checkout = path.name == "__main__.py" and path.parent.parent.name != "adnerf_jax"
    return "python -m preprocessing" if in_checkout else "python -m adnerf_jax.preprocessing"


def _parser() -> Parser:
    parser = Parser(prog=_program(), description=DESCRIPTION, epilog=LICENCES)
    parser.add_argument("--video", required=True, metavar="V", help="the portrait video, with its sound")
    parser.add_argument("--out", required=True, metavar="D", help="the dataset's folder")
    parser.add_argument("--focal", type=float, metavar="F", help="focal length in pixels (default: 8/3 of the width)")
    parser.add_argument(
        "--speech",
        default="whisper",
        metavar="S",
        help="speech features: whisper (default), logmel, or a file of DeepSpeech features, path/to/deepspeech.npy",
    )
    parser.add_argument(
        "--parsing",
        default="bisenet",
        metavar="P",
        help="segmentation of head, neck and torso: bisenet (default, more accurate; its weights are for "
        "non-commercial use only) or permissive (any use)",
    )
    parser.add_argument(
        "--audio_offset",
        type=float,
        metavar="S",
        help="seconds by which the sound lags behind the lips, negative if it leads (default: measured)",
    )
    parser.add_argument(
        "--audio_track",
        type=int,
        metavar="N",
        help="the video's sound track, counted from 1 (default: the one marked as default, or the first that is not "
        "silent)",
    )
    parser.add_argument(
        "--max_side",
        type=int,
        default=1024,
        metavar="N",
        help="maximum of the longer side in pixels: larger videos are downscaled, and --focal is in pixels of the "
        "downscaled frames (default: 1024)",
    )
    parser.add_argument(
        "--redo",
        metavar="STEP",
        help="run this step again, and those that use its results: "
        "frames, landmarks, sound, parsing, pose, background, images, index or report",
    )
    return parser


def _joined(argv: Sequence[str]) -> list[str]:
    """Writes `--video -v.mp4` as `--video=-v.mp4`: argparse takes a value that begins with a dash for an option."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in DASHED_VALUES and word[:1] == "-" and word[1:2] != "-" and word != "-h":
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (`progress.exit_status`)."""

    def command() -> None:
        options = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
        if not options.out:
            raise UserError(Option("out"), " is empty (an unset shell variable?): name the dataset's folder")
        # Imported here so that --help does not wait for JAX.
        from adnerf_jax.common.compilation import enable_cache
        from adnerf_jax.preprocessing.pipeline import prepare

        enable_cache()
        prepare(
            options.video,
            options.out,
            focal=options.focal,
            speech=options.speech,
            parsing=options.parsing,
            audio_offset=options.audio_offset,
            audio_track=options.audio_track,
            max_side=options.max_side,
            redo=options.redo,
        )

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
