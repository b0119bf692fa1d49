"""A survey of a video before any step runs: one pass over its downscaled frames, and one over its sound.

Finds cuts, dissolves and fades, between which the longest shot is used, and padding; and measures what degrades a
talking head: camera motion, changing light, noise, silent or clipped sound.
"""

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np

from adnerf_jax.common.progress import track
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.media.audio import read_blocks
from adnerf_jax.media.sound_track import SILENCE, rms_level
from adnerf_jax.media.video import VideoInfo, read_frames
from adnerf_jax.preprocessing.padding import PaddingFinder
from adnerf_jax.preprocessing.shots import dissimilarity, find_cuts, in_transition

_SIDE = 256  # longer side of the downscaled frames, in pixels
_CLIPPED = 0.99  # share of full scale
# The camera's motion is measured at the border, where the background is: the sides (share of the width) down to _BOTTOM
# and the top (shares of the height).
_SIDES, _TOP, _BOTTOM = 0.18, 0.12, 0.9
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_THUMBNAIL = 16  # side in pixels of the pictures in which dissolves are looked for
_PADDING_SECONDS, _PADDING_FPS = 10.0, 2.5  # of the beginning, where padding is looked for
_NOISE_INTERVAL = 5  # frames
_NOISE_BLUR = 1.0  # pixels of the small pictures: finer differences between neighbouring frames are noise
_INTERVAL = round(FPS)  # frames between two that are compared: long enough to detect slow pans
_MIN_POINTS = 12
_BACKGROUND_PERCENT = 10.0  # at least this share of the tracked points lies on the background


