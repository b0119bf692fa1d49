"""The evaluation protocol: which frames are evaluated, against what, by which software; and the table of the frames."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_bytes
from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.common.versions import versions_of
from adnerf_jax.configuration.checks import check_values
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import Dataset, tuning_split
from adnerf_jax.data.schema import Split
from adnerf_jax.evaluation.face_metrics import ExpectedLips
from adnerf_jax.evaluation.scoring import MEASURES, NEEDS, PROTOCOL
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.media.audio import read_audio
from adnerf_jax.speech.sync import LipModel

# Settings in which renders are compared with a ground truth.
TRUTH_SETTINGS = ("head_only", "head", "full")
_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "opencv-python-headless", "ai-edge-litert")


def frames_to_evaluate(config: ConfigDict, dataset: Dataset) -> tuple[Split, Split, str]:
    """The training frames, the frames to evaluate, and a description of the latter.

    Raises:
      UserError: there are no frames to evaluate, or `eval.every` is out of range.
    """
    check_values(config, "eval.every")
    train, held_out, description = dataset.train, dataset.val, "held-out frames, the last 1/11 of the clip"
    if config.train.tuning:
        train, held_out = tuning_split(dataset.train)
        description = "frames for tuning, the last tenth of the training frames"
    split = held_out.take(slice(None, None, config.eval.every))
    if not len(split):
        raise UserError(f"{config.data} has no held-out frames to evaluate on: the clip is too short")
    thinned = f", one in {config.eval.every}" if config.eval.every > 1 else ""
    return train, split, f"{len(split)} {description}{thinned}"


def fit_expected_lips(dataset: Dataset, train: Split) -> ExpectedLips | None:
    """The lip shapes that the clip's speech predicts, by a regression fitted on the training frames.

    None where it cannot be fitted: no landmarks, too few frames with a face, or lips or speech that never change.
    """
    path = dataset.path / schema.LANDMARKS
    if "lips" not in dataset.tracks:
        return None
    landmarks = Landmarks.load(path)
    rows = train.aud_id[train.aud_id < len(landmarks.valid)]
    model = LipModel.fit(dataset.windows, dataset.tracks["lips"], rows[landmarks.valid[rows]])
    return None if model is None else ExpectedLips(model, landmarks.points[0], dataset.windows)


def clip_samples(dataset: Dataset) -> np.ndarray:
    """The clip's sound at 16 kHz, float32 [T]; empty where the dataset has no readable sound."""
    try:
        return read_audio(dataset.path / schema.SOUND, SAMPLE_RATE)
    except UserError:
        return np.zeros(0, np.float32)


def truth_bytes(image: np.ndarray, parts: np.ndarray) -> bytes:
    """The bytes of a ground-truth frame, uint8 [H, W, 3], and its part map, uint8 [H, W], for `truth_sha256`."""
    return image.tobytes() + parts.tobytes()


def describe_protocol(
    frames: str,
    every: int,
    dataset: Dataset,
    truth_sha256: str,
    smoothing: str,
    tracked_codes: Sequence[str],
    inputs: Mapping[str, str],
    cross: str | None,
    values: dict[str, dict[str, float]],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """The `protocol` of `metrics.json`: how the metrics were computed.

    Args:
      frames: description of the evaluated frames (`frames_to_evaluate`).
      every: their spacing in the clip.
      dataset: the dataset that they come from.
      truth_sha256: SHA-256 of ground truth and part maps; equal for two runs that were compared with the same frames.
      smoothing: temporal smoothing of the evaluated frames.
      tracked_codes: codes whose raw inputs are those tracked in the frames (`config.eval.tracked_codes`).
      inputs: where poses and condition codes come from; {} where that is not known.
      cross: description of the speech evaluated without a ground truth; None without.
      values: the metrics of each setting.
      left_out: metrics that were left out, and why; those that the frames themselves did not allow are added.
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
        "tracked_codes": list(tracked_codes),
        "inputs": dict(inputs),
        "cross": cross,
        "measures": {name: text for name, text in MEASURES.items() if {name, f"{name}_truth"} & present},
        "left_out": left_out,
    }


def versions() -> dict[str, str]:
    """Versions of the packages that compute the metrics, and JAX's backend."""
    return versions_of(_PACKAGES) | {"backend": jax.default_backend()}


def write_table(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as csv; a cell is empty where a row lacks the column or has NaN."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(names), restval="")
    writer.writeheader()
    writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    write_bytes(path, table.getvalue().encode())


def read_table(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads what `write_table` wrote: floats, NaN for empty cells; `setting` is text.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: text if name == "setting" else float(text or "nan") for name, text in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, ValueError, TypeError, csv.Error) as error:
        raise UserError(
            f"cannot read the metrics of the frames in {path} ({error}): run the evaluation again"
        ) from None


def curves(rows: Sequence[Mapping[str, Any]], setting: str) -> dict[str, np.ndarray]:
    """The columns of one setting, float [N] by name; NaN where a row lacks the column."""
    own = [row for row in rows if row["setting"] == setting]
    names = dict.fromkeys(name for row in own for name in row if name != "setting")
    return {name: np.array([row.get(name, np.nan) for row in own], float) for name in names}
