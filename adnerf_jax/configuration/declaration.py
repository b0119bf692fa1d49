"""How a setting is declared: once, with its default, limits, description and source.

The configuration of a stage, the checks of values and types, the rules of resuming and `docs/configuration.md` are all
made from declarations (`adnerf_jax.configuration.settings`). Nothing here loads JAX: configuration files come first.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

from ml_collections import ConfigDict, config_dict

_TYPES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of names",
    dict: "a group of numbers",
}


class ByStage(NamedTuple):
    """A default that differs between the stages."""

    head: Any
    torso: Any


class Derived(NamedTuple):
    """A default that follows another setting until it is set itself.

    Attributes:
      setting: dotted name of the other one.
      divisor: the default is the other's value divided by it, rounded down; 1: the value itself.
    """

    setting: str
    divisor: int = 1


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
      default: value without variants; None: not set.
      about: one or two sentences that describe it.
      source: where the default comes from: a section of the paper, or the published code.
      range: least and most of a number.
      choices: the words that it, or each element of a list, may be; or a function that looks them up.
      resumable: whether it may change when a training is resumed: the steps done so far do not depend on it, or it is
        checked otherwise.
      shared_with_head: whether a torso must have the value that its head was trained with.
      kind: type of its value; by default that of `default`.
    """

    default: Any
    about: str
    source: str = ""
    _: dataclasses.KW_ONLY
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    resumable: bool = False
    shared_with_head: bool = False
    kind: type = NoneType

    def __post_init__(self) -> None:
        if self.kind is NoneType:
            object.__setattr__(self, "kind", type(self.default))

    def default_of(self, stage: str) -> Any:
        """The default in a stage."""
        return getattr(self.default, stage) if isinstance(self.default, ByStage) else self.default

    @property
    def type_in_words(self) -> str:
        """Type of its value, for messages."""
        return _TYPES[self.kind]

    def known_choices(self) -> tuple[str, ...]:
        """The choices; empty: anything of its type."""
        return self.choices() if callable(self.choices) else self.choices

    def accepts(self, value: Any) -> bool:
        """Whether a value of JSON or of a command line has its type."""
        if value is None:
            return self.default is None
        if self.kind is tuple:
            return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
        if self.kind is dict:
            return isinstance(value, Mapping) and all(is_number(one) for one in value.values())
        return is_number(value) if self.kind is float else type(value) is self.kind


# Settings by name; groups of them nest as in the configuration.
Group: TypeAlias = Mapping[str, "Setting | Group"]


def is_number(value: Any) -> bool:
    """Whether a value is a whole or a real number, and no truth value."""
    return type(value) in (int, float)


def resumable(group: Group) -> Group:
    """A group whose settings may all change when a training is resumed."""
    return _replace(group, resumable=True)


def shared_with_head(group: Group) -> Group:
    """A group whose settings a torso must have from its head."""
    return _replace(group, shared_with_head=True)


def _replace(group: Group, **changes: Any) -> Group:
    return {
        name: dataclasses.replace(one, **changes) if isinstance(one, Setting) else _replace(one, **changes)
        for name, one in group.items()
    }


def flat(group: Group, prefix: str = "") -> dict[str, Setting]:
    """The settings of a group and of those in it, by dotted name."""
    settings: dict[str, Setting] = {}
    for name, one in group.items():
        settings |= {prefix + name: one} if isinstance(one, Setting) else flat(one, f"{prefix}{name}.")
    return settings


def setting_at(name: str, settings: Mapping[str, Setting]) -> Setting | None:
    """The setting with a dotted name, or that has it as one of its numbers; None where there is none."""
    return settings.get(name) or settings.get(name.rpartition(".")[0])


def build(group: Group, stage: str) -> ConfigDict:
    """The configuration of a stage in which every setting has its default."""
    config = ConfigDict()
    derived = []
    for name, setting in flat(group).items():
        default = setting.default_of(stage)
        if isinstance(default, Derived):
            derived.append((name, default))
        elif default is None:
            _assign(config, name, config_dict.placeholder(setting.kind))
        else:
            _assign(config, name, ConfigDict(default) if setting.kind is dict else default)
    for name, (other, divisor) in derived:
        *groups, last = other.split(".")
        holder = config
        for part in groups:
            holder = holder[part]
        reference = holder.get_oneway_ref(last)
        _assign(config, name, reference if divisor == 1 else reference // divisor)
    return config


def _assign(config: ConfigDict, name: str, value: Any) -> None:
    """Sets a value by dotted name; groups are made as needed."""
    *groups, last = name.split(".")
    for group in groups:
        if group not in config:
            config[group] = ConfigDict()
        config = config[group]
    config[last] = value
