"""Errors that commands report on one line, without a traceback (`progress.exit_status`)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Option(NamedTuple):
    """A setting or an argument that a message tells the user to change.

    The library's messages contain the option itself. Each command prints it as its own flag; in Python it is a name.

    Attributes:
      name: name of a setting, dotted (`render.clamp`), or of an argument (`workdir`).
      value: to set it to; None: the message explains it.
    """

    name: str
    value: Any = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


def as_flag(option: Option) -> str:
    """An option as a flag of a command that has one for each: `--name=value`."""
    return f"--{option}"


def as_argument(option: Option) -> str:
    """An option as a program reads it: a keyword argument of `Avatar.render`, or the name of a setting."""
    return str(option).removeprefix("render.")


def join_message(parts: tuple[Any, ...], word: Callable[[Option], str] = as_argument) -> str:
    """One line of a message's parts; `word` gives the text of an option."""
    return "".join(word(part) if isinstance(part, Option) else str(part) for part in parts)


def join_options(options: Sequence[Option], separator: str = " ") -> list[str | Option]:
    """Options with a separator between them, as parts of a message."""
    return [part for option in options for part in (separator, option)][1:]


class UserError(Exception):
    """Bad input or a missing file. The message says what is wrong and what to do, in one line.

    Entry points (`run.py`, `python -m preprocessing`) print it and exit with status 2.

    Args:
      parts: the message in parts: text and `Option`s.
    """

    def __init__(self, *parts: "str | Option"):
        super().__init__(*parts)

    def __str__(self) -> str:
        return join_message(self.args)


class Preempted(Exception):
    """The process received SIGTERM. The work is saved; the same command continues it.

    Entry points print the message and exit with status 75.
    """


class NotFinite(Exception):
    """A training step computed something that is not a finite number.

    Args:
      step: number of the step, counted from 1.
      terms: names of the metrics that are not finite.
    """

    def __init__(self, step: int, terms: list[str]):
        super().__init__(f"step {step}: {', '.join(terms)} not finite")
        self.step, self.terms = step, terms
