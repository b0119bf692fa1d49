"""What a video is like, told before any work: one look at all of its frames in a small size, and at its sound.

Finds the hard cuts, whose longest shot is used, and measures what spoils a talking head: a moving camera, changing
light, sound that is silent or clipped.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from adnerf_jax.common.progress import track
from adnerf_jax.common.timing import FPS
from adnerf_jax.media.audio import read_blocks
from adnerf_jax.media.video import VideoInfo, read_frames

SILENCE = -60.0  # dB of full scale
_SIDE = 256  # pixels of the longer side of what is looked at
_SOUND_RATE = 16000
_CLIPPED = 0.99  # of full scale
# A cut changes the picture far more than the frames around it change, and for good.
_LEAST_CHANGE, _AGAINST_NEIGHBOURS, _NEIGHBOURS = 12.0, 5.0, 12  # grey levels; times the median; frames to each side
_LEAST_UNLIKE = 0.3  # 1 − correlation, which a change of exposure leaves near 0
# The camera shows in what stands still: the picture's upper corners and sides.
_SIDES, _TOP, _BOTTOM = 0.18, 0.12, 0.9  # of the width; of the height; down to here
_APART = round(FPS)  # frames between two that are compared: slow pans add up
_LEAST_POINTS, _STILL = 12, 10.0  # percent of them that belong to the background at least


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a video is like.

    Attributes:
      frames: at 25 a second, of the whole video.
      cuts: seconds at which another shot begins.
      start, duration: of the longest shot, in seconds.
      camera_motion: RMS motion of the background within a second, in parts of the picture's width; None where the
        background shows too little to tell.
      light_change: range of the background's brightness over its mean, from the 5th to the 95th percentile.
      brightness: mean grey level of the background in the shot, 0 … 255.
      sound_level: RMS of the shot's sound in dB of full scale; −inf where all is zero.
      sound_clipped: share of its samples at full scale.
    """

    frames: int
    cuts: tuple[float, ...]
    start: float
    duration: float
    camera_motion: float | None
    light_change: float
    brightness: float
    sound_level: float
    sound_clipped: float

    @property
    def silent(self) -> bool:
        """Whether there is nothing to hear."""
        return self.sound_level < SILENCE

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {**dataclasses.asdict(self), "cuts": list(self.cuts), "sound_level": max(self.sound_level, -999.0)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Survey | None":
        """The inverse of `to_json`; None for what another version of this program has saved."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{**saved, "cuts": tuple(saved["cuts"])}) if set(saved) == names else None


def survey_video(video: VideoInfo) -> Survey:
    """Looks through a video, in constant memory but for a few numbers a frame.

    Raises:
      UserError: the video or its sound cannot be read.
    """
    pictures = read_frames(video.path, FPS, size=_small_size(video.width, video.height))
    looked = track(pictures, "looking through", round(video.duration * FPS))
    changes, brightness, motion = _look(looked)
    starts = find_cuts(changes)
    frames = len(brightness)
    edges = [0, *starts.tolist(), frames]
    first, last = max(zip(edges, edges[1:], strict=False), key=lambda shot: shot[1] - shot[0])
    in_shot = [shift for at, shift in motion if first <= at - _APART and at < last]
    light = brightness[first:last]
    level, clipped = _sound(video, first / FPS, (last - first) / FPS)
    return Survey(
        frames=frames,
        cuts=tuple(round(k / FPS, 3) for k in starts),
        start=first / FPS,
        duration=(last - first) / FPS,
        camera_motion=round(float(np.sqrt(np.mean(np.square(in_shot)))), 5) if in_shot else None,
        light_change=round(float(np.ptp(np.percentile(light, [5, 95])) / max(light.mean(), 1.0)), 4) if frames else 0.0,
        brightness=round(float(light.mean()), 1) if frames else 0.0,
        sound_level=round(level, 1),
        sound_clipped=round(clipped, 5),
    )


def find_cuts(changes: np.ndarray) -> np.ndarray:
    """Frames with which another shot begins.

    Args:
      changes: [N, 3], `_look`: each frame against the one before, by grey levels and by how unlike it is, and the
        grey levels of the frame after against the one before.

    Returns:
      int [K].
    """
    cuts = []
    for k in range(1, len(changes)):
        low, high = max(k - _NEIGHBOURS, 1), k + _NEIGHBOURS + 1
        around = np.delete(changes[low:high, 0], k - low)
        usual = np.median(around) if len(around) else 0.0
        grey, unlike, lasting = changes[k]
        enough = max(_LEAST_CHANGE, _AGAINST_NEIGHBOURS * usual)
        if grey > enough and lasting > enough and unlike > _LEAST_UNLIKE:
            cuts.append(k)
    return np.array(cuts, int)


def _small_size(width: int, height: int) -> tuple[int, int]:
    scale = min(_SIDE / max(width, height), 1.0)
    return max(round(width * scale), 16), max(round(height * scale), 16)


def _look(pictures: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[tuple[int, float]]]:
    """Changes [N, 3] (`find_cuts`), brightness of the background [N], and (frame, its shift in widths) each second."""
    changes, brightness, motion = [], [], []
    before: list[np.ndarray] = []  # blurred grey pictures of the last two frames
    compared = border = None
    for k, rgb in enumerate(pictures):
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        blurred = cv2.GaussianBlur(grey, (0, 0), 3).astype(np.float32)
        if border is None:
            border = _border(grey.shape)
            compared = grey
        now = np.abs(blurred - before[-1]).mean() if before else 0.0
        changes.append([now, _unlike(before[-1], blurred) if before else 0.0, now])
        if len(before) == 2:  # the frame before this one lasts if this one differs from the one before it as well
            changes[-2][2] = np.abs(blurred - before[0]).mean()
        before = [*before[-1:], blurred]
        brightness.append(grey[border].mean())
        if k and k % _APART == 0:
            shift = _shift(compared, grey, border)
            if shift is not None:
                motion.append((k, shift / grey.shape[1]))
            compared = grey
    return np.array(changes).reshape(-1, 3), np.array(brightness), motion


def _unlike(a: np.ndarray, b: np.ndarray) -> float:
    """1 − correlation of two pictures."""
    a, b = a - a.mean(), b - b.mean()
    return float(1.0 - (a * b).mean() / max(a.std() * b.std(), 1e-6)) if a.std() + b.std() > 2 else 0.0


def _border(shape: tuple[int, ...]) -> np.ndarray:
    """bool [H, W], where a person in the middle of the picture is not."""
    height, width = shape
    border = np.zeros(shape, bool)
    side, top, bottom = round(_SIDES * width), round(_TOP * height), round(_BOTTOM * height)
    border[:bottom, :side] = border[:bottom, width - side :] = border[:top] = True
    return border


def _shift(before: np.ndarray, after: np.ndarray, border: np.ndarray) -> float | None:
    """Motion in px of the background between two grey pictures; None where there is too little to follow."""
    points = cv2.goodFeaturesToTrack(before, 200, 0.01, 5, mask=border.astype(np.uint8))
    if points is None or len(points) < _LEAST_POINTS:
        return None
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(15, 15), maxLevel=3)
    kept = found[:, 0].astype(bool)
    if kept.sum() < _LEAST_POINTS:
        return None
    # The head may fill much of the border; where the camera stands still, some of the points do as well.
    return float(np.percentile(np.linalg.norm((moved - points)[kept], axis=-1), _STILL))


def _sound(video: VideoInfo, start: float, duration: float) -> tuple[float, float]:
    """Level in dB of full scale, and share of samples at full scale."""
    energy, clipped, count = 0.0, 0, 0
    for block in read_blocks(video.path, _SOUND_RATE, 1, start, duration):
        energy += float(np.square(block, dtype=np.float64).sum())
        clipped += int((np.abs(block) >= _CLIPPED).sum())
        count += block.size
    power = energy / max(count, 1)
    return (10 * math.log10(power) if power else -math.inf), clipped / max(count, 1)
