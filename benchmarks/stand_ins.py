"""Constants and condition codes of the right shapes, for benchmarks that need no person."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from adnerf_jax.common.timing import NEIGHBOURS, WINDOW
from adnerf_jax.common.types import Conditions, Scene
from adnerf_jax.data.tracks import READERS
from adnerf_jax.models.codes.base import Code, Recording
from adnerf_jax.models.codes.encoder import Codes
from adnerf_jax.models.codes.registry import tracked_codes

_FRAMES = 64  # that constants are fitted to
_WIDTH = 8  # of measured tracks that no code takes as they are


def code_constants(codes: Sequence[Code], channels: int, components: int) -> dict[str, dict[str, Any]]:
    """Constants of condition codes (`Scene.codes`), fitted to random numbers.

    Args:
      codes: the codes.
      channels: number of speech features.
      components: number of components that they are projected to.
    """
    rng = np.random.default_rng(0)
    widths = {name: code.track_width for name, code in tracked_codes().items()}
    tracks = {name: rng.random((_FRAMES, widths.get(name, _WIDTH)), np.float32) for name in READERS}
    windows = rng.random((_FRAMES, WINDOW, channels), np.float32)
    return {code.name: code.fit(Recording(windows, tracks, components)) for code in codes}


def zero_codes(codes: Codes, scene: Scene, channels: int) -> dict[str, np.ndarray]:
    """The codes of one frame, by name: zeros [1, W] each."""
    tracks = {name: np.zeros((1, code.track_width), np.float32) for name, code in tracked_codes().items()}
    conditions = Conditions(np.zeros((1, NEIGHBOURS, WINDOW, channels), np.float32), tracks)
    shapes = jax.eval_shape(lambda: codes.init_with_output(jax.random.key(0), conditions, scene)[0])
    return {name: np.zeros(shape.shape, np.float32) for name, shape in shapes.items()}
