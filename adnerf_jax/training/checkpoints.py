"""Checkpoints of a stage's training: saved whole or not at all, and restored. The only file that imports Orbax.

`checkpoints/<step>/` holds the parts of a `TrainState`, and beside them its metadata: settings, versions, and shape,
type and digest of each array. What can be read is compared with these before it is used.
"""

import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from adnerf_jax.common import processes
from adnerf_jax.common.errors import NotFinite, Preempted, UserError
from adnerf_jax.common.progress import say
from adnerf_jax.common.types import Scene
from adnerf_jax.training import sharding
from adnerf_jax.training.array_digests import check_same_shapes, digest_of, digests_of, shapes_of
from adnerf_jax.training.checkpoint_errors import (
    ReadFailure,
    explain_read_failure,
    explained_write,
    quiet_failed_reads,
)
from adnerf_jax.training.state import TrainState

T = TypeVar("T")
_PARTS = ("params", "opt_state", "frozen", "scene")
_policies = ocp.training.preservation_policies
# Orbax logs each failure with its traceback; errors raised here say instead what the user can do about it.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def directory(workdir: str | pathlib.Path) -> pathlib.Path:
    """Where a stage's checkpoints are."""
    return pathlib.Path(workdir).absolute() / "checkpoints"


def finished_steps(workdir: str | pathlib.Path, what: str) -> list[int]:
    """Steps of a stage's finished checkpoints, newest first; raises UserError where there is none of `what`."""
    steps = _steps(workdir)
    if not steps:
        raise UserError(f"no checkpoint of {what} in {workdir}: train it first, or give the folder of a trained one")
    return steps


def latest_step(workdir: str | pathlib.Path) -> int | None:
    """Step of the newest finished checkpoint of a stage, or None; whether it is damaged shows when it is read."""
    steps = _steps(workdir)
    return steps[0] if steps else None


def _steps(workdir: str | pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints that process 0 sees, newest first, by the names of their folders alone."""
    folder = directory(workdir)
    found = folder.iterdir() if folder.is_dir() else ()
    return processes.as_main(sorted((int(p.name) for p in found if p.is_dir() and p.name.isdecimal()), reverse=True))


class Saver:
    """Writes checkpoints in the background; keeps the newest ones and those that validate best.

    Args:
      workdir: the stage's folder.
      keep: number of newest checkpoints kept.
      best: number of best checkpoints kept besides.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int, best: int = 0) -> None:
        best_ones = _policies.BestN(get_metric_fn=lambda m: m["psnr"], n=best, keep_checkpoints_without_metrics=False)
        self._directory = directory(workdir)
        _clear_unfinished(self._directory)
        options = dict(preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(keep), best_ones]))
        try:
            self._checkpointer = ocp.training.Checkpointer(self._directory, **options)
        except ValueError:  # a file of metrics is damaged: the best ones are not known any more
            self._checkpointer = ocp.training.Checkpointer(self._directory, **options, lightweight_initialize=True)
        self._last = latest_step(workdir)

    def save(self, state: TrainState, metadata: dict[str, Any], psnr: float | None = None) -> None:
        """Starts writing `state` (returns before it is written) unless this step is already saved.

        Args:
          state: state of the stage's training.
          metadata: JSON values stored beside it (`runs.checkpoint_metadata`).
          psnr: PSNR of the tuning frames in dB, by which the best checkpoints are chosen.

        Raises:
          OSError: an earlier one could not be written.
        """
        step = int(state.step)
        if step == self._last:
            return
        parts = {name: getattr(state, name) for name in _PARTS}
        # Orbax takes no empty tree.
        parts = {name: part for name, part in parts.items() if jax.tree.leaves(part)}
        parts["initialised_at"] = {"step": state.initialised_at}
        # One string: Orbax would store each number of a tree as an array, which takes longer than all parameters.
        text = json.dumps({**metadata, "step": step, "arrays": digests_of(parts)})
        with explained_write(self._directory):
            # Without force, Orbax skips a step while an earlier one is still being written.
            self._checkpointer.save_checkpointables_async(
                step,
                {**parts, "meta": {"json": text, "digest": digest_of(text.encode())}},
                overwrite=True,
                force=True,
                metrics=None if psnr is None else {"psnr": psnr},
            )
        self._last = step

    def wait(self) -> None:
        """Waits until everything is on the disk.

        Raises:
          OSError: it could not be written.
        """
        with explained_write(self._directory):
            self._checkpointer.wait()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Closing waits for the other processes. These errors are raised in all of them, others perhaps in one alone.
        if jax.process_count() == 1 or kind is None or issubclass(kind, (UserError, Preempted, NotFinite)):
            with explained_write(self._directory):
                self._checkpointer.close()


