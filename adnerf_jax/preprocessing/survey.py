"""A survey of a video before any step runs: one pass over its downscaled frames, and one over its sound.

Finds the hard cuts, between which the longest shot is used, and measures what degrades a talking head: camera motion,
changing light, silent or clipped sound.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from adnerf_jax.common.progress import track
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.media.audio import read_blocks
from adnerf_jax.media.video import VideoInfo, read_frames

SILENCE = -60.0  # dB of full scale
_SIDE = 256  # longer side of the downscaled frames, in pixels
_CLIPPED = 0.99  # share of full scale
# A cut changes the picture far more than its neighbouring frames do, and permanently. The mean absolute change must
# exceed _MIN_CHANGE grey levels and _MIN_RATIO times the median change of the _NEIGHBOURHOOD frames to each side.
_MIN_CHANGE, _MIN_RATIO, _NEIGHBOURHOOD = 12.0, 5.0, 12
_MIN_DISSIMILARITY = 0.3  # 1 − correlation, which a change of exposure leaves near 0
# The camera's motion is measured at the border, where the background is: the sides (share of the width) down to _BOTTOM
# and the top (shares of the height).
_SIDES, _TOP, _BOTTOM = 0.18, 0.12, 0.9
_INTERVAL = round(FPS)  # frames between two that are compared: long enough to detect slow pans
_MIN_POINTS = 12
_BACKGROUND_PERCENT = 10.0  # at least this share of the tracked points lies on the background


@dataclasses.dataclass(frozen=True)
class Survey:
    """Measurements of a video.

    Attributes:
      frames: number of frames of the whole video at 25 fps.
      cuts: seconds at which a new shot begins.
      start, duration: the longest shot, in seconds.
      camera_motion: RMS motion of the background within a second, as a share of the picture's width; None if the
        background has too little texture to track.
      light_change: range of the background's brightness, 5th to 95th percentile, over its mean.
      brightness: mean grey level of the background in the shot, 0 … 255.
      sound_level: RMS of the shot's sound in dB of full scale; −inf if all samples are zero.
      sound_clipped: share of the samples at full scale.
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
        """Whether the sound is below the threshold of silence."""
        return self.sound_level < SILENCE

    def to_json(self) -> dict[str, Any]:
        """As JSON, for the manifest."""
        return {**dataclasses.asdict(self), "cuts": list(self.cuts), "sound_level": max(self.sound_level, -999.0)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Survey | None":
        """The inverse of `to_json`; None if the fields differ, so that the video is surveyed again."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{**saved, "cuts": tuple(saved["cuts"])}) if set(saved) == names else None


def survey_video(video: VideoInfo) -> Survey:
    """Surveys a video, in constant memory but for a few numbers per frame.

    Raises:
      UserError: the video or its sound cannot be read.
    """
    pictures = read_frames(video.path, FPS, size=_small_size(video.width, video.height))
    tracked = track(pictures, "checking the video", round(video.duration * FPS))
    changes, brightness, motion = _measure_frames(tracked)
    starts = find_cuts(changes)
    frames = len(brightness)
    edges = [0, *starts.tolist(), frames]
    first, last = max(zip(edges, edges[1:], strict=False), key=lambda shot: shot[1] - shot[0])
    in_shot = [shift for at, shift in motion if first <= at - _INTERVAL and at < last]
    light = brightness[first:last]
    level, clipped = _measure_sound(video, first / FPS, (last - first) / FPS)
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
    """The first frames of all shots but the first.

    Args:
      changes: [N, 3] from `_measure_frames`. For frame k: its mean absolute difference to frame k − 1 in grey levels,
        its dissimilarity to that frame, and the mean absolute difference between the frames k − 1 and k + 1.

    Returns:
      int [K], indices of frames.
    """
    cuts = []
    for k in range(1, len(changes)):
        low, high = max(k - _NEIGHBOURHOOD, 1), k + _NEIGHBOURHOOD + 1
        around = np.delete(changes[low:high, 0], k - low)
        usual = np.median(around) if len(around) else 0.0
        difference, dissimilarity, lasting = changes[k]
        threshold = max(_MIN_CHANGE, _MIN_RATIO * usual)
        if difference > threshold and lasting > threshold and dissimilarity > _MIN_DISSIMILARITY:
            cuts.append(k)
    return np.array(cuts, int)


def _small_size(width: int, height: int) -> tuple[int, int]:
    scale = min(_SIDE / max(width, height), 1.0)
    return max(round(width * scale), 16), max(round(height * scale), 16)


def _measure_frames(pictures: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[tuple[int, float]]]:
    """Changes [N, 3] (`find_cuts`), brightness of the background [N], and its motion once a second.

    The motion is a list of (frame, displacement since the frame `_INTERVAL` earlier as a share of the width).
    """
    changes, brightness, motion = [], [], []
    before: list[np.ndarray] = []  # blurred grey pictures of the last two frames
    reference = border = None
    for k, rgb in enumerate(pictures):
        grey: np.ndarray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        blurred = cv2.GaussianBlur(grey, (0, 0), 3).astype(np.float32)
        if border is None or reference is None:
            border = _border_mask(grey.shape)
            reference = grey
        difference = np.abs(blurred - before[-1]).mean() if before else 0.0
        changes.append([difference, _dissimilarity(before[-1], blurred) if before else 0.0, difference])
        if len(before) == 2:  # the difference across the previous frame, known only now
            changes[-2][2] = np.abs(blurred - before[0]).mean()
        before = [*before[-1:], blurred]
        brightness.append(grey[border].mean())
        if k and k % _INTERVAL == 0:
            shift = _background_motion(reference, grey, border)
            if shift is not None:
                motion.append((k, shift / grey.shape[1]))
            reference = grey
    return np.array(changes).reshape(-1, 3), np.array(brightness), motion


def _dissimilarity(a: np.ndarray, b: np.ndarray) -> float:
    """1 − correlation of two pictures."""
    a, b = a - a.mean(), b - b.mean()
    return float(1.0 - (a * b).mean() / max(a.std() * b.std(), 1e-6)) if a.std() + b.std() > 2 else 0.0


def _border_mask(shape: tuple[int, ...]) -> np.ndarray:
    """bool [H, W], the part of the picture that a person in its middle leaves free."""
    height, width = shape
    border = np.zeros(shape, bool)
    side, top, bottom = round(_SIDES * width), round(_TOP * height), round(_BOTTOM * height)
    border[:bottom, :side] = border[:bottom, width - side :] = border[:top] = True
    return border


def _background_motion(before: np.ndarray, after: np.ndarray, border: np.ndarray) -> float | None:
    """Motion of the background between two grey pictures, in pixels; None with too few points to track."""
    points = cv2.goodFeaturesToTrack(before, 200, 0.01, 5, mask=border.astype(np.uint8))
    if points is None or len(points) < _MIN_POINTS:
        return None
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points,
        None,  # type: ignore[call-overload]  # OpenCV takes None for "no initial guess", its stubs do not
        winSize=(15, 15),
        maxLevel=3,
    )
    kept = found[:, 0].astype(bool)
    if kept.sum() < _MIN_POINTS:
        return None
    # The head may cover much of the border. With a static camera, the points that are on the background do not move.
    return float(np.percentile(np.linalg.norm((moved - points)[kept], axis=-1), _BACKGROUND_PERCENT))


def _measure_sound(video: VideoInfo, start: float, duration: float) -> tuple[float, float]:
    """RMS level of the sound in dB of full scale, and the share of samples at full scale."""
    energy, clipped, count = 0.0, 0, 0
    for block in read_blocks(video.path, SAMPLE_RATE, 1, start, duration):
        energy += float(np.square(block, dtype=np.float64).sum())
        clipped += int((np.abs(block) >= _CLIPPED).sum())
        count += block.size
    power = energy / max(count, 1)
    return (10 * math.log10(power) if power else -math.inf), clipped / max(count, 1)
