"""The constants of a person that are computed from the training frames and never trained (`types.Scene`)."""

from collections.abc import Sequence

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.types import Camera, Scene
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import SUBJECTS, Dataset, Frames
from adnerf_jax.face.parsing import NECK, TORSO
from adnerf_jax.face.tracking import UNITS_PER_CM
from adnerf_jax.models.codes.base import Code, Recording
from adnerf_jax.nerf.cameras import placement_vector

# Depth of the head's box, behind and before its origin between the ears.
_BOX_DEPTH = (-20.0 * UNITS_PER_CM, 12.0 * UNITS_PER_CM)


def make_scene(
    dataset: Dataset,
    frames: Frames,
    codes: Sequence[Code],
    audio_components: int,
    volume: tuple[int, ...] = SUBJECTS["head"],
) -> Scene:
    """The constants of a person, from training frames only.

    Args:
      dataset: the clip.
      frames: its training frames.
      codes: the head's condition codes (`registry.make_codes(config.model.head).members`).
      audio_components: K, the number of principal components that speech features are projected to; features that
        already have K components stay as they are.
      volume: the parts (`face.parsing`) that the head stage's volume shows; for a single field, the whole person.
    """
    rows = frames.split.aud_id
    windows = dataset.windows[rows]
    poses = np.asarray(placement_vector(frames.split.transforms))
    # One picture after the other: all of them together take gigabytes.
    torso_rows = np.flatnonzero(np.any([np.isin(parts, (NECK, TORSO)).any(axis=1) for parts in frames.parts], axis=0))
    top = torso_rows[0] - 0.02 * dataset.camera.height if len(torso_rows) else dataset.camera.height
    near, far = dataset.near_far
    return Scene(
        near=np.asarray(near, np.float32),
        far=np.asarray(far, np.float32),
        box=subject_box(frames, dataset.camera, volume),
        pose_mean=poses.mean(0).astype(np.float32),
        pose_scale=poses.std(0).astype(np.float32) + np.float32(1e-4),
        torso_top=np.asarray(top / dataset.camera.height, np.float32),
        torso_camera=frames.split.transforms[0],
        codes={
            code.name: code.fit(Recording(windows, dataset.tracks_of(code.name, rows), audio_components))
            for code in codes
        },
    )


def subject_box(frames: Frames, camera: Camera, volume: tuple[int, ...] = SUBJECTS["head"]) -> np.ndarray:
    """The space that the head can occupy: its outlines in up to 100 frames at its depth, with a margin of 5%.

    Args:
      frames, camera: the clip's.
      volume: the parts (`face.parsing`) that count as the head: its own, or those of the whole person.

    Returns:
      float32 [2, 3], corners in head space.
    """
    corners = []
    for row in np.unique(np.linspace(0, len(frames) - 1, 100).astype(int)):
        rows, columns = np.nonzero(np.isin(frames.parts[row], volume))
        if not len(rows):
            continue
        transform = frames.split.transforms[row]
        depth = schema.mean_depth(transform[None])
        for y in (rows.min(), rows.max()):
            for x in (columns.min(), columns.max()):
                local = [(x - camera.cx) / camera.focal, -(y - camera.cy) / camera.focal, -1.0]
                corners.append(transform[:3, :3] @ np.multiply(local, depth) + transform[:3, 3])
    if not corners:
        raise UserError("no frame shows a head: the part maps of the dataset are empty; prepare it again")
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    low[2], high[2] = _BOX_DEPTH
    return np.stack([low, high]).astype(np.float32)
