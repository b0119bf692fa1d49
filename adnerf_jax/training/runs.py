"""Folders of runs: their names, the configuration saved in them, and whether a run may go on there."""

import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json, write_json
from adnerf_jax.common.progress import say
from adnerf_jax.common.versions import versions_of
from adnerf_jax.configuration import base as common
from adnerf_jax.configuration.flatten import flatten

_FILE = "config.json"
# What may change between a run and its continuation: nothing of it touches the numbers of the steps done.
_FREE = ("render.", "eval.", "compare.", "reference.", "variants")
# What decides how a head is rendered, beside its parameters.
_OF_HEAD = ("model.head.", "compat.zero_padding", "compat.window_lists")
_FREE_TRAIN = tuple(
    f"train.{name}"
    for name in (
        "steps",
        "log_every",
        "validate_every",
        "validate_frames",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_best",
        "on_nan",
    )
)
# What a saved configuration must have beside its model; all else that an older one lacks is taken from today's.
_NEEDED = ("seed", "data", "size", "subject", "variants", "train.rays") + tuple(
    f"train.{name}" for name in ("sampler_weight", "attention_from", "density_leak_steps")
)
_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of names"}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def run_folder(variants: tuple[str, ...]) -> pathlib.Path:
    """`runs/<variants joined by _>`, `runs/paper` without variants: the default home of dataset, head and torso."""
    return pathlib.Path("runs") / ("_".join(variants) or "paper")


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the resolved configuration to `workdir/config.json`."""
    write_json(workdir / _FILE, config.to_dict())


def load_config(workdir: str | pathlib.Path) -> ConfigDict:
    """The configuration that a stage was trained with.

    Raises:
      UserError: `workdir` is not the folder of a stage, or a setting is missing or of another type.
    """
    path = pathlib.Path(workdir) / _FILE
    if not path.exists():
        stages = [path.parent / stage for stage in ("head", "torso") if (path.parent / stage / _FILE).exists()]
        mend = " or ".join(f"use --workdir={stage}" for stage in stages) or "check --workdir"
        raise UserError(f"{workdir} is not the folder of a trained stage ({_FILE} is missing): {mend}")
    saved = read_json(path, "configuration")
    whole = (
        isinstance(saved, dict)
        and saved.get("stage") in ("head", "torso")
        and saved.get("family") in ("paper", "fast")
        and all(isinstance(saved.get(part), dict) for part in ("model", "optim", "train"))
        and all(isinstance(saved.get(part, {}), dict) for part in ("compat", "render", "eval"))
    )
    if not whole:
        raise UserError(f"{path} is no configuration of a stage: check --workdir, or train it again")
    schema = common.get_config(saved["stage"], "fast" if saved["family"] == "fast" else "")
    _check_types(saved, schema, f"{path}: ")
    present, wanted = flatten(saved), flatten(schema.to_dict())
    for key in wanted:
        if key not in present and (key in _NEEDED or key.startswith("model.")):
            raise UserError(f"{path} lacks {key}: it is damaged, or another version's; bring it back, or train again")
    try:
        return ConfigDict(saved).lock()
    except ValueError as error:  # names with dots
        raise UserError(
            f"{path} is no configuration of a stage ({_told(error)}): bring it back, or train again"
        ) from None


def _check_types(values: Mapping[str, Any], schema: ConfigDict, where: str) -> None:
    """Raises UserError for the first value of another type than the schema has; `where` begins its message."""
    for key, value, wanted in _mistyped(values, schema):
        raise UserError(f"{where}{_told(key)} is {_told(repr(value))}, but it must be {wanted}: set it right")


def _mistyped(values: Mapping[str, Any], schema: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Settings that are not of the schema's types: dotted name, value, and what it must be, in words."""
    for key, value in values.items():
        name = prefix + str(key)
        if key not in schema:
            if prefix == "train.regions." and not _is_a(value, float):  # any regions, all with a share
                yield name, value, _TYPES[float]
        elif isinstance(schema[key], ConfigDict):
            if isinstance(value, Mapping):
                yield from _mistyped(value, schema[key], f"{name}.")
            else:
                yield name, value, "a group of settings"
        elif not (_is_a(value, schema.get_type(key)) or value is None and schema[key] is None):
            yield name, value, _TYPES[schema.get_type(key)]


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value of JSON or of a command line can stand for the type of a setting."""
    if kind is tuple:
        return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    return type(value) is kind or kind is float and type(value) is int


def check_continues(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError where `workdir` holds a run with other settings, or checkpoints without any."""
    if not (workdir / _FILE).exists():
        if (workdir / "checkpoints").exists():
            raise UserError(
                f"{workdir} holds checkpoints but not their settings ({_FILE} is missing), as an interrupted import "
                f"leaves it: delete that folder, or use another --workdir"
            )
        return
    old = read_json(workdir / _FILE, "configuration")
    if not isinstance(old, dict):
        raise UserError(f"{workdir / _FILE} is no configuration: delete that folder, or use another --workdir")
    # Data and head are known by what they are, wherever they lie (`check_description`).
    _check_same(old, config, workdir, free=("data", "head_checkpoint"))


