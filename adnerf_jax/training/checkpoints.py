"""The only file that imports Orbax: a stage's state on disk, whole or not at all."""

import errno
import functools
import hashlib
import json
import logging
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from adnerf_jax.common import processes
from adnerf_jax.common.errors import NotFinite, Preempted, UserError
from adnerf_jax.common.progress import say
from adnerf_jax.common.types import Scene
from adnerf_jax.training.state import TrainState

T = TypeVar("T")
_PARTS = ("params", "opt_state", "frozen", "scene")
# Failures of the machine that say nothing about the files.
_REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "let this user read its files"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise `ulimit -n`"),
    errno.ENOMEM: "free some memory",
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO),
        "check the disk, or mount the network storage anew",
    ),
}
_policies = ocp.training.preservation_policies
# Orbax logs each failure with its traceback; what the user can do about it is said here.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """False for reads of a damaged checkpoint that failed, or were given up, after the first of them was told."""
    failed = bool(record.exc_info) and "tensorstore_spec=" in str(record.exc_info[1])
    return not (failed or "orbax/checkpoint" in record.getMessage())


def _without_late_reads(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    """`sys.unraisablehook` without reads that end, or are given up, when the first failure has closed Orbax's loop."""

    def told(unraisable: Any) -> None:
        error = unraisable.exc_value
        ended = unraisable.object is None and isinstance(error, RuntimeError) and "loop is closed" in str(error)
        # Orbax makes its own error even of what ends a coroutine.
        given_up = isinstance(getattr(error, "__cause__", None), GeneratorExit)
        if not (ended or given_up):
            hook(unraisable)

    return told


@functools.cache
def _expect_damage() -> None:
    """What Orbax says of a damaged checkpoint beside its error is left out; from the first read on, once a process."""
    logging.getLogger("asyncio").addFilter(_is_worth_telling)
    sys.unraisablehook = _without_late_reads(sys.unraisablehook)
    warnings.filterwarnings("ignore", message="Sharding info not provided")  # its sharding file is lost
    warnings.filterwarnings("ignore", message="coroutine 'PyTreeHandler")  # reads that were not begun


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
    """The newest finished checkpoint of a stage, or None. Whether it can be read is not known before."""
    steps = _steps(workdir)
    return steps[0] if steps else None


class Saver:
    """Writes checkpoints in the background; keeps the newest ones and those that validate best.

    Args:
      workdir: the stage's folder.
      keep: number of newest checkpoints kept.
      best: number of best checkpoints kept besides.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int, best: int = 0):
        best_ones = _policies.BestN(get_metric_fn=lambda m: m["psnr"], n=best, keep_checkpoints_without_metrics=False)
        self._directory = directory(workdir)
        _clear_unfinished(self._directory)
        options = dict(preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(keep), best_ones]))
        try:
            self._checkpointer = ocp.training.Checkpointer(self._directory, **options)
        except ValueError:  # a damaged file of metrics: what was best is not known any more
            self._checkpointer = ocp.training.Checkpointer(self._directory, **options, lightweight_initialize=True)
        self._last = latest_step(workdir)

    def save(self, state: TrainState, meta: dict[str, Any], psnr: float | None = None) -> None:
        """Starts writing `state` (returns before it is written) unless this step is already there.

        Args:
          state: of the stage.
          meta: JSON values stored beside it.
          psnr: of the validation, by which the best are known.

        Raises:
          OSError: an earlier one could not be written.
        """
        step = int(state.step)
        if step == self._last:
            return
        parts = {name: getattr(state, name) for name in _PARTS}
        # An empty tree is no checkpointable.
        parts = {name: part for name, part in parts.items() if jax.tree.leaves(part)}
        parts["initialised_at"] = {"step": state.initialised_at}
        # One text: of a tree, Orbax would store each number as an array, which takes longer than all parameters.
        text = json.dumps({**meta, "step": step, "arrays": _described(parts)})
        with _Explained(self._directory):
            # Without force, Orbax skips a step while an earlier one is still being written.
            self._checkpointer.save_checkpointables_async(
                step,
                {**parts, "meta": {"json": text, "digest": _digest_of(text.encode())}},
                overwrite=True,
                force=True,
                metrics=None if psnr is None else {"psnr": psnr},
            )
        self._last = step

    def wait(self) -> None:
        """Until everything is on the disk.

        Raises:
          OSError: it could not be written.
        """
        with _Explained(self._directory):
            self._checkpointer.wait()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        # Closing waits for the other processes. These errors come in all of them, any other one perhaps in this alone.
        if jax.process_count() == 1 or kind is None or issubclass(kind, (UserError, Preempted, NotFinite)):
            with _Explained(self._directory):
                self._checkpointer.close()


def _clear_unfinished(folder: pathlib.Path) -> None:
    """Removes what saves that were interrupted have left.

    Moved away first, which Orbax's own clearing does not do: threads of a save that failed before in this process may
    still write there, and then a folder cannot be removed where it is.
    """
    if processes.is_main() and (unfinished := list(folder.glob("*.orbax-checkpoint-tmp"))):
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent, ignore_cleanup_errors=True) as away:
            for path in unfinished:
                os.rename(path, pathlib.Path(away) / path.name)
    processes.wait_for_all("unfinished checkpoints are removed")


class _Explained:
    """Makes an OSError of what Orbax and TensorStore raise when a checkpoint cannot be written."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, jax.errors.JaxRuntimeError):
            return
        reason = _one_line(error)
        raise OSError(
            f"a checkpoint could not be written into {self._folder} ({reason}): make room there and run the same "
            f"command again; it goes on from the newest whole checkpoint"
        ) from error


def restore(
    workdir: str | pathlib.Path, expected: TrainState, *, what: str, check: Callable[[dict[str, Any]], None]
) -> TrainState:
    """The newest state of a stage that can be read, put on the devices as `expected` says.

    Damaged ones are moved to `damaged/` in the workdir, and this is said.

    Args:
      workdir: the stage's folder.
      expected: a tree of `jax.ShapeDtypeStruct` with shardings.
      what: what is restored, for messages ("this run", "the head").
      check: is given what was stored beside the state, and raises where that does not fit.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    wanted = {name: getattr(expected, name) for name in _PARTS if jax.tree.leaves(getattr(expected, name))}
    wanted["initialised_at"] = {"step": expected.initialised_at}

    def load(folder: pathlib.Path, step: int):
        return step, *_load(folder, wanted, workdir, what)

    step, meta, parts = _newest(workdir, what, load, set_aside=True)
    check(meta)
    # On the devices like everything else: otherwise the first step after it would be compiled for itself.
    done = jax.device_put(np.int32(step), expected.step.sharding)
    return expected.replace(step=done, initialised_at=parts.pop("initialised_at")["step"], **parts)


def restore_params(workdir: str | pathlib.Path, expected: dict[str, Any], *, what: str) -> dict[str, Any]:
    """Parts of the newest checkpoint that can be read: `params`, `scene`, …

    Args:
      workdir: the stage's folder.
      expected: trees of `jax.ShapeDtypeStruct` with shardings, by part.
      what: as in `restore`.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    return _newest(workdir, what, lambda folder, _: _load(folder, expected, workdir, what)[1])


def restore_for_use(workdir: str | pathlib.Path, sharding: jax.sharding.Sharding) -> tuple[int, dict[str, Any]]:
    """What rendering needs of the newest checkpoint that can be read: everything but the optimizer's state.

    Args:
      workdir: the stage's folder.
      sharding: where to put every array.

    Returns:
      step and {"params", "frozen", "scene"}, nested dicts of arrays but for the scene.

    Raises:
      UserError: no checkpoint.
    """
    what = "a trained stage"

    def load(folder: pathlib.Path, step: int):
        stored = ocp.checkpointables_metadata(folder).metadata
        wanted = {
            name: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), stored[name])
            for name in ("params", "frozen", "scene")
            if name in stored
        }
        if not {"params", "scene"} <= wanted.keys():
            raise ValueError("parameters or constants are missing")
        try:
            return step, _load(folder, wanted, workdir, what)[1]
        except UserError as error:  # what it says of itself differs from what it holds
            raise ValueError(str(error)) from None

    step, parts = _newest(workdir, what, load)
    if parts["scene"].keys() != Scene.__dataclass_fields__.keys():
        raise UserError(f"{workdir} was trained by another version of this program: train it again")
    return step, {"frozen": {}, **parts, "scene": Scene(**parts["scene"])}


