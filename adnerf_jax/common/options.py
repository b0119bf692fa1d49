"""Parsing of command lines, with one-line messages about mistakes and `~` for the home folder: `Parser`."""

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import given_path


class Parser(argparse.ArgumentParser):
    """Raises UserError; it names a misspelt option rather than the required one that is missing because of it."""

    def parse_args(self, args: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]  # one of its overloads
        known = [name for action in self._actions for name in action.option_strings]
        for word in args:
            name = word.partition("=")[0]
            # With a space in it, argparse takes a word for a value.
            if name.startswith("--") and " " not in name and not any(option.startswith(name) for option in known):
                near = difflib.get_close_matches(name, known, 1)
                self.error(f"there is no option {name}" + (f", did you mean {near[0]}?" if near else ""))
        options = super().parse_args(args)
        for name, value in vars(options).items():
            if isinstance(value, str):
                setattr(options, name, given_path(value))
            elif isinstance(value, list):
                setattr(options, name, [given_path(one) if isinstance(one, str) else one for one in value])
        return options

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")
