"""Key-framed curves: numbers, strings, JSON or CSV files to values of named quantities at any time."""

import csv
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json
from adnerf_jax.common.timing import FPS


class Curve:
    """A value over time: monotone between its keys, so that it never overshoots, and constant outside of them.

    Args:
      times: [K] seconds, increasing.
      values: [K].

    Attributes:
      least, most: the range of the values.
    """

    def __init__(self, times: np.ndarray, values: np.ndarray):
        self._times, self._values = times, values
        self.least, self.most = float(values.min()), float(values.max())
        self._between = PchipInterpolator(times, values) if len(times) > 1 else None

    def __call__(self, seconds: float) -> float:
        """The value at a time."""
        if self._between is None:
            return float(self._values[0])
        return float(self._between(np.clip(seconds, self._times[0], self._times[-1])))


def read_curves(given: Any, names: Sequence[str], what: str) -> dict[str, Curve]:
    """Curves of named quantities.

    Args:
      given: a mapping of names to a number or to keys [[seconds, value], …]; text `yaw=10,pitch=-5`; a `.json` file of
        such a mapping; a `.csv` file with a column for each name and, if not a row a frame, a column `time` or `frame`.
      names: the known quantities.
      what: the curves' role, for messages ("offset").

    Raises:
      UserError: another name, a file that cannot be read, times that do not increase, or values that are not finite.
    """
    if isinstance(given, (str, os.PathLike)):
        suffix = pathlib.Path(given).suffix.lower()
        if suffix == ".json":
            given = read_json(given, what)
        elif suffix == ".csv":
            given = _columns(pathlib.Path(given), what)
        else:
            given = _pairs(str(given), what)
    if not isinstance(given, Mapping):
        raise UserError(f"{what}: expected values or keys of {', '.join(names)}, not {repr(given)[:60]}")
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UserError(f"{what}: there is no {unknown[0]!r}; there are {', '.join(names)}")
    return {name: _curve(keys, f"{what}: {name}") for name, keys in given.items()}


def _curve(keys: Any, what: str) -> Curve:
    try:
        array = np.array([[0.0, keys]] if np.ndim(keys) == 0 else keys, np.float64)
    except (ValueError, TypeError):
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[1:] != (2,) or not len(array):
        raise UserError(f"{what} must be a number or keys [[seconds, value], ...]")
    if not np.isfinite(array).all():
        raise UserError(f"{what} holds a number that is not finite")
    if (np.diff(array[:, 0]) <= 0).any():
        raise UserError(f"{what}: the times of its keys must increase")
    return Curve(array[:, 0], array[:, 1])


def _pairs(text: str, what: str) -> dict[str, float]:
    """`yaw=10,pitch=-5` to numbers."""
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            pairs[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"{what} {text!r}: expected name=number, ..., or a .json or .csv file")
    return pairs


def _columns(path: pathlib.Path, what: str) -> dict[str, np.ndarray]:
    """The columns of a table as keys [K, 2]."""
    header, rows = read_table(path, what)
    times = np.arange(len(rows)) / FPS
    if "time" in header:
        times = rows[:, header.index("time")]
    elif "frame" in header:
        times = rows[:, header.index("frame")] / FPS
    return {
        name: np.stack([times, rows[:, k]], axis=1) for k, name in enumerate(header) if name not in ("time", "frame")
    }


def read_table(path: str | os.PathLike, what: str) -> tuple[list[str], np.ndarray]:
    """The header and the numbers [N, K] of a CSV file.

    Raises:
      UserError: no such file, no table of numbers, or numbers that are not finite.
    """
    try:
        lines = list(csv.reader(io.StringIO(pathlib.Path(path).read_text(encoding="utf-8-sig"))))
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{what} {path} is not a CSV file") from None
    lines = [line for line in lines if line]
    header = [name.strip() for name in lines[0]] if lines else []
    if len(lines) < 2 or any(len(line) != len(header) for line in lines):
        raise UserError(f"{what} {path}: expected a line of names, then lines with the same number of values")
    if all(map(_is_number, header)):
        raise UserError(f"{what} {path}: its first line must be names, not numbers")
    try:
        rows = np.array(lines[1:], np.float64)
    except ValueError:
        raise UserError(f"{what} {path} holds something that is not a number") from None
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise UserError(f"{what} {path}: line {row + 2} holds a number that is not finite")
    return header, rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
