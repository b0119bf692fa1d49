"""What the eyes do: blink by themselves, stay as told, follow a curve, or follow the video that the poses are from.

Openness is told as a fraction: 0 closed, 1 as open as the person mostly has them.
"""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flax import struct

from adnerf_jax.common.curves import read_curves
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS

# Of a lid in frames of 1/25 s: closing takes about 0.1 s, opening twice as long (VanderWerf et al. 2003).
_BLINK = (0.55, 0.1, 0.0, 0.15, 0.45, 0.75, 0.92)
# Seconds between blinks while talking: at least, and on average beyond that (about 17 a minute; Bentivoglio et al. 1997
# found 26 in conversation, 17 at rest).
_LEAST, _MORE = 1.0, 2.5
_WIDEST = 1.5  # the largest fraction that may be asked for
# Shut eyes measure at most so much of open ones: 0.1 of 0.3 (`face.landmarks.eye_openness`).
_SHUT = 1 / 3


@struct.dataclass
class EyeRange:
    """How far a person's eyes close and open.

    Attributes:
      closed, open: float64 [2], openness of the right and left eye.
    """

    closed: np.ndarray
    open: np.ndarray

    @classmethod
    def of(cls, openness: np.ndarray) -> "EyeRange":
        """The range of measured openness [N, 2]: the lowest hundredth, and the middle value."""
        return cls(np.quantile(openness, 0.01, axis=0), np.median(openness, axis=0))

    def openness(self, fraction: np.ndarray | float) -> np.ndarray:
        """Openness float32 [..., 2] of fractions [..., 2], or of one fraction for both eyes."""
        return (self.closed + np.asarray(fraction) * (self.open - self.closed)).astype(np.float32)

    def fraction(self, openness: np.ndarray) -> np.ndarray:
        """Fractions [..., 2] of openness [..., 2], within what may be asked for.

        Where nobody ever blinked, the lowest value is open too: the noise of open eyes must not become blinks.
        """
        closed = np.minimum(self.closed, _SHUT * self.open)
        return np.clip((openness - closed) / np.maximum(self.open - closed, 1e-6), 0.0, _WIDEST)


# Begins the openness of frame 0, 1, …: float32 [2], or None for that of the pose's own video.
EyeSource = Callable[[], Iterator[np.ndarray | None]]


def eye_source(given: Any, eyes: np.ndarray, seed: int = 0) -> EyeSource:
    """The source that a word, a number or a file names.

    Args:
      given: `blinks` (natural ones at random), `pose` (as in the video that the poses are from), a number (0 closed,
        1 open), or a curve named `eyes`, over seconds (`curves.read_curves`).
      eyes: [N, 2], the person's openness in training.
      seed: of the blinks.

    Raises:
      UserError: anything else.
    """
    own = EyeRange.of(eyes)
    if isinstance(given, (str, os.PathLike)):
        name = os.fspath(given)
        if name == "blinks":
            return lambda: (own.openness(fraction) for fraction in blinks(seed))
        if name == "pose":
            return lambda: itertools.repeat(None)
        try:
            given = float(name)
        except ValueError:
            if pathlib.Path(name).suffix.lower() not in (".json", ".csv") and "=" not in name:
                raise UserError(
                    f"there are no eyes {name!r}: take blinks, pose, a number, or a .json or .csv file"
                ) from None
    if np.ndim(given) == 0 and not isinstance(given, (str, os.PathLike, dict)):
        given = {"eyes": given}
    curves = read_curves(given, ("eyes",), "eyes")
    if "eyes" not in curves:
        raise UserError("eyes: the curve `eyes` is missing: 0 is closed, 1 open")
    curve = curves["eyes"]
    if not 0 <= curve.least <= curve.most <= _WIDEST:
        raise UserError(
            f"eyes from {curve.least:g} to {curve.most:g}: 0 is closed, 1 open, up to {_WIDEST:g} can be asked for"
        )
    return lambda: (own.openness(curve(i / FPS)) for i in itertools.count())


def blinks(seed: int) -> Iterator[float]:
    """Fractions of openness of frame 0, 1, …: random blinks, the time between them exponential beyond the least."""
    rng = np.random.default_rng([seed, 1])  # not the numbers that choose parts of the video
    while True:
        yield from itertools.repeat(1.0, round((_LEAST + rng.exponential(_MORE)) * FPS))
        yield from _BLINK
