"""The lips code: the shape of the lips, estimated from the speech."""

from typing import ClassVar

import numpy as np
from jax import Array

from adnerf_jax.common.types import ArrayLike, Conditions
from adnerf_jax.models.codes.base import Code, Constants, Recording
from adnerf_jax.models.codes.speech_map import SMOOTHING, apply_speech_map, fit_speech_map
from adnerf_jax.speech.lips import principal_components

COMPONENTS = 3  # of the lips' shape that are estimated


class LipsCode(Code):
    """The leading components of the lips' shape, estimated from the speech; nothing is trained, in any frame.

    Without measured lips it is 0 in every frame.

    Constants: `weights` [16, C, M] and `bias` [M] of the linear map from a speech window.
    """

    name: ClassVar[str] = "lips"
    smoothing: ClassVar[str] = SMOOTHING

    def fit(self, recording: Recording) -> Constants:
        lips = recording.tracks.get(self.name)
        if lips is None:
            lips = np.zeros((len(recording), 1), np.float32)
        return fit_speech_map(recording.windows, principal_components(lips, COMPONENTS))

    def encode(self, conditions: Conditions, constants: Constants, smooth: ArrayLike | bool) -> Array:
        return apply_speech_map(conditions.audio, constants["weights"], constants["bias"])