def _clear_unfinished(folder: pathlib.Path) -> None:
    """Removes what interrupted saves have left.

    Moves it away first, which Orbax does not: threads of a save that failed in this process may still write there, and
    a folder that is being written to cannot be removed.
    """
    if processes.is_main() and (unfinished := list(folder.glob("*.orbax-checkpoint-tmp"))):
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent, ignore_cleanup_errors=True) as away:
            for path in unfinished:
                os.rename(path, pathlib.Path(away) / path.name)
    processes.wait_for_all("unfinished checkpoints are removed")


def restore(
    workdir: str | pathlib.Path, expected: TrainState, *, what: str, check: Callable[[dict[str, Any]], None]
) -> TrainState:
    """The newest readable state of a stage, with the shardings of `expected`.

    Damaged checkpoints are moved to `damaged/` in the workdir, and a message says so.

    Args:
      workdir: the stage's folder.
      expected: a tree of `jax.ShapeDtypeStruct` with shardings.
      what: what is restored, for messages ("this run", "the head").
      check: called with the metadata; raises where they do not fit.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    wanted = {name: getattr(expected, name) for name in _PARTS if jax.tree.leaves(getattr(expected, name))}
    wanted["initialised_at"] = {"step": expected.initialised_at}

    def load(folder: pathlib.Path, step: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
        return step, *_load(folder, wanted, workdir, what)

    step, metadata, parts = _newest(workdir, what, load, set_aside=True)
    check(metadata)
    # With a sharding like everything else: otherwise the first step after it would be compiled separately.
    done = jax.device_put(np.int32(step), expected.step.sharding)
    return expected.replace(step=done, initialised_at=parts.pop("initialised_at")["step"], **parts)


def restore_params(workdir: str | pathlib.Path, expected: dict[str, Any], *, what: str) -> dict[str, Any]:
    """Parts of the newest readable checkpoint: `params`, `scene`, …

    Args:
      workdir: the stage's folder.
      expected: trees of `jax.ShapeDtypeStruct` with shardings, by part.
      what: as in `restore`.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    return _newest(workdir, what, lambda folder, _: _load(folder, expected, workdir, what)[1])


def restore_for_use(workdir: str | pathlib.Path, everywhere: jax.sharding.Sharding) -> tuple[int, dict[str, Any]]:
    """What rendering needs of the newest readable checkpoint: everything but the optimizer's state.

    Args:
      workdir: the stage's folder.
      everywhere: the sharding of every array.

    Returns:
      step and {"params", "frozen", "scene"}, nested dicts of arrays but for the scene.

    Raises:
      UserError: no checkpoint.
    """
    what = "a trained stage"

    def load(folder: pathlib.Path, step: int) -> tuple[int, dict[str, Any]]:
        stored = ocp.checkpointables_metadata(folder).metadata
        wanted = {
            name: sharding.abstract(stored[name], everywhere)
            for name in ("params", "frozen", "scene")
            if name in stored
        }
        if not {"params", "scene"} <= wanted.keys():
            raise ValueError("parameters or constants are missing")
        try:
            return step, _load(folder, wanted, workdir, what)[1]
        except UserError as error:  # its metadata differ from its own arrays
            raise ValueError(str(error)) from None

    step, parts = _newest(workdir, what, load)
    if parts["scene"].keys() != Scene.__dataclass_fields__.keys():
        raise UserError(f"{workdir} was trained by another version of this program: train it again")
    return step, {"frozen": {}, **parts, "scene": Scene(**parts["scene"])}


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """What is stored in a checkpoint beside its arrays: settings, digests of data and arrays, versions.

    Raises:
      ValueError: it is not what was written. Orbax and TensorStore raise their own for files that they cannot read.
    """
    stored = ocp.load_checkpointables(folder, {"meta": None})["meta"]
    if digest_of(stored["json"].encode()) != stored["digest"]:
        raise ValueError("its metadata are not what was written")
    return json.loads(stored["json"])