def description(folder: pathlib.Path) -> dict[str, Any]:
    """What is stored in a checkpoint beside its arrays: settings, digests of data and arrays, versions.

    Raises:
      ValueError: it is not what was written. Orbax and TensorStore raise their own for files that they cannot read.
    """
    stored = ocp.load_checkpointables(folder, {"meta": None})["meta"]
    digest = stored.pop("digest", None)
    # Earlier versions stored a tree, and the first of them no digests: theirs is taken as it is.
    text = stored["json"] if "json" in stored else json.dumps(stored, sort_keys=True)
    if digest != _digest_of(text.encode()) and (digest is not None or {"json", "arrays"} & stored.keys()):
        raise ValueError("its description is not what was written")
    return json.loads(text)


def _steps(workdir: str | pathlib.Path) -> list[int]:
    """Finished checkpoints that process 0 sees, newest first.

    By their names alone, so that damage is met when one is read.
    """
    folder = directory(workdir)
    there = folder.iterdir() if folder.is_dir() else ()
    return processes.as_main(sorted((int(p.name) for p in there if p.is_dir() and p.name.isdecimal()), reverse=True))


def _newest(workdir, what: str, load: Callable[[pathlib.Path, int], T], set_aside: bool = False) -> T:
    """What `load` makes of the newest checkpoint that it can read.

    Raises:
      UserError: there is none, `load` says so, or the machine refuses to read it, which is no damage.
    """
    _expect_damage()
    steps = finished_steps(workdir, what)
    damage = []
    for step in steps:
        result, reason, remedy = None, None, None
        folder = directory(workdir) / str(step)
        try:
            result = load(folder, step)
        except UserError:
            raise
        except Exception as error:  # whatever JSON, zarr and Orbax make of a damaged file
            reason, remedy = _refusal(error, folder) or (_one_line(error), None)
        if processes.all_agree(reason is None):
            break
        if not processes.all_agree(remedy is None):
            raise UserError(
                f"the checkpoint of step {step} in {workdir} cannot be read, which need not be damage "
                f"({reason or 'another process says why'}): {remedy or 'do what that one says'}, and run the same "
                f"command again"
            )
        damage.append((step, reason or "another process cannot read it"))
        say(
            f"the checkpoint of step {step} in {workdir} is damaged ({damage[-1][1]}): "
            + ("" if set_aside else f"move {folder} away; ")
            + (f"the one of step {steps[len(damage)]} is taken" if step != steps[-1] else "there is none before it")
        )
    else:
        step, reason = damage[0]
        raise UserError(
            f"no checkpoint of {what} in {workdir} can be read (step {step}: {reason}): move that folder away, and "
            f"train it again"
        )
    if set_aside and damage:
        _set_aside(pathlib.Path(workdir), [step for step, _ in damage])
    return result


