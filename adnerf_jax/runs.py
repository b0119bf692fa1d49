"""Folders of runs: their names, the configuration saved in them, and whether a run may go on there."""

import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from adnerf_jax.errors import UserError
from adnerf_jax.files import read_json, write_json

_FILE = "config.json"
# What may change between a run and its continuation: nothing of it touches the numbers of the steps done.
_FREE = ("render.", "eval.", "compare.", "reference.", "variants")
_FREE_TRAIN = tuple(
    f"train.{name}"
    for name in ("steps", "log_every", "validate_every", "validate_frames", "checkpoint_every", "keep_checkpoints")
)


def run_folder(variants: tuple[str, ...]) -> pathlib.Path:
    """`runs/<variants joined by _>`, `runs/paper` without variants: the default home of dataset, head and torso."""
    return pathlib.Path("runs") / ("_".join(variants) or "paper")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}; sequences as lists."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, (list, tuple)) else value
    return flat


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the resolved configuration to `workdir/config.json`."""
    write_json(workdir / _FILE, config.to_dict())


def load_config(workdir: str | pathlib.Path) -> ConfigDict:
    """The configuration that a stage was trained with.

    Raises:
      UserError: `workdir` is not the folder of a stage.
    """
    path = pathlib.Path(workdir) / _FILE
    if not path.exists():
        raise UserError(f"{workdir} is not the folder of a trained stage ({_FILE} is missing): check --workdir")
    return ConfigDict(read_json(path, "configuration")).lock()


def check_continues(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError where `workdir` holds a run with other settings, or checkpoints without any."""
    if not (workdir / _FILE).exists():
        if (workdir / "checkpoints").exists():
            raise UserError(
                f"{workdir} holds checkpoints but not their settings ({_FILE} is missing), as an interrupted import "
                f"leaves it: delete that folder, or use another --workdir"
            )
        return
    old, new = flatten(read_json(workdir / _FILE, "configuration")), flatten(config.to_dict())
    different = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(_FREE) and key not in _FREE_TRAIN
    ]
    if different:
        told = "; ".join(f"{key} (there {old.get(key)}, here {new.get(key)})" for key in different[:3])
        # Lists and what one of the two lacks cannot be written as an option.
        plain = all(isinstance(old.get(key), (bool, int, float, str)) for key in different)
        options = " ".join(shlex.quote(f"--config.{key}={old.get(key)}") for key in different)
        go_on = f"to go on with it, add {options}; otherwise " if plain else ""
        raise UserError(
            f"{workdir} holds a run with other settings: {told}{' …' if len(different) > 3 else ''}; "
            f"{go_on}use another --workdir, or delete that one"
        )


def check_empty(workdir: pathlib.Path) -> None:
    """Raises UserError where a stage's folder is in use already."""
    if (workdir / _FILE).exists() or (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} holds a run already: use another --workdir, or delete that folder")


def apply_overrides(saved: ConfigDict, given: ConfigDict, overrides: Mapping[str, Any], workdir) -> ConfigDict:
    """A saved configuration with the values that the command line sets.

    Args:
      saved: from `load_config`.
      given: what `--config` names; only its stage and, where it has variants, its family are compared, and settings
        of rendering, evaluation and compatibility that an older run lacks are taken from it.
      overrides: dotted names and values.
      workdir: for messages.

    Raises:
      UserError: another stage or family.
    """
    if given.stage != saved.stage:
        raise UserError(f"{workdir} holds a {saved.stage} stage: use --config=configs/{saved.stage}.py")
    if given.variants and given.family != saved.family:
        raise UserError(f"{workdir} was trained in the {saved.family} family, --config asks for {given.family}")
    merged = ConfigDict(saved.to_dict())
    for part in ("compat", "render", "eval"):
        merged[part] = ConfigDict({**given[part].to_dict(), **merged.get(part, {})})
    if "compat.reference" in overrides:
        merged.compat.update(dict.fromkeys(merged.compat, overrides["compat.reference"]))
    merged.update_from_flattened_dict(dict(overrides))
    return merged.lock()
