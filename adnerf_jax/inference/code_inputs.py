"""The raw inputs of the driven condition codes of a render, frame by frame."""

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from adnerf_jax.models.codes.registry import driven_codes


def check_driven_names(given: Iterable[str], arguments: Iterable[str]) -> None:
    """Checks that each name is one of a driven code.

    Args:
      given: keyword arguments of a call that are none of its own.
      arguments: the call's own, which a misspelt name may have meant.

    Raises:
      TypeError: a name is unknown; the message has the nearest known one.
    """
    codes = driven_codes()
    for name in given:
        if name not in codes:
            near = difflib.get_close_matches(name, [*arguments, *codes], 1)
            raise TypeError(f"there is no argument {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))


class DrivenTracks:
    """The raw inputs of a person's driven codes (`models.codes.driven`).

    Args:
      given: arguments by the code's name; codes that are absent have their default.
      measured: [N, D] by name, the person's raw inputs in the training frames; codes that are absent are not driven.
      seed: of random inputs, such as blinks.

    Raises:
      UserError: the value of an argument is invalid.
    """

    def __init__(self, given: Mapping[str, Any], measured: Mapping[str, np.ndarray], seed: int):
        codes = {name: code for name, code in driven_codes().items() if name in measured}
        self._sources = {
            name: code.source(given.get(name, code.default), measured[name], seed) for name, code in codes.items()
        }
        self._neutral = {name: code.neutral_input(measured[name]) for name, code in codes.items()}

    def start(self) -> Iterator[dict[str, np.ndarray | None]]:
        """Starts an iterator over frames: a raw input [D] for each code, None for that of the poses' own video."""
        running = {name: source() for name, source in self._sources.items()}
        return ({name: next(values) for name, values in running.items()} for _ in itertools.count())

    def fill(
        self, values: Mapping[str, np.ndarray | None], recorded: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The raw inputs float32 [1, D] of a frame, for `Conditions.tracks`.

        Args:
          values: of the frame, from `start`.
          recorded: [D] by name, what was measured in the video that the frame's pose is from; the neutral input is
            taken for codes that are absent.
        """
        found = {
            name: recorded.get(name, self._neutral[name]) if value is None else value for name, value in values.items()
        }
        return {name: np.asarray(value, np.float32)[None] for name, value in found.items()}
