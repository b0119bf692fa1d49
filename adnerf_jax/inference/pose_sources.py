"""Where the head poses of a render come from: `pose_source` turns what a user gives into a `PoseSource`."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from adnerf_jax.common.curves import read_curves, read_table
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json
from adnerf_jax.data.person import Person
from adnerf_jax.inference.head_motion import NAMES, head_position, rest_frame
from adnerf_jax.inference.pose_sequences import (
    PoseSource,
    back_and_forth,
    constant_pose,
    displaced,
    looped,
    random_segments,
    recorded,
)
from adnerf_jax.nerf.cameras import is_rigid


def pose_source(given: Any, person: Person, seed: int = 0) -> PoseSource:
    """Makes a pose source from a word, a file, an array or a video.

    Args:
      given: `mirror` (the training video back and forth), `forward` (in a loop), `random` (segments of it in random
        order), `rest` (its median pose, constant), `frame:N` (its N-th training frame, constant); a `.json` or `.csv`
        file (`read_poses`); a video, whose head motion is transferred to this person's rest pose; an array [N, 4, 4] of
        camera-to-head matrices; or a `PoseSource`.
      person: the person who is rendered.
      seed: seed of the order of `random`.

    Raises:
      UserError: `given` is none of these, or holds invalid poses.
    """
    if isinstance(given, PoseSource):
        return given
    if isinstance(given, np.ndarray):
        return recorded(check_poses(given, "the array of poses"))
    words: dict[str, Callable[[], PoseSource]] = {
        "mirror": lambda: back_and_forth(person),
        "forward": lambda: looped(person),
        "random": lambda: random_segments(person, seed),
        "rest": lambda: constant_pose(person, rest_frame(person.transforms)),
    }
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"pose: expected a word, a file or an array, not {repr(given)[:60]}")
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
            f"there is no pose source {name!r}: give {', '.join(words)}, frame:N, or a .json, .csv or video file"
        )
    from adnerf_jax.inference.driving_video import video_poses  # imports a face tracker that other sources do not need

    return video_poses(pathlib.Path(name), person)


def read_poses(path: pathlib.Path, person: Person) -> PoseSource:
    """Reads poses from a file.

    Args:
      path: `.json`: a list of camera-to-head matrices [4, 4], one for each frame at 25 fps, alone or under `poses`, or
        a dataset's index (`frames` with `transform_matrix`); or curves of yaw, pitch, … relative to the rest pose.
        `.csv`: 12 or 16 columns of other names, the matrix row by row; or columns yaw, pitch, … (`head_motion.NAMES`).
      person: the person whose rest pose curves are relative to.

    Raises:
      UserError: the file is missing, or its poses are of another shape, not finite, or not rotations.
    """
    if path.suffix.lower() == ".csv":
        header, rows = read_table(path, "pose file")
        if not set(header) & set(NAMES):
            if rows.shape[1] not in (12, 16):
                raise UserError(f"pose file {path} has {rows.shape[1]} columns: expected 12 or 16, or yaw, pitch, ...")
            return recorded(check_poses(rows.reshape(len(rows), -1, 4), f"pose file {path}"))
        return displaced(constant_pose(person, rest_frame(person.transforms)), read_curves(path, NAMES, "pose file"))
    value = read_json(path, "pose file")
    if isinstance(value, dict) and set(value) & set(NAMES):
        return displaced(
            constant_pose(person, rest_frame(person.transforms)), read_curves(value, NAMES, f"pose file {path}")
        )
    try:
        listed = value if isinstance(value, list) else value.get("poses") or value["frames"]
        matrices = [one["transform_matrix"] if isinstance(one, dict) else one for one in listed]
        array = np.array(matrices, np.float64)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"pose file {path}: expected a list of 4x4 matrices, or curves of {', '.join(NAMES)}") from None
    return recorded(check_poses(array, f"pose file {path}"))


def check_poses(transforms: np.ndarray, what: str) -> np.ndarray:
    """Poses as float32 [N, 4, 4], from [N, 4, 4] or [N, 3, 4].

    Args:
      transforms: camera-to-head matrices.
      what: description of the matrices, for messages.

    Raises:
      UserError: another shape, numbers that are not finite, no rotations, or a head behind the camera.
    """
    if transforms.ndim != 3 or not len(transforms) or transforms.shape[1:] not in ((4, 4), (3, 4)):
        raise UserError(f"{what} has the shape {list(transforms.shape)}: expected camera-to-head matrices [N, 4, 4]")
    if transforms.shape[1] == 3:
        last = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0]), (len(transforms), 1, 4))
        transforms = np.concatenate([transforms, last], axis=1)
    for valid, problem in (
        (np.isfinite(transforms).all((1, 2)), "holds a number that is not finite"),
        (is_rigid(transforms), "is not a rotation and a translation"),
        (head_position(transforms)[:, 2] < 0, "puts the head behind the camera"),
    ):
        if not valid.all():
            raise UserError(f"{what}: pose {int(np.flatnonzero(~valid)[0])} {problem}")
    return transforms.astype(np.float32)


def _frame_number(name: str, frames: int) -> int:
    """N of `frame:N`.

    Raises:
      UserError: N is not the number of a training frame.
    """
    text = name.removeprefix("frame:")
    if not text.isdecimal() or int(text) >= frames:
        raise UserError(f"{name}: give the number of a training frame, frame:0 … frame:{frames - 1}")
    return int(text)
