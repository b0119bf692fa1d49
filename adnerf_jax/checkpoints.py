"""The only file that imports Orbax: a stage's state on disk, whole or not at all."""

import pathlib
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from adnerf_jax.errors import UserError
from adnerf_jax.state import TrainState
from adnerf_jax.types import Scene

_PARTS = ("params", "opt_state", "frozen", "scene")


def directory(workdir: str | pathlib.Path) -> pathlib.Path:
    """Where a stage's checkpoints are."""
    return pathlib.Path(workdir).absolute() / "checkpoints"


def latest_step(workdir: str | pathlib.Path) -> int | None:
    """The newest whole checkpoint of a stage, or None."""
    if not directory(workdir).is_dir():
        return None
    with ocp.training.Checkpointer(directory(workdir)) as checkpointer:
        return None if checkpointer.latest is None else checkpointer.latest.step


class Saver:
    """Writes checkpoints in the background and keeps the newest ones.

    Args:
      workdir: the stage's folder.
      keep: number of checkpoints kept.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int):
        self._checkpointer = ocp.training.Checkpointer(
            directory(workdir), preservation_policy=ocp.training.preservation_policies.LatestN(keep)
        )
        self._last: int | None = None

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts writing `state` (returns before it is written) unless this step is already there.

        Args:
          state: of the stage.
          meta: JSON values stored beside it.
        """
        step = int(state.step)
        if step == self._last:
            return
        parts = {name: getattr(state, name) for name in _PARTS}
        # An empty tree is no checkpointable.
        parts = {name: part for name, part in parts.items() if jax.tree.leaves(part)}
        parts["born"] = {"step": state.born}
        # Without force, Orbax skips a step while an earlier one is still being written.
        self._checkpointer.save_checkpointables_async(
            step, {**parts, "meta": {**meta, "step": step}}, overwrite=True, force=True
        )
        self._last = step

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_) -> None:
        self._checkpointer.close()


def restore(workdir: str | pathlib.Path, expected: TrainState, *, what: str) -> TrainState:
    """The newest state of a stage, put on the devices as `expected` says.

    Args:
      workdir: the stage's folder.
      expected: a tree of `jax.ShapeDtypeStruct` with shardings.
      what: what is restored, for messages ("this run", "the head").

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    with _open(workdir, what) as checkpointer:
        step = checkpointer.latest.step
        wanted = {name: getattr(expected, name) for name in _PARTS if jax.tree.leaves(getattr(expected, name))}
        wanted["born"] = {"step": expected.born}
        _check_shapes(checkpointer, step, wanted, workdir, what)
        parts = checkpointer.load_checkpointables(step, wanted)
    # On the devices like everything else: otherwise the first step after it would be compiled for itself.
    done = jax.device_put(np.int32(step), expected.step.sharding)
    return expected.replace(step=done, born=parts.pop("born")["step"], **parts)


def restore_params(workdir: str | pathlib.Path, expected: dict[str, Any], *, what: str) -> dict[str, Any]:
    """Parts of the newest state of a stage; nothing else is read.

    Args:
      workdir: the stage's folder.
      expected: `params`, `frozen` or `scene` as trees of `jax.ShapeDtypeStruct` with shardings.
      what: what is restored, for messages.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    with _open(workdir, what) as checkpointer:
        step = checkpointer.latest.step
        _check_shapes(checkpointer, step, expected, workdir, what)
        return checkpointer.load_checkpointables(step, expected)


def restore_for_use(workdir: str | pathlib.Path, sharding: jax.sharding.Sharding) -> tuple[int, dict[str, Any]]:
    """What rendering needs of the newest checkpoint: everything but the optimizer's state.

    Args:
      workdir: the stage's folder.
      sharding: where to put every array.

    Returns:
      step and {"params", "frozen", "scene"}, nested dicts of arrays but for the scene.

    Raises:
      UserError: no checkpoint.
    """
    with _open(workdir, "a trained stage") as checkpointer:
        step = checkpointer.latest.step
        stored = checkpointer.checkpointables_metadata(step).metadata
        names = [name for name in ("params", "frozen", "scene") if name in stored]
        wanted = {
            name: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), stored[name])
            for name in names
        }
        parts = checkpointer.load_checkpointables(step, wanted)
    if parts["scene"].keys() != Scene.__dataclass_fields__.keys():
        raise UserError(f"{workdir} was trained by another version of this program: train it again")
    return step, {"frozen": {}, **parts, "scene": Scene(**parts["scene"])}


def _open(workdir: str | pathlib.Path, what: str) -> ocp.training.Checkpointer:
    if latest_step(workdir) is None:
        raise UserError(f"no checkpoint of {what} in {workdir}: train it first, or give the folder of a trained one")
    return ocp.training.Checkpointer(directory(workdir))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path): a.shape for path, a in leaves}


def _check_shapes(checkpointer, step: int, wanted: dict[str, Any], workdir, what: str) -> None:
    """Orbax reports a mismatch of shapes as a missing entry, so shapes are compared first."""
    stored = checkpointer.checkpointables_metadata(step).metadata
    for name in (name for name in wanted if name != "opt_state"):
        have, want = _shapes(stored.get(name, {})), _shapes(wanted[name])
        different = sorted(k for k in have.keys() | want.keys() if have.get(k) != want.get(k))
        if different:
            key = different[0]
            raise UserError(
                f"the checkpoint of {what} in {workdir} has another model or other data than the configuration: "
                f"{name}/{key} is {have.get(key, 'absent')} there and {want.get(key, 'absent')} here; use the "
                f"configuration it was trained with, or another --workdir"
            )
