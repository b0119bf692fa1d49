"""Settings that nothing can be made of: `check_settings` before training, `check_model` before a model is loaded."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.configuration.flatten import flatten
from adnerf_jax.data.datasets import SUBJECTS
from adnerf_jax.models.codes import NAMES

_INT32 = 2**31 - 1  # compiled programs count in int32
COUNT = (1, _INT32)
SEED = (0, 2**63 - 1)  # keys of 64 bits
_LARGE = 10**6
_WIDTH = 2**14
_DIGITS = 24  # binary digits of float32: a sine of a higher frequency has none left
_RESOLUTION = 2**19  # of the finest grid in Instant NGP's experiments, whose largest tables have 2^24 entries

# The fields of each family's models.
_FIELDS = {"paper": {"head": "mlp", "torso": "mlp"}, "fast": {"head": "grid", "torso": "planar"}}
# Least and most of each setting; of models by the last part of the name. The most is beyond any use: it keeps a slip or
# a damaged file from taking all memory.
MODEL_RANGES = {
    "width": (1, _WIDTH),
    "depth": (2, 64),
    "skip": (0, 64),
    "colour_width": (1, _WIDTH),
    "colour_depth": (1, 64),
    "deformation_width": (1, _WIDTH),
    "geometry": (0, _WIDTH),
    "audio_code": (1, _WIDTH),
    "audio_channels": (1, _WIDTH),
    "position_levels": (0, _DIGITS),
    "direction_levels": (0, _DIGITS),
    "pose_levels": (0, _DIGITS),
    "coarse_samples": (1, _WIDTH),
    "fine_samples": (1, _WIDTH),
    "levels": (1, 32),
    "features": (1, 64),
    "table_size": (1, 2**24),
    "coarsest": (1, _RESOLUTION),
    "finest": (1, _RESOLUTION),
    "proposal_resolution": (1, 1024),
    "reach": (0, 1),
}
_USE = {
    "render.seed": SEED,
    "render.chunk": (1, 2**24),
    "render.occupancy": (0, 512),
}
_TRAINING = {
    "seed": SEED,
    "train.steps": COUNT,
    "train.rays": (1, 2**24),
    "train.micro_batches": (1, 2**24),
    "train.frames_per_step": (1, 2**24),
    "train.sampler_weight": (0, _LARGE),
    "train.audio_components": COUNT,
    "train.attention_from": (0, _INT32),
    "train.density_leak_steps": (0, _INT32),
    "train.log_every": COUNT,
    "train.validate_every": COUNT,
    "train.validate_frames": COUNT,
    "train.checkpoint_every": COUNT,
    "train.keep_checkpoints": COUNT,
    "train.keep_best": (0, _INT32),
    "optim.learning_rate": (0, _LARGE),
    "optim.decay": (0, _LARGE),
    "optim.decay_steps": COUNT,
    "optim.grid_multiple": (0, _LARGE),
    "optim.attention_multiple": (0, _LARGE),
}


def check_settings(config: ConfigDict) -> None:
    """Raises UserError for settings that cannot be trained with."""
    check_ranges(config, _TRAINING)
    check_choice(config, "train.on_nan", ("stop", "rollback"))
    shares = dict(config.train.regions)
    if min(shares.values(), default=0) < 0 or not 0 < sum(shares.values()) < math.inf:
        raise UserError(f"config.train.regions is {shares}: shares must be finite, not negative, and not all 0")
    check_model(config)
    if config.train.rays < config.train.frames_per_step:
        raise UserError(
            f"{config.train.rays} rays a step are too few for {config.train.frames_per_step} frames: raise "
            f"config.train.rays or lower config.train.frames_per_step"
        )


def check_model(config: ConfigDict) -> None:
    """Raises UserError for settings of models and of rendering that nothing can be made of."""
    check_choice(config, "stage", ("head", "torso"))
    check_choice(config, "family", tuple(_FIELDS))
    check_choice(config, "subject", tuple(SUBJECTS))
    if config.stage not in config.model:
        raise UserError(f"config.stage is {config.stage!r}, which has no model here: use configs/{config.stage}.py")
    numbers = [name for name in flatten({"model": config.model.to_dict()}) if _last(name) in MODEL_RANGES]
    check_ranges(config, _USE | {name: MODEL_RANGES[_last(name)] for name in numbers})
    for stage, model in config.model.items():
        part, field = f"model.{stage}", _FIELDS[config.family][stage]
        if model.field != field:
            raise UserError(
                f"config.{part}.field is {model.field!r}, but the family {config.family} has {field!r}: choose by "
                f"variants, fast or none of it"
            )
        if field == "mlp":
            # A weighted draw needs two positions between which to draw, and the background is the last one.
            check_ranges(config, {f"{part}.coarse_samples": (3, _WIDTH)})
        check_choice(config, f"{part}.dtype", ("float32", "bfloat16"))
        check_choice(config, f"{part}.audio_init", ("uniform", "lecun"))
    head = config.model.head
    _check_codes("config.model.head.codes", head.codes, NAMES)
    if "shape_codes" in head:
        _check_codes("config.model.head.shape_codes", head.shape_codes, head.codes)


def check_ranges(config: ConfigDict, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises UserError for the first setting, by dotted name, that is out of its range; absent ones and None pass."""
    present = flatten(config.to_dict())
    for name, (least, most) in ranges.items():
        value = present.get(name)
        if value is None:
            continue
        # So that nan, which is never in order, is refused.
        if not value >= least:
            raise UserError(f"config.{name} is {value}: it must be at least {least}")
        if not value <= most:
            raise UserError(f"config.{name} is {value}: it must be at most {most}")


def check_choice(config: ConfigDict, name: str, values: Sequence[str]) -> None:
    """Raises UserError where a setting, by dotted name, is none of some words; an absent one passes."""
    value = flatten(config.to_dict()).get(name, values[0])
    if value not in values:
        *others, last = values
        raise UserError(f"config.{name} is {value!r}: it is {', '.join(others)} or {last}")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _check_codes(name: str, codes: Sequence[Any], known: Sequence[str]) -> None:
    words = [code for code in codes if isinstance(code, str)]
    if not codes or len(set(words)) < len(codes) or not set(words) <= set(known):
        raise UserError(f"{name} is {tuple(codes)}: name one or more of {', '.join(known)}, each once")
