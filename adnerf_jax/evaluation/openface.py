"""Action unit error from the csv files that OpenFace writes (paper, section 4.3 and table 1)."""

import csv
import pathlib

import numpy as np

from adnerf_jax.common.errors import UserError

# The action units of lower face and mouth whose intensity (0 to 5) OpenFace 2 estimates.
LOWER_FACE = ("AU10", "AU12", "AU14", "AU15", "AU17", "AU20", "AU23", "AU25", "AU26")


def read_units(path: str | pathlib.Path, frames: int) -> np.ndarray:
    """Intensities of the lower face's action units in each frame, float [N, 9]; NaN where OpenFace found no face.

    Args:
      path: csv that `FeatureExtraction -aus` wrote.
      frames: N, the number of rows that the file must have, in the order of the frames.

    Raises:
      UserError: the file is missing, is not one of OpenFace's, or has another number of frames.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [
                {(key or "").strip(): value for key, value in row.items()} for row in csv.DictReader(file)
            ]  # OpenFace's column names begin with a space
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read OpenFace's file {path}: {error}") from None
    try:
        units = np.array([[float(row[f"{unit}_r"]) for unit in LOWER_FACE] for row in rows]).reshape(-1, 9)
        success = np.array([float(row["success"]) > 0 for row in rows], bool)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} lacks a column or a number ({error}): make it with OpenFace's FeatureExtraction -aus"
        ) from None
    if len(units) != frames:
        raise UserError(f"{path} has {len(units)} frames, {frames} were evaluated: run OpenFace on exactly those")
    return np.where(success[:, None] & np.isfinite(units).all(1, keepdims=True), units, np.nan)


def unit_errors(units: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Action unit errors over the frames in which both have a face, from intensities [N, 9].

    Returns:
      `au_error`: mean absolute difference over frames and units, as the paper describes it; `au_error_summed`: sum over
      units of the mean squared difference, as later papers report it. {} where no frame has both faces.
    """
    difference = (units - truth)[np.isfinite(units + truth).all(1)]
    if not len(difference):
        return {}
    return {
        "au_error": float(np.abs(difference).mean()),
        "au_error_summed": float(np.square(difference).mean(0).sum()),
    }
