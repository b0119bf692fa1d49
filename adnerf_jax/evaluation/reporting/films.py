"""Frames that were judged as an mp4 to look at, in step with their sound."""

import pathlib
from collections.abc import Sequence

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS
from adnerf_jax.media.audio import has_sound
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.media.video import VideoWriter

_APART = round(FPS)  # frames of the clip from one of a film to the next at most: players want a picture a second


def film_places(times: Sequence[int], every: int) -> np.ndarray:
    """Which frame of a film, whose frames are `every` frames of the clip apart, each frame at `times` [N] becomes.

    Frames that are farther apart than a second are held.
    """
    times = np.asarray(times)
    return (times - times[0]) // min(every, _APART)


class Film:
    """An mp4 written frame by frame; use as a context manager (`VideoWriter`).

    Args:
      path: of the mp4.
      width, height: of the frames, pixels.
      times: int [N], their places in time at 25 fps, `every` or more apart; where some are missing the one before
        stays on.
      every: frames of the clip from one to the next.
      sound: file whose sound runs along, from place 0 on; one without sound leaves the film silent.
      provenance: what the film says of its origin; None: nothing.
    """

    def __init__(
        self,
        path: pathlib.Path,
        width: int,
        height: int,
        times: Sequence[int],
        every: int,
        sound: pathlib.Path | None,
        provenance: Provenance | None = None,
    ):
        places = film_places(times, every)
        self._holds = np.diff(places, append=places[-1] + 1)
        self._shown = 0
        self._writer = VideoWriter(
            path,
            width,
            height,
            FPS / min(every, _APART),
            sound=sound if sound is not None and _audible(sound) else None,
            sound_start=float(times[0]) / FPS,
            tags=None if provenance is None else provenance.tags(),
        )

    def add(self, *images: np.ndarray) -> None:
        """The next frame: pictures side by side, uint8 RGB, as wide together as the film."""
        frame = np.concatenate(images, axis=1)
        for _ in range(self._holds[self._shown]):
            self._writer.write(frame)
        self._shown += 1

    def __enter__(self) -> "Film":
        self._writer.__enter__()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._writer.__exit__(kind, error, trace)


def _audible(sound: pathlib.Path) -> bool:
    try:
        return has_sound(sound)
    except UserError:
        return False