def _newest(
    workdir: str | pathlib.Path, what: str, load: Callable[[pathlib.Path, int], T], set_aside: bool = False
) -> T:
    """What `load` returns for the newest checkpoint that all processes can read; damaged ones are reported.

    Raises:
      UserError: there is none, `load` raised it, or the machine refuses to read it, which is no damage.
    """
    quiet_failed_reads()
    steps = finished_steps(workdir, what)
    damaged: list[tuple[int, str]] = []
    for step in steps:
        loaded: list[T] = []
        failure = None
        folder = directory(workdir) / str(step)
        try:
            loaded.append(load(folder, step))
        except UserError:
            raise
        except Exception as error:  # JSON, zarr, TensorStore and Orbax raise many kinds for damaged files
            failure = explain_read_failure(error, folder)
        if processes.all_agree(failure is None):
            if set_aside and damaged:
                _set_aside(pathlib.Path(workdir), [step for step, _ in damaged])
            return loaded[0]
        if not processes.all_agree(failure is None or failure.remedy is None):
            raise UserError(_refusal(step, workdir, failure))
        damaged.append((step, failure.reason if failure else "another process cannot read it"))
        say(
            f"the checkpoint of step {step} in {workdir} is damaged ({damaged[-1][1]}): "
            + ("" if set_aside else f"move {folder} away; ")
            + (f"the one of step {steps[len(damaged)]} is taken" if step != steps[-1] else "there is none before it")
        )
    step, reason = damaged[0]
    raise UserError(
        f"no checkpoint of {what} in {workdir} can be read (step {step}: {reason}): move that folder away, and "
        f"train it again"
    )


def _refusal(step: int, workdir: str | pathlib.Path, failure: ReadFailure | None) -> str:
    reason = failure.reason if failure else "another process says why"
    remedy = failure.remedy if failure and failure.remedy else "do what that one says"
    return (
        f"the checkpoint of step {step} in {workdir} cannot be read, which may not be damage ({reason}): {remedy}, "
        f"and run the same command again"
    )


def _set_aside(workdir: pathlib.Path, steps: list[int]) -> None:
    """Moves damaged checkpoints to where Orbax does not see them."""
    processes.wait_for_all("damaged checkpoints were seen")
    if processes.is_main():
        folder = workdir / "damaged"
        folder.mkdir(exist_ok=True)
        for step in steps:
            number, target = 0, folder / str(step)
            while target.exists():
                number += 1
                target = folder / f"{step}-{number}"
            os.rename(directory(workdir) / str(step), target)
        say(f"damaged checkpoints were moved to {folder}")
    processes.wait_for_all("damaged checkpoints are set aside")


def _load(
    folder: pathlib.Path, wanted: dict[str, Any], workdir: str | pathlib.Path, what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata of a checkpoint, and the wanted parts of it, as they were written.

    Raises:
      UserError: it has another model.
      ValueError: it is not what was written. Orbax and TensorStore raise their own for files that they cannot read.
    """
    metadata = read_metadata(folder)
    arrays = metadata["arrays"]
    # Orbax reports a mismatch of shapes as a missing entry, so shapes are compared first; the optimizer's are those of
    # the parameters.
    compared = wanted.keys() - {"opt_state"}
    stored = {path: array["shape"] for path, array in arrays.items() if path.partition("/")[0] in compared}
    check_same_shapes(stored, shapes_of({name: wanted[name] for name in compared}), workdir, what)
    parts = ocp.load_checkpointables(folder, wanted)
    for path, array in digests_of(parts).items():
        if array != arrays[path]:
            raise ValueError(f"{path} is not what was written")
    return metadata, parts


def check_fits(parts: dict[str, Any], expected: dict[str, Any], workdir: str | pathlib.Path, what: str) -> None:
    """Raises UserError where the arrays of a checkpoint have not the shapes that a configuration's models need.

    Args:
      parts: trees of arrays, by part.
      expected: trees of `jax.ShapeDtypeStruct`, by part.
      workdir, what: as in `restore`, for the message.
    """
    check_same_shapes(shapes_of(parts), shapes_of(expected), workdir, what)
