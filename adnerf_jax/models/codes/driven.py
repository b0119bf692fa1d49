"""Codes whose raw input a renderer chooses: a word, a number, a curve, or the video that the head poses are from."""

import abc
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from adnerf_jax.common.curves import read_curves
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.models.codes.base import Code

# Starts an iterator over the raw input of frame 0, 1, …: float32 [D], or None where it is the one that was measured in
# the video that the head poses are from.
TrackSource = Callable[[], Iterator[np.ndarray | None]]


class DrivenCode(Code):
    """A condition code with an argument of its own in `Avatar.render`, and a setting `render.<name>`.

    Users drive it by `controls`: a few numbers that mean the same for everybody (0: closed, 1: open), which `control`
    maps to the range that was measured of a person.

    Attributes:
      default: of the argument.
      controls: names of the K numbers.
      limits: least and most of each.
      meaning: of these numbers, for messages.
      neutral: float [K], where nothing drives the code.
    """

    default: ClassVar[Any] = "pose"
    controls: ClassVar[tuple[str, ...]]
    limits: ClassVar[tuple[float, float]]
    meaning: ClassVar[str]
    neutral: ClassVar[tuple[float, ...]]

    @classmethod
    @abc.abstractmethod
    def control(cls, measured: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
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
          landmarks: of the N frames of the video.
          measured: as for `control`.

        Returns:
          None: it is not taken from videos.
        """
        del landmarks, measured
        return None

    @classmethod
    def neutral_input(cls, measured: np.ndarray) -> np.ndarray:
        """The raw input [D] of a frame for which there is no other."""
        return cls.control(measured)(np.array(cls.neutral))

    @classmethod
    def source(cls, given: Any, measured: np.ndarray, seed: int = 0) -> TrackSource:
        """The source that a word, a number or a file names.

        Args:
          given: one of `words`, `pose` (as in the video that the head poses are from), a number, or curves named as the
            controls, over seconds (`common.curves.read_curves`).
          measured: as for `control`.
          seed: of what is random.

        Raises:
          UserError: anything else.
        """
        words = {**cls.words(measured, seed), "pose": lambda: itertools.repeat(None)}
        if isinstance(given, (str, os.PathLike)):
            text = os.fspath(given)
            if text in words:
                return words[text]
            try:
                given = float(text)
            except ValueError:
                if pathlib.Path(text).suffix.lower() not in (".json", ".csv") and "=" not in text:
                    raise UserError(
                        f"there are no {cls.name} {text!r}: take {', '.join(words)}, a number, or a .json or .csv file"
                    ) from None
        if np.ndim(given) == 0 and not isinstance(given, (str, os.PathLike, dict)):
            given = dict.fromkeys(cls.controls, given)
        curves = read_curves(given, cls.controls, cls.name)
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
        control_person = cls.control(measured)
        return lambda: (
            control_person(np.array([curves[control](i / FPS) for control in cls.controls])) for i in itertools.count()
        )
