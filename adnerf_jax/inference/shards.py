"""Frames kept as files until all are rendered, so that renders can be interrupted and split between processes."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import write_json
from adnerf_jax.common.own_folders import check_no_links
from adnerf_jax.configuration.flatten import flatten
from adnerf_jax.inference.trained_stage import TrainedStage

_JOB = "job.json"


def parse_shard(text: str | None, setting: str) -> tuple[int, int]:
    """`2/4` to (1, 4): the index of the shard, counted from 0, and the number of shards; (0, 1) for None.

    Args:
      text: value of the setting.
      setting: its name, for the message.

    Raises:
      UserError: the text is not of this form, or the index is not in 1 … number.
    """
    if not text:
        return 0, 1
    index, _, count = text.partition("/")
    if not (re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", text) and 1 <= int(index) <= int(count)):
        raise UserError(Option(setting), f" is {text!r}: give 1/4, 2/4, 3/4, 4/4 to four processes")
    return int(index) - 1, int(count)


def stage_job(stage: TrainedStage, workdir: pathlib.Path, config: ConfigDict) -> dict[str, Any]:
    """The part of a job's description that rendering and evaluation share: the trained stage and its settings."""
    return {
        "workdir": str(workdir.absolute()),
        "stage": stage.name,
        "step": stage.step,
        "parameters": stage.digest,
        "occupancy": config.render.occupancy,
        # The command line may override these.
        **{part: flatten(config[part].to_dict()) for part in ("model", "compat")},
    }


def finished_frames(folder: pathlib.Path, job: dict[str, Any]) -> set[int]:
    """Numbers of the frames that were already rendered for the same job; frames of another job are deleted.

    Args:
      folder: holds `<number>.png` and the job's description; created if it is missing.
      job: everything that decides how frames look, as JSON values.

    Raises:
      UserError: the folder exists and no render wrote it, or it is a link.
    """
    path = folder / _JOB
    check_no_links(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent):
        try:
            same = json.loads(path.read_text()) == job
        except (OSError, json.JSONDecodeError):
            same = False
        if not same:
            # A full disk or a kill before the job is described leaves a folder without a job.
            if folder.exists() and not path.exists() and not (folder.is_dir() and _holds_no_frames(folder)):
                raise UserError(f"{folder} exists, but no render wrote it: move it, or write elsewhere")
            discard_frames(folder)
            write_json(path, job)
    # By the whole name: file managers leave copies such as `000001 copy.png`.
    return {int(path.stem) for path in folder.iterdir() if re.fullmatch(r"[0-9]{6,9}\.png", path.name)}


def _holds_no_frames(folder: pathlib.Path) -> bool:
    """Whether a folder is empty but for an unfinished temporary file of `write_json`."""
    return all(path.name.startswith(f".{pathlib.Path(_JOB).stem}.") for path in folder.iterdir())


def discard_frames(folder: pathlib.Path) -> None:
    """Deletes kept frames, and the job's description last, so that a later run still recognises what is left."""
    check_no_links(folder)
    for path in folder.iterdir() if folder.exists() else ():
        if path.name != _JOB and not path.is_dir():
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def read_frame(folder: pathlib.Path, number: int, read: Callable[[pathlib.Path], np.ndarray]) -> np.ndarray:
    """Frame `number` of a folder of kept frames, read by `read`.

    Raises:
      UserError: the file is missing or damaged. A damaged one is deleted, so that the same command renders it again.
    """
    path = frame_path(folder, number)
    try:
        return read(path)
    except UserError:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} was damaged and is deleted: run the same command again to continue") from None


def frame_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where frame `number` is kept."""
    return folder / f"{number:06d}.png"


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock on a folder.

    Without it, shards that start together could delete each other's frames as those of another job. The operating
    system releases the lock when the process ends.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
