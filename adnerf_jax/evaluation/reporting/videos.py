"""Evaluated frames as an mp4, in step with their sound."""

import pathlib
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS
from adnerf_jax.media.audio import has_sound
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.media.video import VideoWriter

# Largest spacing of the video's frames in the clip: players need a frame a second.
_MOST_APART = round(FPS)


def video_positions(times: Sequence[int] | np.ndarray, every: int) -> np.ndarray:
    """Indices, int [N], in a `FrameVideo` of the clip's frames at `times` [N], `every` frames apart.

    Where frames are more than a second apart, the video repeats each for the time until the next one.
    """
    frames = np.asarray(times)
    return (frames - frames[0]) // min(every, _MOST_APART)


class FrameVideo:
    """An mp4 written frame by frame; use as a context manager (`VideoWriter`).

    Args:
      path: the mp4.
      width, height: frame size in pixels.
      times: int [N], indices of the frames in time at 25 fps, `every` or more apart; frames before a gap are repeated.
      every: spacing of the frames in the clip.
      sound: file with the sound, whose time 0 is index 0; a file without sound leaves the video silent.
      provenance: origin written into the file; None: none.
    """

    def __init__(
        self,
        path: pathlib.Path,
        width: int,
        height: int,
        times: Sequence[int] | np.ndarray,
        every: int,
        sound: pathlib.Path | None,
        provenance: Provenance | None = None,
    ):
        positions = video_positions(times, every)
        self._repeats = np.diff(positions, append=positions[-1] + 1)
        self._added = 0
        self._writer = VideoWriter(
            path,
            width,
            height,
            FPS / min(every, _MOST_APART),
            sound=sound if sound is not None and _audible(sound) else None,
            sound_start=float(times[0]) / FPS,
            tags=None if provenance is None else provenance.tags(),
        )

    def add(self, *images: np.ndarray) -> None:
        """Writes the next frame: images side by side, uint8 RGB, together as wide as the video."""
        frame = np.concatenate(images, axis=1)
        for _ in range(self._repeats[self._added]):
            self._writer.write(frame)
        self._added += 1

    def __enter__(self) -> "FrameVideo":
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)


def _audible(sound: pathlib.Path) -> bool:
    """Whether a file has sound that can be read."""
    try:
        return has_sound(sound)
    except UserError:
        return False
