"""The part of a video that is prepared, at the size at which it is."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from adnerf_jax.common.timing import FPS
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import VideoInfo, read_frames


@dataclasses.dataclass(frozen=True)
class Clip:
    """One shot of a video.

    Every step reads it anew where it needs pixels: decoding is cheap, exact and the same every time.

    Attributes:
      video: the file, and what it says of itself.
      start, duration: of the shot, in seconds after the first picture.
      width, height: of the frames in pixels; the video's own or smaller.
    """

    video: VideoInfo
    start: float
    duration: float
    width: int
    height: int

    @property
    def expected_frames(self) -> int:
        """How many frames there should be; the file may hold one more or less."""
        return round(self.duration * FPS)

    def frames(self) -> Iterator[np.ndarray]:
        """All frames at 25 a second, uint8 RGB [H, W, 3]."""
        return read_frames(self.video.path, FPS, self.start, self.duration, (self.width, self.height))

    def pick(self, ids: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames of these numbers, in order of time: (number, uint8 RGB [H, W, 3])."""
        wanted = {int(i) for i in ids}
        last = max(wanted, default=-1)
        with contextlib.closing(self.frames()) as frames:
            for i, rgb in zip(range(last + 1), frames, strict=False):
                if i in wanted:
                    yield i, rgb

    def sound(self, rate: int, frames: int) -> np.ndarray:
        """The sound of the first `frames` frames: float32 mono [T] at `rate` samples per second."""
        return read_audio(self.video.path, rate, self.start, frames / FPS)
