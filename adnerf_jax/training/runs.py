"""Folders of runs: their names, the configuration saved in them, and whether a run can be resumed there."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError, join_options
from adnerf_jax.common.files import read_json, write_json
from adnerf_jax.common.own_folders import check_no_links
from adnerf_jax.common.progress import say
from adnerf_jax.common.versions import versions_of
from adnerf_jax.configuration.checks import check_types, one_line, saved_config
from adnerf_jax.configuration.declaration import Setting, flat, setting_at
from adnerf_jax.configuration.flatten import flatten
from adnerf_jax.configuration.settings import STAGES, declarations_of

_FILE = "config.json"
_TRAIN_AGAIN = ("bring it back, or train again",)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def run_folder(variants: tuple[str, ...]) -> pathlib.Path:
    """`runs/<variants joined by _>`, `runs/paper` without variants: the default home of dataset, head and torso."""
    return pathlib.Path("runs") / ("_".join(variants) or "paper")


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the resolved configuration to `workdir/config.json`."""
    write_json(workdir / _FILE, config.to_dict())


def load_config(workdir: str | pathlib.Path, remedy: Sequence[str | Option] = _TRAIN_AGAIN) -> ConfigDict:
    """The configuration that a stage was trained with.

    Args:
      workdir: the stage's folder.
      remedy: the end of a message about a file that cannot be used; by default, to bring it back or to train again.

    Raises:
      UserError: `workdir` is not the folder of a stage, or its settings are not those of this version.
    """
    path = pathlib.Path(workdir) / _FILE
    if not path.exists():
        stages = [path.parent / stage for stage in STAGES if (path.parent / stage / _FILE).exists()]
        problem = f"{workdir} is not the folder of a trained stage ({_FILE} is missing): "
        if stages:
            raise UserError(problem, "use ", *join_options([Option("workdir", str(stage)) for stage in stages], " or "))
        raise UserError(problem, "check ", Option("workdir"))
    saved = saved_config(read_json(path, "configuration"), path, remedy)
    saved.render.out = None  # a workdir may be somebody else's: only the command line says where files are written
    return saved.lock()