def _refusal(error: BaseException, folder: pathlib.Path) -> tuple[str, str] | None:
    """What failed and what to do where a checkpoint could not be read for another reason than damage; else None."""
    if not folder.is_dir():
        return f"{folder} is not there any more", "let all processes see the same storage, and nothing be deleted there"
    at: BaseException | None = error
    while at is not None:  # Orbax hides what happened behind its own errors
        exhausted = isinstance(at, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(at)
        if exhausted or isinstance(at, MemoryError):
            return _one_line(at), "free some memory of the machine and its devices"
        for code, remedy in _REMEDIES.items():
            # TensorStore gives the system's words without its number.
            if getattr(at, "errno", None) == code or f": {os.strerror(code)}" in str(at):
                return os.strerror(code), remedy
        at = at.__cause__ or at.__context__
    return None


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


def _load(folder: pathlib.Path, wanted: dict[str, Any], workdir, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is stored beside a checkpoint, and the wanted parts of it, whole.

    Raises:
      UserError: it has another model.
      ValueError: it is not what was written. Orbax and TensorStore raise their own for files that they cannot read.
    """
    meta = description(folder)
    # Orbax reports a mismatch of shapes as a missing entry, so shapes are compared first; the optimizer's are those of
    # the parameters.
    compared = wanted.keys() - {"opt_state"}
    if "arrays" in meta:
        there = {path: one["shape"] for path, one in meta["arrays"].items() if path.partition("/")[0] in compared}
    else:
        metadata = ocp.checkpointables_metadata(folder).metadata
        there = _shapes({name: metadata[name] for name in compared & metadata.keys()})
    _check_same_shapes(there, _shapes({name: wanted[name] for name in compared}), workdir, what)
    parts = ocp.load_checkpointables(folder, wanted)
    if "arrays" in meta:
        for key, one in _described(parts).items():
            if one != meta["arrays"][key]:
                raise ValueError(f"{key} is not what was written")
    return meta, parts


def check_fits(parts: dict[str, Any], expected: dict[str, Any], workdir: str | pathlib.Path, what: str) -> None:
    """Raises UserError where what a checkpoint holds has not the shapes that a configuration's models need.

    Args:
      parts: trees of arrays, by part.
      expected: trees of `jax.ShapeDtypeStruct`, by part.
      workdir, what: as in `restore`, for the message.
    """
    _check_same_shapes(_shapes(parts), _shapes(expected), workdir, what)


def _check_same_shapes(stored: dict[str, list[int]], expected: dict[str, list[int]], workdir, what: str) -> None:
    for key in sorted(stored.keys() | expected.keys()):
        there, here = stored.get(key, "absent"), expected.get(key, "absent")
        if there != here:
            raise UserError(
                f"the checkpoint of {what} in {workdir} has another model or other data than the configuration: "
                f"{key} is {_shown(there)} there and {_shown(here)} here; use the configuration it was trained with, "
                f"or another --workdir"
            )


def _leaves(tree: Any) -> dict[str, Any]:
    """Arrays by their path; the same for a dataclass and the dict of its fields."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]

    def name(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    return {"/".join(map(name, path)): leaf for path, leaf in leaves}


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {path: list(leaf.shape) for path, leaf in _leaves(tree).items()}


def _shown(shape: list[int] | str) -> str:
    return shape if isinstance(shape, str) else str(tuple(shape))


def _described(parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Shape, type and digest of each array: neither zarr nor Orbax notices every flipped bit."""
    arrays = {path: np.asarray(leaf) for path, leaf in _leaves(jax.device_get(parts)).items()}
    return {
        path: {
            "shape": list(a.shape),
            "dtype": str(a.dtype),
            "digest": _digest_of(a.tobytes()),
        }
        for path, a in arrays.items()
    }


def _digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _one_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return " ".join(f"{type(error).__name__} {error}".split())[:160]
