"""Measured tracks: what was measured in every frame of a clip, by name. Condition codes are made of them.

To add one, write its reader and a line in `READERS`. A reader returns None where the dataset has no such measurement;
what happens then is up to the codes that read the track.
"""

import functools
import pathlib
from collections.abc import Callable

import numpy as np

from adnerf_jax.common.array_files import read_array
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.face.covered_mouth import shows_lips
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.media.audio import read_audio
from adnerf_jax.speech.lips import lip_shapes

_LEAST_POWER = 1e-10  # of digital silence


class Clip:
    """The measurements of a dataset on disk, each file read once.

    Args:
      path: the dataset's folder.
      frames: N, the number of frames of the clip.
      last: number of the last frame that the splits use.
    """

    def __init__(self, path: pathlib.Path, frames: int, last: int):
        self.path, self.frames, self.last = path, frames, last

    @functools.cached_property
    def landmarks(self) -> Landmarks | None:
        """Landmarks and blendshapes; None for datasets of programs that do not keep them.

        Raises:
          UserError: they end before the last frame.
        """
        path = self.path / schema.LANDMARKS
        if not path.exists():
            return None
        landmarks = Landmarks.load(path)
        self.check_length(landmarks.points, path)
        self.check_length(landmarks.blendshapes, path)
        return landmarks

    def check_length(self, values: np.ndarray, path: pathlib.Path) -> None:
        """Raises UserError where values [N, …] of a file end before the last frame."""
        if len(values) <= self.last:
            raise UserError(
                f"{path} has {len(values)} rows but the frames go up to {self.last}: run the preparation again"
            )


def read_eyes(clip: Clip) -> np.ndarray | None:
    """Openness of the right and the left eye, float32 [N, 2]; None without `eyes.npy`."""
    path = clip.path / schema.EYES
    if not path.exists():
        return None
    eyes = read_array(path, (None, 2))
    clip.check_length(eyes, path)
    return eyes


def read_lips(clip: Clip) -> np.ndarray | None:
    """Shapes of the lips, float32 [N, L] (`speech.lips.lip_shapes`); None without landmarks, or where they are covered.

    If few frames show the mouth, the others are trained on too: without the lips, which nobody has seen there.
    """
    if clip.landmarks is None:
        return None
    covered = clip.path / schema.MOUTH_COVERED
    if covered.exists():
        values = read_array(covered, (None,))
        clip.check_length(values, covered)
        valid = clip.landmarks.valid[: len(values)]
        if not shows_lips(values[: len(valid)][valid] > 0):
            return None
    return lip_shapes(clip.landmarks.points)[: clip.frames]


def read_expression(clip: Clip) -> np.ndarray | None:
    """Blendshapes, float32 [N, 52]; None without landmarks."""
    if clip.landmarks is None:
        return None
    return clip.landmarks.blendshapes[: clip.frames]


def read_loudness(clip: Clip) -> np.ndarray | None:
    """Level of the sound in the 40 ms around the time of each frame, dB of full scale, float32 [N, 1].

    None without readable sound.
    """
    try:
        samples = read_audio(clip.path / schema.SOUND, SAMPLE_RATE)
    except UserError:
        return None
    per_frame = round(SAMPLE_RATE / FPS)
    padded = np.pad(samples, (per_frame // 2, max((clip.frames + 1) * per_frame - len(samples), 0)))
    power = np.square(padded[: clip.frames * per_frame].reshape(clip.frames, per_frame), dtype=np.float64).mean(1)
    return (10.0 * np.log10(power[:, None] + _LEAST_POWER)).astype(np.float32)


READERS: dict[str, Callable[[Clip], np.ndarray | None]] = {
    "eyes": read_eyes,
    "lips": read_lips,
    "expression": read_expression,
    "loudness": read_loudness,
}


def read_tracks(clip: Clip) -> dict[str, np.ndarray]:
    """The measured tracks of a clip by name, float32 [N, D] each, without those that were not measured.

    Raises:
      UserError: a file is damaged or ends before the last frame.
    """
    found = {name: read(clip) for name, read in READERS.items()}
    return {name: track for name, track in found.items() if track is not None}