@dataclasses.dataclass(frozen=True)
class Survey:
    """Measurements of a video.

    Attributes:
      frames: number of frames of the whole video at 25 fps.
      cuts: seconds at which a new shot begins; after a dissolve or a fade, where it is over.
      start, duration: the longest shot, in seconds.
      camera_motion: RMS motion of the background within a second, as a share of the picture's width; None if the
        background has too little texture to track.
      light_change: range of the background's brightness, 5th to 95th percentile, over its mean.
      brightness: mean grey level of the background in the shot, 0 … 255.
      sound_level: RMS of the shot's sound in dB of full scale; −inf if all samples are zero.
      sound_clipped: share of the samples at full scale.
      left_out: frames of dissolves, fades and blackness, which belong to no shot.
      content: left, top, right and bottom of the picture inside black bars or its blurred copy, as shares of the sides;
        None: there is no padding.
      noise: change of the picture's finest detail between neighbouring frames, as a share of its brightness.
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
    left_out: int = 0
    content: tuple[float, ...] | None = None
    noise: float = 0.0

    @property
    def silent(self) -> bool:
        """Whether the sound is below the threshold of silence."""
        return self.sound_level < SILENCE

    def to_json(self) -> dict[str, Any]:
        """As JSON, for the manifest."""
        content = None if self.content is None else list(self.content)
        level = max(self.sound_level, -999.0)
        return {**dataclasses.asdict(self), "cuts": list(self.cuts), "sound_level": level, "content": content}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Survey | None":
        """The inverse of `to_json`; None if the fields or their types differ, so that the video is surveyed again."""
        kinds = typing.get_type_hints(cls)
        if set(saved) != kinds.keys() or not all(_fits(value, kinds[name]) for name, value in saved.items()):
            return None
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()}
        return cls(**fields)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value can be of a field's type; numbers are finite, and those of a video within a century."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(one, typing.get_args(kind)[0]) for one in value)
    if kind is float or kind is int:
        return type(value) in (int, kind) and abs(value) < 1e10
    return type(value) is kind


def survey_video(video: VideoInfo, audio_track: int | None = None) -> Survey:
    """Surveys a video, in constant memory but for a few numbers per frame.

    Args:
      video: the file.
      audio_track: the sound track, counted from 1; None: `media.sound_track` chooses.

    Raises:
      UserError: the video or its sound cannot be read.
    """
    size = _small_size(video.width, video.height)
    content = _find_padding(video, size)
    left, top, right, bottom = (round(share * side) for share, side in zip(content or _WHOLE, size * 2, strict=True))
    pictures = (rgb[top:bottom, left:right] for rgb in read_frames(video.path, FPS, size=size))
    tracked = track(pictures, "checking the video", round(video.duration * FPS))
    measured = _measure_frames(tracked)
    brightness, motion = measured.brightness, measured.motion
    hard = find_cuts(measured.changes)
    outside = in_transition(measured.small, hard)
    frames = len(brightness)
    shots = _shots(hard, outside)
    first, last = max(shots, key=lambda shot: shot[1] - shot[0], default=(0, frames))
    in_shot = [shift for at, shift in motion if first <= at - _INTERVAL and at < last]
    light = brightness[first:last]
    level, clipped = _measure_sound(video, first / FPS, (last - first) / FPS, audio_track)
    return Survey(
        frames=frames,
        cuts=tuple(round(begin / FPS, 3) for begin, _ in shots[1:]),
        start=first / FPS,
        duration=(last - first) / FPS,
        camera_motion=round(float(np.sqrt(np.mean(np.square(in_shot)))), 5) if in_shot else None,
        light_change=round(float(np.ptp(np.percentile(light, [5, 95])) / max(light.mean(), 1.0)), 4) if frames else 0.0,
        brightness=round(float(light.mean()), 1) if frames else 0.0,
        sound_level=round(level, 1),
        sound_clipped=round(clipped, 5),
        left_out=int(outside.sum()),
        content=content,
        noise=round(measured.noise, 4),
    )


def _find_padding(video: VideoInfo, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """`Survey.content`, from frames of this size (width, height) in pixels."""
    padding = PaddingFinder()
    for rgb in read_frames(video.path, _PADDING_FPS, 0.0, _PADDING_SECONDS, size):
        padding.add(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    return padding.content()


def _shots(cuts: np.ndarray, outside: np.ndarray) -> list[tuple[int, int]]:
    """First frame and the one after the last of each shot; those of a few frames between black ones do not count."""
    edges = np.flatnonzero(np.diff(np.r_[True, outside, True].astype(int)))
    shots = []
    for begin, end in edges.reshape(-1, 2).tolist():
        inner = cuts[(cuts > begin) & (cuts < end)].tolist()
        shots += list(itertools.pairwise([begin, *inner, end]))
    return [shot for shot in shots if shot[1] - shot[0] > 2] or shots


def _small_size(width: int, height: int) -> tuple[int, int]:
    scale = min(_SIDE / max(width, height), 1.0)
    return max(round(width * scale), 16), max(round(height * scale), 16)


class _Measured(NamedTuple):
    """What `_measure_frames` measures.

    Attributes:
      changes: [N, 3] (`find_cuts`).
      small: uint8 [N, P], thumbnails.
      brightness: of the background, [N].
      motion: of the background, once a second: (frame, displacement since the frame `_INTERVAL` earlier as a share of
        the width).
      noise: as in `Survey`.
    """

    changes: np.ndarray
    small: np.ndarray
    brightness: np.ndarray
    motion: list[tuple[int, float]]
    noise: float


def _measure_frames(pictures: Iterable[np.ndarray]) -> _Measured:
    """Measures the downscaled frames of a video, one after another."""
    changes, small, brightness, motion, noise = [], [], [], [], []
    before: list[np.ndarray] = []  # blurred grey pictures of the last two frames
    fine = None
    reference = border = None
    for k, rgb in enumerate(pictures):
        grey: np.ndarray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        blurred = cv2.GaussianBlur(grey, (0, 0), 3).astype(np.float32)
        if border is None or reference is None:
            border = _border_mask(grey.shape)
            reference = grey
        difference = np.abs(blurred - before[-1]).mean() if before else 0.0
        changes.append([difference, dissimilarity(before[-1], blurred) if before else 0.0, difference])
        if len(before) == 2:  # the difference across the previous frame, known only now
            changes[-2][2] = np.abs(blurred - before[0]).mean()
        before = [*before[-1:], blurred]
        small.append(cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).ravel())
        brightness.append(grey[border].mean())
        if k % _NOISE_INTERVAL in (0, 1):
            detail = grey.astype(np.float32) - cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _NOISE_BLUR)
            if k % _NOISE_INTERVAL and fine is not None:
                noise.append(float(np.median(np.abs(detail - fine)) / max(grey.mean(), 1.0)))
            fine = detail
        if k and k % _INTERVAL == 0:
            shift = _background_motion(reference, grey, border)
            if shift is not None:
                motion.append((k, shift / grey.shape[1]))
            reference = grey
    return _Measured(
        np.array(changes).reshape(-1, 3),
        np.array(small, np.uint8).reshape(-1, _THUMBNAIL**2),
        np.array(brightness),
        motion,
        float(np.median(noise)) if noise else 0.0,
    )


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


def _measure_sound(video: VideoInfo, start: float, duration: float, audio_track: int | None) -> tuple[float, float]:
    """RMS level of the sound in dB of full scale, and the share of samples at full scale."""
    energy, clipped, count = 0.0, 0, 0
    for block in read_blocks(video.path, SAMPLE_RATE, 1, start, duration, audio_track):
        energy += float(np.square(block, dtype=np.float64).sum())
        clipped += int((np.abs(block) >= _CLIPPED).sum())
        count += block.size
    return rms_level(energy, count), clipped / max(count, 1)
