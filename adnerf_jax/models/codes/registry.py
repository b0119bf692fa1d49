"""All condition codes, and the selections of them that other rooms need.

Everything else looks codes up here when it runs, so that a line in `CODES` is all that registers a code.
"""

from typing import Any

from adnerf_jax.models.codes.audio import AudioCode
from adnerf_jax.models.codes.base import Code
from adnerf_jax.models.codes.driven import DrivenCode
from adnerf_jax.models.codes.encoder import Codes
from adnerf_jax.models.codes.expression import ExpressionCode
from adnerf_jax.models.codes.eyes import EyesCode
from adnerf_jax.models.codes.lips import LipsCode

CODES: dict[str, type[Code]] = {code.name: code for code in (AudioCode, LipsCode, EyesCode, ExpressionCode)}


def make_codes(model: Any) -> Codes:
    """The codes of a configuration's `model.head` part, in its order."""
    return Codes(tuple(CODES[name].from_settings(model) for name in model.codes))


def tracked_codes() -> dict[str, type[Code]]:
    """The codes with a raw input of their own, by name: those that training needs measured tracks for."""
    return {name: code for name, code in CODES.items() if code.track_width}


def driven_codes() -> dict[str, type[DrivenCode]]:
    """The codes whose raw input a renderer chooses, by name."""
    return {name: code for name, code in CODES.items() if issubclass(code, DrivenCode)}
