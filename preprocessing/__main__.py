"""`python -m preprocessing --video V.mp4 --out D`: a portrait video becomes a dataset."""

import argparse
import sys
from collections.abc import Sequence

from adnerf_jax.errors import UserError
from adnerf_jax.files import explain_os_error

DESCRIPTION = """Makes a dataset to train on from a portrait video: one person who talks to the camera before a
still background, 3 to 5 minutes at best. Run the same command again to continue after an interruption."""

LICENCES = """Weights that are fetched on first use come under their own licences; those of the face parsing were
trained on CelebAMask-HQ, which is for non-commercial research and education only."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m preprocessing", description=DESCRIPTION, epilog=LICENCES)
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
        "--redo",
        metavar="STEP",
        help="do this step again, and those that use its results: "
        "frames, sound, landmarks, pose, parsing, background, images or index",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 for a user's mistake, 1 for a failing system."""
    options = _parser().parse_args(argv)
    try:
        # Not at the top: --help must not wait for JAX.
        from adnerf_jax.compilation import enable_cache
        from preprocessing.pipeline import prepare

        enable_cache()
        prepare(options.video, options.out, focal=options.focal, speech=options.speech, redo=options.redo)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {explain_os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
