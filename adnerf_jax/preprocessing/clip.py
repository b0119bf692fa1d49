"""The shot of a video that a dataset is made of, decoded at the size of the dataset's frames."""

import contextlib
import dataclasses
from collections.abc import Generator, Iterable, Iterator

import numpy as np

from adnerf_jax.common.timing import FPS
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import VideoInfo, read_frames


@dataclasses.dataclass(frozen=True)
class Clip:
    """One shot of a video.

    Each step decodes the pixels that it needs again: decoding is cheap and deterministic.

    Attributes:
      video: the file and its metadata.
      start, duration: the shot in seconds, `start` from the first frame of the video.
      width, height: size of the frames in pixels, at most the video's own.
      crop: left, top, width and height in pixels of the video of the part that the frames show; None: all of it.
      audio_track: the sound track, counted from 1; None: `media.sound_track` chooses.
    """

    video: VideoInfo
    start: float
    duration: float
    width: int
    height: int
    crop: tuple[int, int, int, int] | None = None
    audio_track: int | None = None

    @property
    def expected_frames(self) -> int:
        """The number of frames by the duration; the file may hold one more or less."""
        return round(self.duration * FPS)

    def frames(self) -> Generator[np.ndarray, None, None]:
        """All frames at 25 fps, uint8 RGB [H, W, 3]."""
        left, top, width, height = self.crop or (0, 0, self.video.width, self.video.height)
        across, down = self.width / width, self.height / height
        x, y = round(left * across), round(top * down)
        size = (
            max(round(self.video.width * across), x + self.width),
            max(round(self.video.height * down), y + self.height),
        )
        for rgb in read_frames(self.video.path, FPS, self.start, self.duration, size):
            yield rgb if self.crop is None else np.ascontiguousarray(rgb[y : y + self.height, x : x + self.width])

    def pick(self, ids: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames with the given indices, in order of time: (index, uint8 RGB [H, W, 3])."""
        wanted = {int(i) for i in ids}
        last = max(wanted, default=-1)
        with contextlib.closing(self.frames()) as frames:
            for i, rgb in zip(range(last + 1), frames, strict=False):
                if i in wanted:
                    yield i, rgb

    def sound(self, rate: int, frames: int) -> np.ndarray:
        """The sound of the first `frames` frames: float32 mono [T] at `rate` Hz."""
        return read_audio(self.video.path, rate, self.start, frames / FPS, self.audio_track)