def check_continues(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError where `workdir` holds a run with other settings, checkpoints without any, or links."""
    checkpoints = workdir / "checkpoints"
    kept = checkpoints.iterdir() if checkpoints.is_dir() else ()
    check_no_links(checkpoints, workdir / "damaged", workdir / "validation", *kept)
    if (workdir / _FILE).exists():
        _check_same(load_config(workdir, _elsewhere(workdir)), config, workdir)
    elif checkpoints.exists():
        raise UserError(
            f"{workdir} holds checkpoints but not their settings ({_FILE} is missing), as an interrupted import "
            f"leaves it: delete that folder, or use another ",
            Option("workdir"),
        )


def _elsewhere(workdir: pathlib.Path) -> tuple[str | Option, ...]:
    """The end of a message about a workdir whose run cannot be resumed."""
    return f"delete {workdir}, or use another ", Option("workdir")


def _check_same(old: ConfigDict, new: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError where settings differ that may not change when a run is resumed."""
    different = _different(old, new, lambda setting: not setting.resumable)
    if different:
        options = _options(old, different)
        raise UserError(
            f"{workdir} holds a run with other settings: {_difference(old, new, different)}; ",
            *(("to resume it, add ", *options, "; otherwise ") if options else ()),
            "use another ",
            Option("workdir"),
            ", or delete that one",
        )


def check_head(config: ConfigDict) -> None:
    """Raises UserError where a torso would render its head with other settings than the head was trained with."""
    if not (pathlib.Path(config.head_checkpoint) / _FILE).exists():
        return
    head = load_config(config.head_checkpoint)
    both = flatten(head.to_dict()).keys() & flatten(config.to_dict()).keys()
    different = [name for name in _different(head, config, lambda setting: setting.shared_with_head) if name in both]
    if different:
        options = _options(head, different)
        raise UserError(
            f"the head in {config.head_checkpoint} was trained with other settings: "
            f"{_difference(head, config, different)}; ",
            *(("add ", *options) if options else ("use the same for the torso",)),
        )


def _different(old: ConfigDict, new: ConfigDict, matters: Callable[[Setting], bool]) -> list[str]:
    """Dotted names of the values that differ between two configurations and belong to settings that matter."""
    settings = flat(declarations_of(old)) | flat(declarations_of(new))
    before, now = flatten(old.to_dict()), flatten(new.to_dict())
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return [name for name in changed if (setting := setting_at(name, settings)) is None or matters(setting)]


def _difference(old: ConfigDict, new: ConfigDict, names: list[str]) -> str:
    """The values that differ, in words."""
    before, now = flatten(old.to_dict()), flatten(new.to_dict())
    shown = [f"{name} (there {one_line(before.get(name))}, here {one_line(now.get(name))})" for name in names[:3]]
    return "; ".join(shown) + (" …" if len(names) > 3 else "")


def _options(old: ConfigDict, names: list[str]) -> list[Option | str]:
    """The options that give settings their old values; empty where one cannot be written as an option."""
    values = flatten(old.to_dict())
    # Not lists, nor what the old configuration lacks.
    if not all(isinstance(values.get(name), (bool, int, float, str)) for name in names):
        return []
    if not all(str(values[name]).isprintable() for name in names):
        return []
    return join_options([Option(name, values[name]) for name in names])


def checkpoint_metadata(config: ConfigDict, data: str) -> dict[str, Any]:
    """What is stored with a checkpoint: settings, digest of the data, seed, and versions of what computed it."""
    return {
        "stage": config.stage,
        "family": config.family,
        "config": config.to_dict(),
        "data": data,
        "seed": config.seed,
        "versions": versions_of(_PACKAGES),
    }


def check_metadata(metadata: Mapping[str, Any], config: ConfigDict, data: str, workdir: pathlib.Path) -> None:
    """Checks that a checkpoint is of this run's settings and data; warns where package versions differ.

    Args:
      metadata: the checkpoint's metadata, from `checkpoint_metadata`.
      config, data: this run's configuration and the digest of its data.
      workdir: for messages.

    Raises:
      UserError: other settings or other data, or metadata that is incomplete.
    """
    versions = metadata.get("versions")
    if not isinstance(metadata.get("data"), str) or not isinstance(versions, Mapping):
        raise UserError(f"the checkpoint in {workdir} lacks its metadata: it is damaged; delete it, or train again")
    saved = metadata.get("config")
    _check_same(saved_config(saved, f"the checkpoint in {workdir}", _elsewhere(workdir)), config, workdir)
    if metadata["data"] != data:
        raise UserError(
            f"the dataset {config.data} has changed since the checkpoints in {workdir} were written (digest "
            f"{metadata['data'][:8]}… there, {data[:8]}… here): restore the old one, or use another ",
            Option("workdir"),
        )
    here = versions_of(_PACKAGES)
    others = [f"{k} {v} ({here[k]} here)" for k, v in versions.items() if here.get(k, v) != v]
    if others:
        say(f"the checkpoint was written by {', '.join(others)}: results may differ in the last bits")


def check_empty(workdir: pathlib.Path) -> None:
    """Raises UserError where a stage's folder is in use already."""
    if (workdir / _FILE).exists() or (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} holds a run already: use another ", Option("workdir"), ", or delete that folder")


def apply_overrides(
    saved: ConfigDict, given: ConfigDict, overrides: Mapping[str, Any], workdir: str | pathlib.Path
) -> ConfigDict:
    """A saved configuration with the values that the command line sets.

    Args:
      saved: from `load_config`.
      given: what `--config` names; only its stage and, where it has variants, its family are compared.
      overrides: dotted names and values.
      workdir: for messages.

    Raises:
      UserError: another stage or family, an unknown name, or a value of another type.
    """
    if given.stage != saved.stage:
        raise UserError(f"{workdir} holds a {saved.stage} stage: use ", Option("config", f"configs/{saved.stage}.py"))
    if given.variants and given.family != saved.family:
        raise UserError(
            f"{workdir} was trained in the {saved.family} family, but the configuration given is of the family "
            f"{given.family}: leave its variants out"
        )
    declared = declarations_of(saved)
    for key, value in overrides.items():
        *groups, name = key.split(".")
        for group in reversed(groups):
            name, value = group, {name: value}
        check_types({name: value}, declared, "config.")
        if setting_at(key, flat(declared)) is None:
            raise UserError(f"config.{key} is no setting of the run in {workdir}, a {saved.stage} of {saved.family}")
    merged = ConfigDict(saved.to_dict())
    if "compat.reference" in overrides:
        merged.compat.update(dict.fromkeys(merged.compat, overrides["compat.reference"]))
    merged.update_from_flattened_dict(dict(overrides))
    return merged.lock()
