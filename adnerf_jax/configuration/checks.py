"""Whether a configuration can be used: types and names, ranges and choices, and rules that tie settings together.

`check_settings` is called before training, `check_model` before a model is loaded, `saved_config` when a file is read.
Nothing here loads JAX before a value is compared with choices that a room registers.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.configuration.declaration import Group, Setting, flat, is_number
from adnerf_jax.configuration.flatten import flatten
from adnerf_jax.configuration.settings import FAMILIES, RUN, STAGES, declarations, declarations_of

_LONGEST = 80  # characters of a value in a message


def check_settings(config: ConfigDict) -> None:
    """Raises UserError for settings with which a stage cannot be trained."""
    check_model(config)
    check_values(config)
    shares = dict(config.train.regions)
    if min(shares.values(), default=0) < 0 or not 0 < sum(shares.values()) < math.inf:
        raise UserError(f"config.train.regions is {shares}: shares must be finite, not negative, and not all 0")
    if config.train.rays < config.train.frames_per_step:
        raise UserError(
            f"{config.train.rays} rays a step are too few for {config.train.frames_per_step} frames: raise "
            f"config.train.rays or lower config.train.frames_per_step"
        )


def check_model(config: ConfigDict) -> None:
    """Raises UserError for settings of a stage with which no model can be made or rendered."""
    _check(config, flat(RUN))
    if config.stage not in config.model:
        raise UserError(f"config.stage is {config.stage!r}, which has no model here: use configs/{config.stage}.py")
    settings = flat(declarations_of(config))
    for part in config.model:
        field = settings[f"model.{part}.field"].default
        if config.model[part].field != field:
            raise UserError(
                f"config.model.{part}.field is {config.model[part].field!r}, but the family {config.family} has "
                f"{field!r}: choose the family by its variant: with or without fast"
            )
    check_values(config, "model", "render")
    head = config.model.head
    if "shape_codes" in head:
        _check_names("model.head.shape_codes", head.shape_codes, head.codes)


def check_values(config: ConfigDict, *names: str) -> None:
    """Raises UserError for the first setting that is out of its range or none of its choices.

    Args:
      config: configuration of a stage, or of the quickstart.
      names: dotted names of settings, or of groups of them; none: all.
    """
    settings = flat(declarations_of(config))
    if names:
        groups = tuple(f"{name}." for name in names)
        settings = {name: one for name, one in settings.items() if name in names or name.startswith(groups)}
    _check(config, settings)


def _check(config: ConfigDict, settings: Mapping[str, Setting]) -> None:
    values = flatten(config.to_dict())
    for name, setting in settings.items():
        value = values.get(name)
        if value is None:
            continue
        if setting.range is not None:
            least, most = setting.range
            # Written so that nan is refused.
            if not value >= least:
                raise UserError(f"config.{name} is {value}: it must be at least {least}")
            if not value <= most:
                raise UserError(f"config.{name} is {value}: it must be at most {most}")
        choices = setting.known_choices()
        if choices and setting.kind is tuple:
            _check_names(name, value, choices)
        elif choices and value not in choices:
            *others, last = choices
            either = f"{', '.join(others)} or {last}" if others else last
            raise UserError(f"config.{name} is {value!r}: it must be {either}")


def _check_names(name: str, values: Sequence[Any], known: Sequence[str]) -> None:
    words = [value for value in values if isinstance(value, str)]
    if not values or len(set(words)) < len(values) or not set(words) <= set(known):
        raise UserError(f"config.{name} is {tuple(values)}: name one or more of {', '.join(known)}, each once")


def check_types(values: Mapping[str, Any], declared: Group, where: str) -> None:
    """Raises UserError for the first value of another type than its setting has.

    Args:
      values: nested like `declared`; names that are not declared are passed over.
      declared: the settings.
      where: how the message begins.
    """
    for name, value, wanted in _mistyped(values, declared):
        raise UserError(f"{where}{one_line(name)} is {one_line(repr(value))}, but it must be {wanted}: correct it")


def _mistyped(values: Mapping[str, Any], declared: Group, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted name, value, and what it must be, in words."""
    for key, value in values.items():
        name, setting = f"{prefix}{key}", declared.get(key)
        if isinstance(setting, Setting):
            if setting.kind is dict and isinstance(value, Mapping):
                wrong = ((one, number) for one, number in value.items() if not is_number(number))
                yield from ((f"{name}.{one}", number, "a number") for one, number in wrong)
            elif not setting.accepts(value):
                yield name, value, setting.type_in_words
        elif setting is not None:
            if isinstance(value, Mapping):
                yield from _mistyped(value, setting, f"{name}.")
            else:
                yield name, value, "a group of settings"


def saved_config(saved: Any, path: Any, remedy: Sequence[str | Option]) -> ConfigDict:
    """A stage's configuration as it was saved, with the defaults of resumable settings that are newer than the file.

    Args:
      saved: the content, as read from JSON.
      path: the file, for messages.
      remedy: the end of a message, which says what to do.

    Raises:
      UserError: the content is no stage's configuration: a setting that its training depends on is missing, or one is
        unknown or of another type.
    """
    if not isinstance(saved, dict) or saved.get("stage") not in STAGES or saved.get("family") not in FAMILIES:
        raise UserError(f"{path} is no configuration of a stage: ", *remedy)
    declared = declarations(saved["stage"], saved["family"])
    check_types(saved, declared, f"{path}: ")
    present, wanted = set(_names(saved, declared)), flat(declared)
    absent = {name: setting for name, setting in wanted.items() if name not in present}
    for name, setting in absent.items():
        if not setting.resumable or "." not in name or name == "train.steps":
            raise UserError(f"{path} lacks {name}: it is damaged, or another version's; ", *remedy)
    for name in sorted(present - wanted.keys()):
        problem = f"{path} has {one_line(name)}, which is no setting: it is damaged, or another version's; "
        raise UserError(problem, *remedy)
    completed = copy.deepcopy(saved)
    for name, setting in absent.items():
        *groups, last = name.split(".")
        at = completed
        for group in groups:
            at = at.setdefault(group, {})
        at[last] = setting.default_of(saved["stage"])
    try:
        return ConfigDict(completed)
    except ValueError as error:  # a name with a dot, of a region for example
        raise UserError(f"{path} is no configuration of a stage ({one_line(error)}): ", *remedy) from None


def _names(values: Mapping[str, Any], declared: Group, prefix: str = "") -> Iterator[str]:
    """Dotted names of the values, a group that is declared as one setting being one."""
    for key, value in values.items():
        inner = declared.get(key)
        if isinstance(value, Mapping) and not isinstance(inner, Setting):
            yield from _names(value, inner or {}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def one_line(value: Any) -> str:
    """A value on one line, shortened."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}…"
