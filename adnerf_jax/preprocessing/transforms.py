"""The dataset's index: the training and held-out frames, each with its camera, face rectangle and speech window."""

import pathlib

import numpy as np

from adnerf_jax.common.files import write_json
from adnerf_jax.data import schema
from adnerf_jax.face.landmarks import face_rect

TRAINING_SHARE = (10, 11)  # 10/11, as in the published `process_data.py`, step 7


def split(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first 10/11 of the frames for training and the rest held out, at least one of each.

    Args:
      ids: int [N], N ≥ 2, the usable frames in order of time.

    Returns:
      int [T], the training frames; int [N - T], the held-out frames.
    """
    numerator, denominator = TRAINING_SHARE
    cut = max(len(ids) * numerator // denominator, 1)
    return ids[:cut], ids[cut:]


def write_index(
    out: pathlib.Path, ids: np.ndarray, transforms: np.ndarray, lms: np.ndarray, focal: float, width: int, height: int
) -> None:
    """Writes `transforms_train.json` and `transforms_val.json`.

    Args:
      out: the dataset's folder.
      ids: int [N], the usable frames in order of time.
      transforms: float [N, 4, 4], camera-to-head of these frames.
      lms: float [N, 68, 2], their iBUG landmarks in pixels.
      focal, width, height: intrinsics in pixels; the principal point is the middle of the picture.
    """
    rows = {int(i): row for row, i in enumerate(ids)}
    for name, part in zip(("train", "val"), split(ids), strict=True):
        frames = [
            {
                "img_id": int(i),
                "aud_id": int(i),
                "transform_matrix": np.asarray(transforms[rows[int(i)]], float).tolist(),
                "face_rect": [int(value) for value in face_rect(lms[rows[int(i)]], width, height)],
            }
            for i in part
        ]
        camera = {"focal_len": float(focal), "cx": width / 2, "cy": height / 2}
        write_json(out / schema.TRANSFORMS[name], {**camera, "frames": frames})
