"""The expression code: blendshapes (paper, section 4.2: the expression code of the ablation)."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from adnerf_jax.common.types import ArrayLike, Conditions
from adnerf_jax.models.codes.base import Code, Constants, Recording
from adnerf_jax.models.codes.speech_map import SMOOTHING, apply_speech_map, fit_speech_map
from adnerf_jax.pretrained.face_landmarker import BLENDSHAPE_NAMES

_LEAST_SCALE = 1e-2  # blendshapes that never move keep their small numbers


class ExpressionCode(Code):
    """Standardised blendshapes: as tracked in the video where they are given, else estimated from the speech.

    They are given in training and, as an option, in the evaluation; a new recording has none.

    Constants: `mean` and `scale` [E], their standardisation; `weights` [16, C, E] and `bias` [E] of the linear map from
    a speech window to standardised blendshapes.
    """

    name: ClassVar[str] = "expression"
    track_width: ClassVar[int] = len(BLENDSHAPE_NAMES)
    smoothing: ClassVar[str] = SMOOTHING

    @classmethod
    def check(cls, tracks: Mapping[str, np.ndarray], frames: int) -> str | None:
        found = cls.raw_input(tracks, frames)
        return None if found is not None and found.any() else "tracked expressions (landmarks.npz is missing or empty)"

    def fit(self, recording: Recording) -> Constants:
        blendshapes = recording.tracks["expression"].astype(np.float64)
        mean, scale = blendshapes.mean(0), blendshapes.std(0) + _LEAST_SCALE
        speech_map = fit_speech_map(recording.windows, (blendshapes - mean) / scale)
        return speech_map | {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}

    def encode(self, conditions: Conditions, constants: Constants, smooth: ArrayLike | bool) -> ArrayLike:
        tracked = conditions.tracks.get(self.name)
        if tracked is None:
            return apply_speech_map(conditions.audio, constants["weights"], constants["bias"])
        return (tracked - constants["mean"][None]) / constants["scale"][None]
