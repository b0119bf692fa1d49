"""`python -m preprocessing --video V.mp4 --out D`: a portrait video becomes a dataset."""

import sys
from collections.abc import Sequence

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.options import Parser
from adnerf_jax.common.progress import exit_status

DESCRIPTION = """Makes a dataset to train on from a portrait video: one person who talks to the camera before a
still background, 3 to 5 minutes at best. Run the same command again to continue after an interruption."""

LICENCES = """Weights that are fetched on first use come under their own licences; those of the face parsing were
trained on CelebAMask-HQ, which is for non-commercial research and education only. With --parsing=permissive they are
neither fetched nor used; all that is then fetched is under Apache-2.0 or MIT."""

MAY_BEGIN_WITH_A_DASH = ("--video", "--out", "--speech", "--audio_offset")


def _parser() -> Parser:
    parser = Parser(prog="python -m preprocessing", description=DESCRIPTION, epilog=LICENCES)
    parser.add_argument("--video", required=True, metavar="V", help="the portrait video, with its sound")
    parser.add_argument("--out", required=True, metavar="D", help="the dataset's folder")
    parser.add_argument("--focal", type=float, metavar="F", help="focal length in pixels (default: 8/3 of the width)")
    parser.add_argument(
        "--speech",
        default="whisper",
        metavar="S",
        help="speech features: whisper (default), logmel, or DeepSpeech's own in a file path/to/deepspeech.npy",
    )
    parser.add_argument(
        "--parsing",
        default="bisenet",
        metavar="P",
        help="what divides head, neck and torso: bisenet (default, the better one; its weights are for non-commercial "
        "use only) or permissive (any use)",
    )
    parser.add_argument(
        "--audio_offset",
        type=float,
        metavar="S",
        help="seconds by which the sound is late against the lips, negative where early (default: measured)",
    )
    parser.add_argument(
        "--max_side",
        type=int,
        default=1024,
        metavar="N",
        help="pixels of the longer side at most: larger videos are shrunk, and --focal counts what is left "
        "(default: 1024)",
    )
    parser.add_argument(
        "--redo",
        metavar="STEP",
        help="do this step again, and those that use its results: "
        "frames, landmarks, sound, parsing, pose, background, images, index or report",
    )
    return parser


def _joined(argv: Sequence[str]) -> list[str]:
    """`--video -v.mp4` as `--video=-v.mp4`: argparse takes a value that begins with a dash for an option."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in MAY_BEGIN_WITH_A_DASH and word[:1] == "-" and word[1:2] != "-" and word != "-h":
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (`progress.exit_status`)."""

    def command() -> None:
        options = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
        if not options.out:
            raise UserError("--out is empty (a shell variable that is not set?): name the dataset's folder")
        # Not at the top: --help must not wait for JAX.
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
            max_side=options.max_side,
            redo=options.redo,
        )

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
