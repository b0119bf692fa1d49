"""Frames that processes render independently of each other, a part each, and that one of them joins."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_json
from adnerf_jax.configuration.flatten import flatten
from adnerf_jax.inference.trained import TrainedStage

_JOB = "job.json"


def shard(text: str | None, option: str) -> tuple[int, int]:
    """`2/4` to (1, 4): the part, counted from 0, and the number of parts; (0, 1) for None.

    Args:
      text: what was given.
      option: that it was given by.

    Raises:
      UserError: anything else.
    """
    if not text:
        return 0, 1
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UserError(f"{option} is {text!r}: give 1/4, 2/4, 3/4, 4/4 to four processes")
    return int(part) - 1, int(parts)


def job_of(stage: TrainedStage, workdir: pathlib.Path, config: ConfigDict) -> dict[str, Any]:
    """What decides any frame that a stage renders, beside what is asked of it."""
    return {
        "workdir": str(workdir.absolute()),
        "stage": stage.name,
        "step": stage.step,
        "parameters": stage.digest,
        "occupancy": config.render.occupancy,
        # The command line may override these.
        **{part: flatten(config[part].to_dict()) for part in ("model", "compat")},
    }


def kept_frames(folder: pathlib.Path, job: dict) -> set[int]:
    """Numbers of the frames that the same job left, interrupted or done in parts; those of another job are deleted.

    Args:
      folder: of `<number>.png` and what describes the job; made where it is missing.
      job: what decides every frame.

    Raises:
      UserError: the folder holds something else.
    """
    path = folder / _JOB
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder.parent):
        try:
            same = json.loads(path.read_text()) == job
        except (OSError, json.JSONDecodeError):
            same = False
        if not same:
            # A folder without a job is what a full disk or a kill leaves before the job is described.
            if folder.exists() and not path.exists() and not (folder.is_dir() and _left_empty(folder)):
                raise UserError(f"{folder} is in the way and no render made it: move it, or write elsewhere")
            discard(folder)
            write_json(path, job)
    return {int(frame.stem) for frame in folder.glob("[0-9]*.png")}


def _left_empty(folder: pathlib.Path) -> bool:
    """Whether nothing is there but what `write_json` was writing."""
    return all(path.name.startswith(f".{pathlib.Path(_JOB).stem}.") for path in folder.iterdir())


def discard(folder: pathlib.Path) -> None:
    """Deletes kept frames, what describes their job last: until then a later run knows whose they are."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.name != _JOB and not path.is_dir():
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def read_kept(folder: pathlib.Path, number: int, read: Callable[[pathlib.Path], np.ndarray]) -> np.ndarray:
    """Frame `number` of a folder of kept frames.

    Raises:
      UserError: it is missing or damaged. A damaged one is deleted, so that the same command makes it again.
    """
    path = kept_frame(folder, number)
    try:
        return read(path)
    except UserError:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} was damaged and is deleted: the same command makes it again, and goes on") from None


def kept_frame(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where frame `number` is kept."""
    return folder / f"{number:06d}.png"


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other renders out: parts that start together must not delete each other's frames as those of another job.

    The lock is the system's and ends with the process.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
