"""Where the head's poses come from: the training video, a file, another video; always as many as are wanted."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.common.curves import Curve, read_curves, read_table
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json
from adnerf_jax.common.timing import FPS
from adnerf_jax.data.person import Person
from adnerf_jax.inference.head_motion import NAMES, is_rigid, motion_between, moved, place, rest_row
from adnerf_jax.inference.pose_sequences import Posed, PoseSource, mirrored, recorded

_JOIN = 20  # frames in which one part of the video passes into the next
_SHORTEST, _LONGEST = 40, 125  # frames of a random part
_CHOICE = 6  # of so many parts that begin as the last one ended, one is taken
_LONGEST_SMOOTHING = 60.0  # seconds; the poses of six times as many are held at once
_VELOCITY_FRAMES = 8.0  # a difference of velocity counts like that of the poses it leads to in so many frames


def pose_source(given: Any, person: Person, seed: int = 0) -> PoseSource:
    """The source that a word, a file or an array names.

    Args:
      given: `mirror` (the training video back and forth), `forward` (over and over from its beginning), `random`
        (parts of it in random order), `rest` (its middle pose, still), `frame:N` (its N-th training frame, still); a
        `.json` or `.csv` file (`read_poses`), another video (its motion, put at this person's rest pose), an array
        [N, 4, 4] of camera-to-head matrices, or a `PoseSource`.
      person: who is rendered.
      seed: of `random`.

    Raises:
      UserError: anything else, or what cannot be used.
    """
    if isinstance(given, PoseSource):
        return given
    if isinstance(given, np.ndarray):
        return recorded(checked(given, "the array of poses"))
    words = {
        "mirror": lambda: of_rows(person, lambda: (mirrored(i, len(person.transforms)) for i in itertools.count())),
        "forward": lambda: looped(person),
        "random": lambda: random_parts(person, seed),
        "rest": lambda: constant_pose(person, rest_row(person.transforms)),
    }
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"poses are a word, a file or an array, not {repr(given)[:60]}")
    name = os.fspath(given)
    if name in words:
        return words[name]()
    if name.startswith("frame:"):
        return constant_pose(person, _frame_number(name, len(person.transforms)))
    suffix = pathlib.Path(name).suffix.lower()
    if suffix in (".json", ".csv"):
        return read_poses(pathlib.Path(name), person)
    if not pathlib.Path(name).exists():
        raise UserError(
            f"there is no pose source {name!r}: take {', '.join(words)}, frame:N, or a .json, .csv or video file"
        )
    from adnerf_jax.inference.driving_video import video_poses

    return video_poses(pathlib.Path(name), person)


def of_rows(person: Person, rows: Callable[[], Iterator[int]]) -> PoseSource:
    """Training frames in some order, poses and eyes."""
    return PoseSource(lambda: (Posed(person.transforms[row], person.eyes[row]) for row in rows()))


def constant_pose(person: Person, row: int) -> PoseSource:
    """One training frame's pose and eyes."""
    return of_rows(person, lambda: itertools.repeat(row))


def looped(person: Person) -> PoseSource:
    """The training video from its beginning to its end, again and again; back and forth if it is too short to join."""
    frames = len(person.transforms)
    if frames < 3 * _JOIN:
        return pose_source("mirror", person)
    return _joined(person, lambda: itertools.repeat((0, frames)))


def random_parts(person: Person, seed: int) -> PoseSource:
    """Parts of 1.6 to 5 seconds, each beginning nearly where and as fast as the one before ended.

    Back and forth where the video is too short for two such parts.
    """
    frames = len(person.transforms)
    if frames < 2 * _SHORTEST:
        return pose_source("mirror", person)
    motions = motion_between(person.transforms[rest_row(person.transforms)], person.transforms)
    scale = motions.std(0) + 1e-3
    state = np.concatenate([motions, _VELOCITY_FRAMES * np.gradient(motions, axis=0)], axis=1) / np.tile(scale, 2)

    def parts() -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng(seed)
        begin = int(rng.integers(0, frames - _SHORTEST + 1))
        while True:
            end = min(begin + int(rng.integers(_SHORTEST, _LONGEST + 1)), frames)
            yield begin, end
            cost = np.square(state[: frames - _SHORTEST + 1] - state[end - 1]).sum(1)
            # Not the same motion once more.
            cost[max(end - _SHORTEST, 0) : end + _SHORTEST] += cost.max() + 1.0
            begin = int(np.argsort(cost, kind="stable")[rng.integers(0, min(_CHOICE, len(cost)))])

    return _joined(person, parts)


def _joined(person: Person, parts: Callable[[], Iterator[tuple[int, int]]]) -> PoseSource:
    """Parts [begin, end) of the training video one after the other, none of them shorter than `_JOIN` + 2 frames.

    At a join the new part starts in the pose and with the velocity that the old one ended with, and what it differs by
    fades within `_JOIN` frames (a cubic with those ends).
    """
    transforms = person.transforms

    def velocity(row: int) -> np.ndarray:
        return motion_between(transforms[row], transforms[row + 1])

    def start() -> Iterator[Posed]:
        last: tuple[np.ndarray, np.ndarray] | None = None  # pose and velocity that the old part ended with
        for begin, end in parts():
            away, rate = np.zeros(6), np.zeros(6)
            if last is not None:
                away = motion_between(transforms[begin], moved(last[0], last[1]))
                rate = last[1] - velocity(begin)
            for row in range(begin, end):
                s = min((row - begin) / _JOIN, 1.0)
                fade = (1 + 2 * s) * (1 - s) ** 2 * away + s * (1 - s) ** 2 * _JOIN * rate
                yield Posed(moved(transforms[row], fade), person.eyes[row])
            last = transforms[end - 1], velocity(end - 2)

    return PoseSource(start)


def read_poses(path: pathlib.Path, person: Person) -> PoseSource:
    """Poses in a file.

    Args:
      path: `.json`: a list of camera-to-head matrices [4, 4], one a frame at 25 fps, alone or under `poses`, or a
        dataset's index (`frames` with `transform_matrix`); or curves of yaw, pitch, … from the rest pose. `.csv`: 12 or
        16 columns without those names, the matrix row by row; or columns yaw, pitch, ….
      person: whose rest pose curves start from.

    Raises:
      UserError: missing, of another shape, not finite, or not rotations.
    """
    if path.suffix.lower() == ".csv":
        header, rows = read_table(path, "pose file")
        if not set(header) & set(NAMES):
            if rows.shape[1] not in (12, 16):
                raise UserError(f"pose file {path} has {rows.shape[1]} columns: expected 12 or 16, or yaw, pitch, ...")
            return recorded(checked(rows.reshape(len(rows), -1, 4), f"pose file {path}"))
        return displaced(constant_pose(person, rest_row(person.transforms)), read_curves(path, NAMES, "pose file"))
    value = read_json(path, "pose file")
    if isinstance(value, dict) and set(value) & set(NAMES):
        return displaced(
            constant_pose(person, rest_row(person.transforms)), read_curves(value, NAMES, f"pose file {path}")
        )
    try:
        listed = value if isinstance(value, list) else value.get("poses") or value["frames"]
        matrices = [one["transform_matrix"] if isinstance(one, dict) else one for one in listed]
        array = np.array(matrices, np.float64)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"pose file {path}: expected a list of 4x4 matrices, or curves of {', '.join(NAMES)}") from None
    return recorded(checked(array, f"pose file {path}"))


