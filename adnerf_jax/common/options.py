"""Command lines of options, whose mistakes are told in one line: `Parser`."""

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from adnerf_jax.common.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises UserError; a misspelt option is named, rather than the one that is missing for it."""

    def parse_args(self, args: Sequence[str]) -> argparse.Namespace:
        known = [name for action in self._actions for name in action.option_strings]
        for word in args:
            name = word.partition("=")[0]
            # With a space in it, argparse takes a word for a value.
            if name.startswith("--") and " " not in name and not any(option.startswith(name) for option in known):
                near = difflib.get_close_matches(name, known, 1)
                self.error(f"there is no option {name}" + (f", did you mean {near[0]}?" if near else ""))
        return super().parse_args(args)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")
