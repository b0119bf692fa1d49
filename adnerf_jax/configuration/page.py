"""The page of all settings, `docs/configuration.md`: Markdown made from the declarations."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from adnerf_jax.configuration import base, quickstart, variants
from adnerf_jax.configuration.declaration import Setting, flat
from adnerf_jax.configuration.settings import FAMILIES, STAGES, declarations
from adnerf_jax.configuration.settings.model import MODEL
from adnerf_jax.configuration.settings.quickstart import QUICKSTART

_OPENING = """# Configuration

*This page is the output of `python -m adnerf_jax.configuration`: after a change, write it again with
`python -m adnerf_jax.configuration > docs/configuration.md`.*

Every setting can be given on the command line by its dotted name:

```
python run.py --config=configs/head.py:fast --config.train.steps=3000
```

Without a variant a stage has the values in the column `paper`, AD-NeRF as published; an empty cell means that a setting
is not set. Where the name of another setting stands, its value is taken until the setting is given itself. The column
"resume" says which settings may change when a training is resumed in its workdir; a change of any other is refused.

A setting is added by its declaration in `adnerf_jax/configuration/settings/`, from which this page, the checks and the
rules of resuming are made.
"""
_GROUPS = {
    "": "The run",
    "compat": "`compat`: mistakes of the published code",
    "optim": "`optim`: optimisation",
    "train": "`train`: training",
    "render": "`render`: rendering (`--mode=render`)",
    "eval": "`eval`: evaluation (`--mode=eval`)",
    "compare": "`compare`: comparison (`--mode=compare`)",
    "reference": "`reference`: checkpoints of the published code (`--mode=import`)",
}


def page() -> str:
    """The page."""
    return "\n".join([_OPENING, *_variants(), *_groups(), *_models(), *_quickstart()])


def _variants() -> Iterator[str]:
    times = (inspect.getdoc(variants) or "").split("\n\n")[1]
    yield "## Variants\n"
    yield f"They stand after the colon of `--config`, separated by commas. {' '.join(times.split())}\n"
    for name, change in base.VARIANTS.items():
        yield f"- `{name}`: {' '.join((inspect.getdoc(change) or '').split())}"
    yield ""


def _groups() -> Iterator[str]:
    every = flat(declarations("torso", "paper"))
    for group, title in _GROUPS.items():
        settings = {name: one for name, one in every.items() if name.rpartition(".")[0] == group}
        columns = {}
        for family in FAMILIES:
            both = [_values(stage, family, settings) for stage in STAGES]
            columns[family] = {name: _of_stages([values[name] for values in both]) for name in settings}
        yield from _table(title, settings, columns)


def _models() -> Iterator[str]:
    for family in FAMILIES:
        for part, group in MODEL[family].items():
            settings = flat(group, f"model.{part}.")
            shared = [name for name, one in settings.items() if one.shared_with_head]
            others = ", ".join(f"`{name}`" for name in settings if name not in shared)
            remark = "A torso must have these settings from its head" + (f", but for {others}." if others else ".")
            columns = {"default": _values("torso", family, settings)}
            yield from _table(f"`model.{part}` of `{family}`", settings, columns, remark if shared else "")


def _quickstart() -> Iterator[str]:
    settings = flat(QUICKSTART)
    columns = {
        title: {name: _shown(_find(quickstart.get_config(arg), name)) for name in settings}
        for title, arg in (("default", None), ("smoke", "smoke"))
    }
    remark = "Beside these, the groups `head` and `torso` hold the settings of both stages, in the variant `fast`."
    yield from _table("The quickstart", settings, columns, remark, resume=False)


def _table(
    title: str,
    settings: dict[str, Setting],
    columns: dict[str, dict[str, str]],
    remark: str = "",
    resume: bool = True,
) -> Iterator[str]:
    """A table with a column for each of `columns`, which have the settings' values by name."""
    heads = ["setting", *columns, "range or choices", *["resume"] * resume, "description", "source"]
    yield f"## {title}\n"
    if remark:
        yield f"{remark}\n"
    yield _row(heads)
    yield "|" + "---|" * len(heads)
    for name, setting in settings.items():
        values = [by_name[name] for by_name in columns.values()]
        may_change = ["may change" if setting.resumable else ""] * resume
        yield _row([f"`{name}`", *values, _allowed(setting), *may_change, setting.about, setting.source])
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _of_stages(values: list[str]) -> str:
    if len(set(values)) == 1:
        return values[0]
    return "; ".join(f"{value} ({stage})" for stage, value in zip(STAGES, values, strict=True))


def _values(stage: str, family: str, settings: dict[str, Setting]) -> dict[str, str]:
    """The value of each setting in a stage's configuration, or the other setting that it follows."""

    def make() -> ConfigDict:
        return base.get_config(stage, "" if family == "paper" else family)

    config, probe = make(), make()
    probe.train.steps, probe.compat.reference = 2 * config.train.steps, True
    shown = {}
    for name in settings:
        value, moved = _find(config, name), _find(probe, name)
        if value == moved or name in ("train.steps", "compat.reference"):
            shown[name] = _shown(value)
        elif isinstance(value, bool):
            shown[name] = "`compat.reference`"
        else:
            divisor = config.train.steps // value
            shown[name] = "`train.steps`" + (f" / {divisor}" if divisor > 1 else "")
    return shown


def _find(config: ConfigDict, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, ConfigDict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(value)
    return str(value)


def _allowed(setting: Setting) -> str:
    if setting.range is not None:
        least, most = setting.range
        return f"{_number(least)} … {_number(most)}"
    return ", ".join(setting.known_choices()) or setting.type_in_words


def _number(value: float) -> str:
    """A limit as a power where it is a large one: 2^24, 2^31 - 1, 10^6."""
    writings: list[tuple[str, Callable[[int], int]]] = [
        ("2^{}", lambda exponent: 2**exponent),
        ("2^{} - 1", lambda exponent: 2**exponent - 1),
        ("10^{}", lambda exponent: 10**exponent),
    ]
    for writing, power in writings:
        for exponent in range(64):
            if value >= 10**4 and power(exponent) == value:
                return writing.format(exponent)
    return str(value)