def checked(transforms: np.ndarray, what: str) -> np.ndarray:
    """Poses as float32 [N, 4, 4], from [N, 4, 4] or [N, 3, 4].

    Raises:
      UserError: another shape, numbers that are not finite, or no rotations.
    """
    if transforms.ndim != 3 or not len(transforms) or transforms.shape[1:] not in ((4, 4), (3, 4)):
        raise UserError(f"{what} has the shape {list(transforms.shape)}: expected camera-to-head matrices [N, 4, 4]")
    if transforms.shape[1] == 3:
        last = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0]), (len(transforms), 1, 4))
        transforms = np.concatenate([transforms, last], axis=1)
    for which, told in (
        (np.isfinite(transforms).all((1, 2)), "holds a number that is not finite"),
        (is_rigid(transforms), "is not a rotation and a translation"),
        (place(transforms)[:, 2] < 0, "puts the head behind the camera"),
    ):
        if not which.all():
            raise UserError(f"{what}: pose {int(np.flatnonzero(~which)[0])} {told}")
    return transforms.astype(np.float32)


def skip_frames(source: PoseSource, frames: int) -> PoseSource:
    """A source without its first frames."""
    left = None if source.length is None else max(source.length - frames, 0)
    return PoseSource(lambda: itertools.islice(source.start(), frames, None), left)


def displaced(source: PoseSource, curves: dict[str, Curve]) -> PoseSource:
    """A source's poses, turned and shifted by curves of `head_motion.NAMES` over its time."""
    if not curves:
        return source

    def start() -> Iterator[Posed]:
        for i, posed in enumerate(source.start()):
            motion = np.array([curves[name](i / FPS) if name in curves else 0.0 for name in NAMES])
            yield posed._replace(transform=moved(posed.transform, motion))

    return source.replace(start=start)


def smoothed(source: PoseSource, seconds: float) -> PoseSource:
    """A source's poses averaged over time by a Gaussian with this standard deviation, without delay.

    Raises:
      UserError: a number that is negative or more than a minute.
    """
    if not 0 <= seconds <= _LONGEST_SMOOTHING:
        raise UserError(f"poses cannot be smoothed over {seconds:g} s: give 0 to {_LONGEST_SMOOTHING:g}")
    sigma = seconds * FPS
    reach = int(np.ceil(3 * sigma))
    if not reach:
        return source

    def start() -> Iterator[Posed]:
        coming = source.start()
        held = [next(coming) for _ in range(reach)]
        for i in itertools.count():
            held.append(next(coming))
            middle = min(i, reach)
            # At the beginning the window shrinks on both sides alike, so that a steady motion is not bent.
            near = held[: 2 * middle + 1]
            weights = np.exp(-0.5 * (np.arange(-middle, middle + 1) / sigma) ** 2)
            yield near[middle]._replace(transform=_mean([one.transform for one in near], weights))
            if i >= reach:
                held.pop(0)

    return source.replace(start=start)


def _mean(transforms: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted mean of head poses: of their rotations and of the head's place."""
    poses = np.stack(transforms).astype(np.float64)
    result = np.eye(4)
    result[:3, :3] = Rotation.from_matrix(poses[:, :3, :3]).mean(weights).as_matrix()
    result[:3, 3] = -result[:3, :3] @ np.average(place(poses), axis=0, weights=weights)
    return result.astype(np.float32)


def _frame_number(name: str, frames: int) -> int:
    """N of `frame:N`.

    Raises:
      UserError: no number of a training frame.
    """
    text = name.removeprefix("frame:")
    if not text.isdecimal() or int(text) >= frames:
        raise UserError(f"{name}: give the number of a training frame, frame:0 … frame:{frames - 1}")
    return int(text)
