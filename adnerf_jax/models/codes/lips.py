"""The lips code: the shape of the lips, estimated from the speech; at rest in pauses."""

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.timing import FRAMES_AFTER, FRAMES_BEFORE
from adnerf_jax.common.types import ArrayLike, Conditions
from adnerf_jax.models.codes.base import Code, Constants, Recording
from adnerf_jax.models.codes.silence import fit_silence, silence
from adnerf_jax.models.codes.speech_map import SMOOTHING, apply_speech_map, fit_speech_map
from adnerf_jax.speech.lips import lip_gap, principal_components

COMPONENTS = 3  # of the lips' shape that are estimated
_LEAST_SILENT = 12  # frames in pauses that show the person's rest
_CLOSED = 0.1  # share of the frames, those with the lips closest together, that show it otherwise


class LipsCode(Code):
    """The leading components of the lips' shape, estimated from the speech; nothing is trained, in any frame.

    Without measured lips it is 0 in every frame.

    Constants: `weights` [16, C, M] and `bias` [M] of the linear map from a speech window. Where the clip has sound with
    pauses, also `rest` [M], the code of lips at rest, and `silence_weights` [C] and `silence_bias` [] (`silence`), by
    which it is approached in pauses.
    """

    name: ClassVar[str] = "lips"
    smoothing: ClassVar[str] = SMOOTHING

    @classmethod
    def reads(cls) -> tuple[str, ...]:
        return cls.name, "loudness"

    def fit(self, recording: Recording) -> Constants:
        lips = recording.tracks.get(self.name)
        if lips is None:
            return fit_speech_map(recording.windows, np.zeros((len(recording), 1)))
        scores = principal_components(lips, COMPONENTS)
        speech_map = fit_speech_map(recording.windows, scores)
        return speech_map | _fit_rest(recording, scores, speech_map)

    def encode(self, conditions: Conditions, constants: Constants, smooth: ArrayLike | bool) -> Array:
        estimate = apply_speech_map(conditions.audio, constants["weights"], constants["bias"])
        if "rest" not in constants:
            return estimate
        share = silence(conditions.audio, constants["silence_weights"], constants["silence_bias"])[:, None]
        return (1.0 - share) * estimate + share * jnp.asarray(constants["rest"])[None]


def _fit_rest(recording: Recording, scores: np.ndarray, speech_map: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The constants of the rest; {} where the recording has no sound, or no pauses.

    The rest is the median shape in the pauses, or, of a person who hardly pauses, the mean one of closed lips; at most
    as far out as the estimates from speech, since that is what fields are trained on.
    """
    loudness = recording.tracks.get("loudness")
    pauses = {} if loudness is None else fit_silence(recording.windows, loudness[:, 0])
    if not pauses:
        return {}
    estimates = np.einsum("ntc,tcm->nm", recording.windows, speech_map["weights"]) + speech_map["bias"]
    silent = scores[_in_pauses(recording.windows, **pauses)]
    if len(silent) < _LEAST_SILENT:
        gap = lip_gap(recording.tracks["lips"])
        rest = scores[gap <= np.quantile(gap, _CLOSED)].mean(0)
    else:
        rest = np.median(silent, axis=0)
    low, high = np.quantile(estimates, (0.01, 0.99), axis=0)
    return pauses | {"rest": np.clip(rest, low, high).astype(np.float32)}


def _in_pauses(windows: np.ndarray, silence_weights: np.ndarray, silence_bias: np.ndarray) -> np.ndarray:
    """Which of N consecutive frames are inside a pause, bool [N]; those without neighbours are not."""
    silent = (windows @ silence_weights + silence_bias).min(1) > 0.5
    inside = np.zeros(len(windows), bool)
    if len(windows) > FRAMES_BEFORE + FRAMES_AFTER:
        around = np.lib.stride_tricks.sliding_window_view(silent, FRAMES_BEFORE + 1 + FRAMES_AFTER)
        inside[FRAMES_BEFORE : len(windows) - FRAMES_AFTER] = around.all(-1)
    return inside
