"""What numbers stand for: which frames are judged, against what, by which program; and the files that hold them."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_bytes
from adnerf_jax.common.versions import versions_of
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import Dataset, tuning_split
from adnerf_jax.data.schema import Split
from adnerf_jax.evaluation.face_metrics import Sound
from adnerf_jax.evaluation.scoring import MEASURES, NEEDS, PROTOCOL
from adnerf_jax.evaluation.sync_confidence import SOUND_RATE
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.media.audio import read_audio
from adnerf_jax.speech.sync import LipModel

_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "opencv-python-headless", "ai-edge-litert")


def frames_to_judge(config: ConfigDict, dataset: Dataset) -> tuple[Split, Split, str]:
    """The frames trained on, those to evaluate, and what these are.

    Raises:
      UserError: there are none.
    """
    if config.eval.every < 1:
        raise UserError(f"config.eval.every is {config.eval.every}: take each n-th frame, n = 1 or more")
    trained_on, held_out, described = dataset.train, dataset.val, "held-out frames, the last 1/11 of the clip"
    if config.train.tuning:
        trained_on, held_out = tuning_split(dataset.train)
        described = "frames for tuning, the last tenth of the training frames"
    split = held_out.take(slice(None, None, config.eval.every))
    if not len(split):
        raise UserError(f"{config.data} has no held-out frames to evaluate on: the clip is too short")
    thinned = f", one in {config.eval.every}" if config.eval.every > 1 else ""
    return trained_on, split, f"{len(split)} {described}{thinned}"


def known_sound(dataset: Dataset, trained_on: Split) -> Sound | None:
    """What the clip's sound lets expect of the lips, learned from the frames trained on; None where it cannot be."""
    path = dataset.path / schema.LANDMARKS
    if not path.exists():
        return None
    landmarks = Landmarks.load(path)
    rows = trained_on.aud_id[trained_on.aud_id < len(landmarks.valid)]
    model = LipModel.fit(dataset.windows, dataset.lips, rows[landmarks.valid[rows]])
    return model and Sound(model, landmarks.points[0], dataset.windows)


def clip_samples(dataset: Dataset) -> np.ndarray:
    """The clip's sound at 16 kHz, float32 [T]; nothing where it has none that can be read."""
    try:
        return read_audio(dataset.path / schema.SOUND, SOUND_RATE)
    except UserError:
        return np.zeros(0, np.float32)


def truth_bytes(image: np.ndarray, parts: np.ndarray) -> bytes:
    """What a digest of the truth is taken of: a frame uint8 [H, W, 3] and its parts uint8 [H, W]."""
    return image.tobytes() + parts.tobytes()


def described(
    frames: str,
    every: int,
    dataset: Dataset,
    truth_sha256: str,
    smoothing: str,
    cross: str | None,
    values: dict[str, dict[str, float]],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """How the numbers were taken, as `metrics.json` has it.

    Args:
      frames: which they are (`frames_to_judge`), every: how far they are apart.
      dataset: where they come from.
      truth_sha256: of pictures and parts of the truth: equal where two runs were held against the same.
      smoothing: of what is judged, over time.
      cross: what was judged without a truth.
      values: the numbers of each setting.
      left_out: measures that are missing, and why; what the frames themselves left out is added.
    """
    present = {key for numbers in values.values() for key in numbers}
    if "faces" not in left_out:
        left_out = {name: why for name, why in NEEDS.items() if name not in present} | left_out
    return {
        "version": PROTOCOL,
        "frames": frames,
        "every": every,
        "size": [dataset.camera.width, dataset.camera.height],
        "truth": "lossless, background replaced by the clean background",
        "truth_sha256": truth_sha256,
        "smoothing": smoothing,
        "cross": cross,
        "measures": {name: text for name, text in MEASURES.items() if {name, f"{name}_truth"} & present},
        "left_out": left_out,
    }


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    return versions_of(_PACKAGES) | {"backend": jax.default_backend()}


def write_table(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """A csv of the rows; what a row lacks, and what is not a number, is empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(names), restval="")
    writer.writeheader()
    writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    write_bytes(path, table.getvalue().encode())


def read_table(path: pathlib.Path) -> list[dict[str, Any]]:
    """What `write_table` wrote: numbers, NaN where a cell is empty; `setting` stays text.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: text if name == "setting" else float(text or "nan") for name, text in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"cannot read the numbers of the frames in {path} ({error}): evaluate again") from None


def curves(rows: Sequence[dict[str, Any]], setting: str) -> dict[str, np.ndarray]:
    """The columns of one setting's rows, NaN where a row lacks one."""
    own = [row for row in rows if row["setting"] == setting]
    names = dict.fromkeys(name for row in own for name in row if name != "setting")
    return {name: np.array([row.get(name, np.nan) for row in own], float) for name in names}
