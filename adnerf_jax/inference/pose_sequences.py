"""Sequences of head poses: `PoseSource`, those that the training video gives, and operations on them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.common.curves import Curve
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS
from adnerf_jax.data.person import Person
from adnerf_jax.inference.head_motion import NAMES, apply_motion, head_position, motion_between, rest_frame

_BLEND = 20  # frames at the beginning of a segment in which its difference from the end of the previous one fades
_SHORTEST, _LONGEST = 40, 125  # frames of a random segment
_CANDIDATES = 6  # the next segment is drawn from this number of those that start most like the end of the last one
_LONGEST_SMOOTHING = 60.0  # seconds; the poses of six times this length are held in memory
_VELOCITY_FRAMES = 8.0  # a difference of velocities counts like the difference of poses after this number of frames


class PoseFrame(NamedTuple):
    """A frame of a pose source.

    Attributes:
      transform: float32 [4, 4], camera-to-head.
      tracks: float32 [D] each, raw inputs of driven codes in the video that the pose was taken from, by the code's
        name; codes that were not measured there are absent.
    """

    transform: np.ndarray
    tracks: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class PoseSource:
    """An endless sequence of head poses at 25 fps.

    Attributes:
      start: function that starts an iterator from frame 0 on.
      length: number of poses that were given, where a user gave them one by one and a render must not be longer; None:
        a render of any length may use the sequence.
    """

    start: Callable[[], Iterator[PoseFrame]]
    length: int | None = None


def mirrored_index(i: int, length: int) -> int:
    """Index 0, 1, … length−1, length−2, … 0, 1, … of frame `i`: a sequence played back and forth."""
    i %= max(2 * length - 2, 1)
    return i if i < length else 2 * length - 2 - i


def recorded(transforms: np.ndarray, tracks: Mapping[str, np.ndarray] = MappingProxyType({})) -> PoseSource:
    """Given poses, played back and forth beyond their end.

    Args:
      transforms: float32 [N, 4, 4], camera-to-head.
      tracks: float32 [N, D] each, raw inputs of driven codes in the same frames, by the code's name.
    """

    def start() -> Iterator[PoseFrame]:
        for i in itertools.count():
            row = mirrored_index(i, len(transforms))
            yield PoseFrame(transforms[row], _tracks_at(tracks, row))

    return PoseSource(start, len(transforms))


def _tracks_at(tracks: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    return {name: track[row] for name, track in tracks.items()}


def training_frames(person: Person, rows: Callable[[], Iterator[int]]) -> PoseSource:
    """Training frames in some order: poses and raw inputs of driven codes."""
    return PoseSource(lambda: (PoseFrame(person.transforms[row], _tracks_at(person.tracks, row)) for row in rows()))


def back_and_forth(person: Person) -> PoseSource:
    """The training video forwards, backwards, forwards, …"""
    frames = len(person.transforms)
    return training_frames(person, lambda: (mirrored_index(i, frames) for i in itertools.count()))


def constant_pose(person: Person, row: int) -> PoseSource:
    """One training frame, over and over."""
    return training_frames(person, lambda: itertools.repeat(row))


def looped(person: Person) -> PoseSource:
    """The training video in a loop, blended where it starts again; back and forth if it is too short to blend."""
    frames = len(person.transforms)
    if frames < 3 * _BLEND:
        return back_and_forth(person)
    return _join_segments(person, lambda: itertools.repeat((0, frames)))


def random_segments(person: Person, seed: int) -> PoseSource:
    """Segments of 1.6 to 5 seconds of the training video in random order, blended where they meet.

    Each segment starts in a pose and with a velocity similar to those at the end of the one before. Back and forth if
    the video is too short for two segments.

    Args:
      person: the person whose training video is used.
      seed: seed of the order and the lengths.
    """
    frames = len(person.transforms)
    if frames < 2 * _SHORTEST:
        return back_and_forth(person)
    motions = motion_between(person.transforms[rest_frame(person.transforms)], person.transforms)
    scale = motions.std(0) + 1e-3
    state = np.concatenate([motions, _VELOCITY_FRAMES * np.gradient(motions, axis=0)], axis=1) / np.tile(scale, 2)

    def segments() -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng(seed)
        begin = int(rng.integers(0, frames - _SHORTEST + 1))
        while True:
            end = min(begin + int(rng.integers(_SHORTEST, _LONGEST + 1)), frames)
            yield begin, end
            cost = np.square(state[: frames - _SHORTEST + 1] - state[end - 1]).sum(1)
            # Frames around the end are no candidates: they would repeat or continue the same motion.
            cost[max(end - _SHORTEST, 0) : end + _SHORTEST] += cost.max() + 1.0
            begin = int(np.argsort(cost, kind="stable")[rng.integers(0, min(_CANDIDATES, len(cost)))])

    return _join_segments(person, segments)


def _join_segments(person: Person, segments: Callable[[], Iterator[tuple[int, int]]]) -> PoseSource:
    """Segments [begin, end) of the training video one after the other, each at least `_BLEND` + 2 frames long.

    A segment starts in the pose and with the velocity that the one before ended with: the differences from its own are
    added and fade to zero within `_BLEND` frames (cubic Hermite blending).
    """
    transforms = person.transforms

    def velocity(row: int) -> np.ndarray:
        return motion_between(transforms[row], transforms[row + 1])

    def start() -> Iterator[PoseFrame]:
        last: tuple[np.ndarray, np.ndarray] | None = None  # pose and velocity at the end of the segment before
        for begin, end in segments():
            away, rate = np.zeros(6), np.zeros(6)
            if last is not None:
                away = motion_between(transforms[begin], apply_motion(last[0], last[1]))
                rate = last[1] - velocity(begin)
            for row in range(begin, end):
                s = min((row - begin) / _BLEND, 1.0)
                fade = (1 + 2 * s) * (1 - s) ** 2 * away + s * (1 - s) ** 2 * _BLEND * rate
                yield PoseFrame(apply_motion(transforms[row], fade), _tracks_at(person.tracks, row))
            last = transforms[end - 1], velocity(end - 2)

    return PoseSource(start)


def skip_frames(source: PoseSource, frames: int) -> PoseSource:
    """A source without its first `frames` frames."""
    left = None if source.length is None else max(source.length - frames, 0)
    return PoseSource(lambda: itertools.islice(source.start(), frames, None), left)


def displaced(source: PoseSource, curves: dict[str, Curve]) -> PoseSource:
    """A source's poses with motions added (`head_motion.apply_motion`), given as curves over time by `NAMES`."""
    if not curves:
        return source

    def start() -> Iterator[PoseFrame]:
        for i, posed in enumerate(source.start()):
            motion = np.array([curves[name](i / FPS) if name in curves else 0.0 for name in NAMES])
            yield posed._replace(transform=apply_motion(posed.transform, motion))

    return dataclasses.replace(source, start=start)