def _check_same(old: Mapping[str, Any], config: ConfigDict, workdir: pathlib.Path, free: tuple[str, ...] = ()) -> None:
    """Raises UserError where settings differ on which the numbers of a run depend, but for those that are free."""
    old, new = flatten(old), flatten(config.to_dict())
    different = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(_FREE) and key not in (*_FREE_TRAIN, *free)
    ]
    if different:
        told, options = _difference(old, new, different)
        go_on = f"to go on with it, add {options}; otherwise " if options else ""
        raise UserError(
            f"{workdir} holds a run with other settings: {told}; {go_on}use another --workdir, or delete that one"
        )


def check_head(config: ConfigDict) -> None:
    """Raises UserError where a torso would render its head with other settings than the head was trained with."""
    file = pathlib.Path(config.head_checkpoint) / _FILE
    if not file.exists():
        return
    old, new = flatten(read_json(file, "configuration")), flatten(config.to_dict())
    different = [
        key
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key] and key.startswith(_OF_HEAD) and not key.endswith(".rematerialise")
    ]
    if different:
        told, options = _difference(old, new, different)
        raise UserError(
            f"the head in {config.head_checkpoint} was trained with other settings: {told}; "
            f"{f'add {options}' if options else 'use the same for the torso'}"
        )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], keys: list[str]) -> tuple[str, str]:
    """Which settings differ, in words, and the options that make them the old ones; '' where none can be written."""
    told = "; ".join(f"{key} (there {_told(old.get(key))}, here {_told(new.get(key))})" for key in keys[:3])
    # Lists and what one of the two lacks cannot be written as an option.
    plain = all(isinstance(old.get(key), (bool, int, float, str)) and str(old[key]).isprintable() for key in keys)
    options = " ".join(shlex.quote(f"--config.{key}={old.get(key)}") for key in keys) if plain else ""
    return told + (" …" if len(keys) > 3 else ""), options


def _told(value: Any) -> str:
    """A value on one line, shortened."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def describe(config: ConfigDict, data: str) -> dict[str, Any]:
    """What a checkpoint says of itself: settings, digest of the data, seed, and versions of what computed it."""
    return {
        "stage": config.stage,
        "family": config.family,
        "config": config.to_dict(),
        "data": data,
        "seed": config.seed,
        "versions": versions_of(_PACKAGES),
    }


def check_description(meta: Mapping[str, Any], config: ConfigDict, data: str, workdir: pathlib.Path) -> None:
    """Raises UserError where a checkpoint is of other settings or other data; says where versions are others.

    Args:
      meta: from `describe`, as stored; what is missing was not stored by an earlier version.
      config, data: of this run.
      workdir: for messages.
    """
    # Data and head are known by what they are, wherever they lie.
    _check_same(meta.get("config", config.to_dict()), config, workdir, free=("data", "head_checkpoint"))
    if meta.get("data", data) != data:
        raise UserError(
            f"the dataset {config.data} has changed since the checkpoints in {workdir} were written (digest "
            f"{meta['data'][:8]}… there, {data[:8]}… here): bring the old one back, or use another --workdir"
        )
    here = describe(config, data)["versions"]
    others = [f"{k} {v} ({here[k]} here)" for k, v in meta.get("versions", {}).items() if here.get(k, v) != v]
    if others:
        say(f"the checkpoint was written by {', '.join(others)}: results may differ in the last bits")


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
      UserError: another stage or family, or a value of another type.
    """
    if given.stage != saved.stage:
        raise UserError(f"{workdir} holds a {saved.stage} stage: use --config=configs/{saved.stage}.py")
    if given.variants and given.family != saved.family:
        raise UserError(f"{workdir} was trained in the {saved.family} family, --config asks for {given.family}")
    for key, value in overrides.items():
        *groups, name = key.split(".")
        for group in reversed(groups):
            name, value = group, {name: value}
        _check_types({name: value}, given, "config.")
    merged = ConfigDict(saved.to_dict())
    for part in ("compat", "render", "eval"):
        merged[part] = ConfigDict({**given[part].to_dict(), **merged.get(part, {})})
    if "compat.reference" in overrides:
        merged.compat.update(dict.fromkeys(merged.compat, overrides["compat.reference"]))
    merged.update_from_flattened_dict(dict(overrides))
    return merged.lock()
