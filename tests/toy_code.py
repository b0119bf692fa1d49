"""A condition code that is in no registry: tests register it."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np

from adnerf_jax.models.codes.base import Constants, Recording
from adnerf_jax.models.codes.driven import DrivenCode


class JawCode(DrivenCode):
    """How far two of the blendshapes are raised, through one trained layer.

    Constants: `largest` [2].
    """

    name: ClassVar[str] = "jaw"
    track_width: ClassVar[int] = 2
    default: ClassVar[Any] = 0.5
    controls: ClassVar[tuple[str, ...]] = ("jaw",)
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    meaning: ClassVar[str] = "0 is shut, 1 is wide open"
    neutral: ClassVar[tuple[float, ...]] = (0.0,)

    @classmethod
    def reads(cls):
        return ("expression",)

    @classmethod
    def raw_input(cls, tracks, frames):
        return tracks["expression"][:, 24:26] if "expression" in tracks else None

    def fit(self, recording: Recording) -> Constants:
        return {"largest": recording.tracks["expression"][:, 24:26].max(0)}

    def encode(self, conditions, constants, smooth):
        return nn.Dense(3, name=self.name)(conditions.tracks["jaw"] / constants["largest"][None])

    @classmethod
    def control_map(cls, measured: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda controls: (controls[0] * measured.max(0)).astype(np.float32)
