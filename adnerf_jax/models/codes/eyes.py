"""The eyes code: how far the eyes are open, and what the eyes of a rendered person do.

Openness is given as a fraction: 0 closed, 1 as open as the person mostly has them.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from flax import struct

from adnerf_jax.common.timing import FPS
from adnerf_jax.common.types import ArrayLike, Conditions
from adnerf_jax.face.landmarks import Landmarks, eye_openness
from adnerf_jax.models.codes.base import Constants, Recording
from adnerf_jax.models.codes.driven import DrivenCode, TrackSource

# Fractions of openness in a blink, in frames of 1/25 s: closing takes about 0.1 s, opening twice as long (VanderWerf et
# al. 2003).
_BLINK = (0.55, 0.1, 0.0, 0.15, 0.45, 0.75, 0.92)
# Seconds between blinks while talking: at least, and on average beyond that (about 17 a minute; Bentivoglio et al. 1997
# found 26 in conversation, 17 at rest).
_LEAST, _MORE = 1.0, 2.5
_WIDEST = 1.5  # the largest fraction that can be rendered
# Shut eyes measure at most this share of open ones: 0.1 of 0.3 (`face.landmarks.eye_openness`).
_SHUT = 1 / 3
_LEAST_SCALE = np.float32(1e-3)  # eyes that never move keep their small numbers


class EyesCode(DrivenCode):
    """Standardised openness of the right and the left eye; 0 where it was not measured.

    Constants: `mean` and `scale` [2], of the openness in training.
    """

    name: ClassVar[str] = "eyes"
    track_width: ClassVar[int] = 2
    default: ClassVar[Any] = "blinks"
    controls: ClassVar[tuple[str, ...]] = ("eyes",)
    limits: ClassVar[tuple[float, float]] = (0.0, _WIDEST)
    meaning: ClassVar[str] = "0 is closed, 1 open"
    neutral: ClassVar[tuple[float, ...]] = (1.0,)

    @classmethod
    def raw_input(cls, tracks: Mapping[str, np.ndarray], frames: int) -> np.ndarray:
        measured = tracks.get(cls.name)
        return np.zeros((frames, cls.track_width), np.float32) if measured is None else measured

    def fit(self, recording: Recording) -> Constants:
        openness = self.raw_input(recording.tracks, len(recording))
        scale = openness.std(0).astype(np.float32) + _LEAST_SCALE
        return {"mean": openness.mean(0).astype(np.float32), "scale": scale}

    def encode(self, conditions: Conditions, constants: Constants, smooth: ArrayLike | bool) -> ArrayLike:
        return (conditions.tracks["eyes"] - constants["mean"][None]) / constants["scale"][None]

    @classmethod
    def control_map(cls, measured: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        own = EyeRange.of(measured)
        return lambda controls: own.openness(controls[0])

    @classmethod
    def words(cls, measured: np.ndarray, seed: int) -> dict[str, TrackSource]:
        own = EyeRange.of(measured)
        return {"blinks": lambda: (own.openness(fraction) for fraction in blinks(seed))}

    @classmethod
    def retarget(cls, landmarks: Landmarks, measured: np.ndarray) -> np.ndarray:
        openness = eye_openness(landmarks.points)
        return EyeRange.of(measured).openness(EyeRange.of(openness).fraction(openness))


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
        """The range of measured openness [N, 2]: its 1st percentile, and its median."""
        return cls(np.quantile(openness, 0.01, axis=0), np.median(openness, axis=0))

    def openness(self, fraction: np.ndarray | float) -> np.ndarray:
        """Openness float32 [..., 2] of fractions [..., 2], or of one fraction for both eyes."""
        return (self.closed + np.asarray(fraction) * (self.open - self.closed)).astype(np.float32)

    def fraction(self, openness: np.ndarray) -> np.ndarray:
        """Fractions [..., 2] of openness [..., 2], clipped to what can be rendered.

        Of a person who never blinked, the smallest openness is that of open eyes: its noise must not become blinks.
        """
        closed = np.minimum(self.closed, _SHUT * self.open)
        return np.clip((openness - closed) / np.maximum(self.open - closed, 1e-6), 0.0, _WIDEST)


def blinks(seed: int) -> Iterator[float]:
    """Fractions of openness of frame 0, 1, …: blinks at random times, exponentially distributed beyond the least."""
    rng = np.random.default_rng([seed, 1])  # another stream than that of the random poses
    while True:
        yield from itertools.repeat(1.0, round((_LEAST + rng.exponential(_MORE)) * FPS))
        yield from _BLINK
