"""Codes whose raw input a renderer chooses: a word, a number, a curve, or the video that the head poses are from."""

import abc
import itertools
import numbers
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from adnerf_jax.common.curves import Curve, read_curves
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.models.codes.base import Code

# Starts an iterator over the raw input of frame 0, 1, …: float32 [D], or None where it is the one that was measured in
# the video that the head poses are from.
TrackSource = Callable[[], Iterator[np.ndarray | None]]


class DrivenCode(Code):
    """A condition code with an argument of its own in `Avatar.render`, and a setting `render.<name>`.

    Users drive it by `controls`: a few numbers that mean the same for everybody (0: closed, 1: open), which
    `control_map` maps to the range that was measured of a person.

    Attributes:
      default: default of the argument.
      controls: names of the K numbers.
      limits: least and most of each.
      meaning: what the numbers mean, for messages.
      neutral: float [K], the values where nothing drives the code.
    """

    default: ClassVar[Any] = "pose"
    controls: ClassVar[tuple[str, ...]]
    limits: ClassVar[tuple[float, float]]
    meaning: ClassVar[str]
    neutral: ClassVar[tuple[float, ...]]

    @classmethod
    @abc.abstractmethod
    def control_map(cls, measured: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The function from controls [K] to raw input float32 [D], for a person.

        Args:
          measured: [N, D], the person's raw input in the training frames.
        """

    @classmethod
    def words(cls, measured: np.ndarray, seed: int) -> dict[str, TrackSource]:
        """Further sources by the word that names them."""
        del measured, seed
        return {}

    @classmethod
    def retarget(cls, landmarks: Landmarks, measured: np.ndarray) -> np.ndarray | None:
        """What a video of somebody else shows, as raw input [N, D] in this person's range.

        Args:
          landmarks: landmarks in the N frames of the video.
          measured: as for `control_map`.

        Returns:
          None: the code is not taken from videos.
        """
        del landmarks, measured
        return None

    @classmethod
    def neutral_input(cls, measured: np.ndarray) -> np.ndarray:
        """The raw input [D] of a frame that no source gives one for."""
        return cls.control_map(measured)(np.array(cls.neutral))

    @classmethod
    def source(cls, given: Any, measured: np.ndarray, seed: int = 0) -> TrackSource:
        """The source that a word, a number or a file names.

        Args:
          given: one of `words`, `pose` (as in the video that the head poses are from), a number, or curves named as the
            controls, over seconds (`common.curves.read_curves`).
          measured: as for `control_map`.
          seed: seed of random sources.

        Raises:
          UserError: anything else.
        """
        words = {**cls.words(measured, seed), "pose": lambda: itertools.repeat(None)}
        if isinstance(given, (str, os.PathLike)):
            text = os.fspath(given)
            if text in words:
                return words[text]
            given = _number_or_text(text)
            if given == text and not _names_curves(text):
                raise UserError(
                    f"{cls.name}: there is no {text!r}; take {', '.join(words)}, a number, or a .json or .csv file"
                )
        if _is_number(given):
            given = dict.fromkeys(cls.controls, float(given))
        curves = read_curves(given, cls.controls, cls.name)
        cls._check_limits(curves)
        to_raw_input = cls.control_map(measured)
        return lambda: (
            to_raw_input(np.array([curves[control](i / FPS) for control in cls.controls])) for i in itertools.count()
        )

    @classmethod
    def _check_limits(cls, curves: Mapping[str, Curve]) -> None:
        """Raises UserError where a control has no curve, or one that leaves the limits."""
        low, high = cls.limits
        for control in cls.controls:
            if control not in curves:
                raise UserError(f"{cls.name}: the curve `{control}` is missing: {cls.meaning}")
            curve = curves[control]
            if not low <= curve.least <= curve.most <= high:
                raise UserError(
                    f"{control} from {curve.least:g} to {curve.most:g}: {cls.meaning}; the limits are {low:g} and "
                    f"{high:g}"
                )


def _is_number(given: object) -> bool:
    """Whether a value is a number, or a numpy or JAX array of no dimension that holds one."""
    if isinstance(given, (np.ndarray, jax.Array)):
        return given.ndim == 0 and jax.dtypes.issubdtype(given.dtype, np.number)
    return isinstance(given, numbers.Real)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _names_curves(text: str) -> bool:
    """Whether a text is a file of curves, or values as `name=number`."""
    return pathlib.Path(text).suffix.lower() in (".json", ".csv") or "=" in text