def smoothed(source: PoseSource, seconds: float) -> PoseSource:
    """A source's poses, low-pass filtered over time with a Gaussian kernel centred on each frame, without delay.

    Args:
      source: the poses.
      seconds: standard deviation of the kernel, 0 to 60.

    Raises:
      UserError: the standard deviation is out of range.
    """
    if not 0 <= seconds <= _LONGEST_SMOOTHING:
        raise UserError(f"poses cannot be smoothed over {seconds:g} s: give 0 to {_LONGEST_SMOOTHING:g}")
    sigma = seconds * FPS
    reach = int(np.ceil(3 * sigma))
    if not reach:
        return source

    def start() -> Iterator[PoseFrame]:
        poses = source.start()
        window = [next(poses) for _ in range(reach)]
        for i in itertools.count():
            window.append(next(poses))
            middle = min(i, reach)
            # At the beginning the window is shortened on both sides, so that a uniform motion stays as it is.
            near = window[: 2 * middle + 1]
            weights = np.exp(-0.5 * (np.arange(-middle, middle + 1) / sigma) ** 2)
            yield near[middle]._replace(transform=_mean([posed.transform for posed in near], weights))
            if i >= reach:
                window.pop(0)

    return dataclasses.replace(source, start=start)


def _mean(transforms: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted mean of head poses: of their rotations, and of the head's position in the camera's space."""
    poses = np.stack(transforms).astype(np.float64)
    result = np.eye(4)
    result[:3, :3] = Rotation.from_matrix(poses[:, :3, :3]).mean(weights).as_matrix()
    result[:3, 3] = -result[:3, :3] @ np.average(head_position(poses), axis=0, weights=weights)
    return result.astype(np.float32)
