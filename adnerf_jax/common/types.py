"""Arrays that travel together. F frames, R rays a frame, S samples a ray, C speech features."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import numpy as np
from flax import struct
from jax import Array

ArrayLike: TypeAlias = jax.Array | np.ndarray

# Of products whose factors must not be rounded where that is the default (TPUs, recent GPUs): rays would miss their
# pixels by one or two, and the published numbers would not be met.
EXACT = jax.lax.Precision.HIGHEST


@struct.dataclass
class Camera:
    """A pinhole camera; the principal point and the focal length are in pixels."""

    focal: float | np.floating
    cx: float
    cy: float
    height: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)


@struct.dataclass
class Rays:
    """Points o + t·d. `directions` are not unit vectors: their component along the camera's axis is 1, so t is depth.

    Attributes:
      origins: float32 [..., 3], head space.
      directions: float32 [..., 3], head space.
    """

    origins: Array
    directions: Array


@struct.dataclass
class Conditions:
    """What the person does in each frame: the raw inputs of the condition codes.

    Attributes:
      audio: float32 [F, W, 16, C], the speech windows of the frames i−4 … i+3 (W = 8).
      tracks: float32 [F, D] for each code with a raw input of its own, by the code's name (`models.codes`). Codes that
        are neither measured nor driven are absent; such a code is estimated from the speech, or cannot be used.
    """

    audio: ArrayLike
    tracks: Mapping[str, ArrayLike] = struct.field(default_factory=dict)


@struct.dataclass
class Batch:
    """The rays of one training step, R from each of F frames.

    Attributes:
      pixels: float32 [F, R, 2], (row, column).
      target: float32 [F, R, 3], the colours to reach, in [0, 1].
      background: float32 [F, R, 3], what stands behind the person in `target`.
      transforms: float32 [F, 4, 4], camera-to-head.
      conditions: raw inputs of the condition codes in the F frames.
    """

    pixels: ArrayLike
    target: ArrayLike
    background: ArrayLike
    transforms: ArrayLike
    conditions: Conditions


@struct.dataclass
class Scene:
    """The constants of a person: computed from the training frames, never trained, saved with the parameters.

    Attributes:
      near, far: float32 [], range of t of the samples.
      box: float32 [2, 3], corners of the space that the head can occupy, head space.
      pose_mean, pose_scale: float32 [6], standardisation of the head's pose (`cameras.placement_vector`).
      torso_top: float32 [], row above which no training frame shows the torso, as a fraction of the height.
      torso_camera: float32 [4, 4], camera-to-head of the first training frame: the static camera of a torso in space.
      codes: the constants of each condition code of the head, by its name; each code documents its own
        (`models.codes`).
    """

    near: ArrayLike
    far: ArrayLike
    box: ArrayLike
    pose_mean: ArrayLike
    pose_scale: ArrayLike
    torso_top: ArrayLike
    torso_camera: ArrayLike
    codes: dict[str, dict[str, ArrayLike]]


@struct.dataclass
class Rendered:
    """A composited ray (`compositing.composite`).

    Attributes:
      rgb: float32 [..., 3], over the background.
      foreground: float32 [..., 3], without the background's share.
      opacity: float32 [...], of everything before the background.
      depth: float32 [...], Σ w·t.
      weights: float32 [..., S].
    """

    rgb: Array
    foreground: Array
    opacity: Array
    depth: Array
    weights: Array


@struct.dataclass
class Levels:
    """What a head model renders: the levels that enter the loss, finest last, and the sampler's own loss."""

    rendered: tuple[Rendered, ...]
    sampler_loss: Array


@struct.dataclass
class Occupancy:
    """Where in a box a model's fields have density under any condition (`occupancy.survey`).

    Attributes:
      box: float32 [2, 3], lower and upper corner; what lies outside counts as the nearest cell inside.
      cells: bool [L, N³] of the levels, coarsest network first; cell (x, y, z) at x + y·N + z·N².
    """

    box: ArrayLike
    cells: ArrayLike


@struct.dataclass
class RenderOptions:
    """How a model renders rays or pixels; a model ignores what it does not need.

    Attributes:
      key: jitters the samples along each ray, as in training; None: no jitter, as in rendering.
      occupancy: the cells outside which the model has no density: samples there are left out. For rendering only,
        without a gradient. None: samples everywhere.
      density_leak: float32 [], falls from 1 to 0 during the warm-up of training; changes gradients and nothing else
        (`compositing.composite_samples`).
    """

    key: Array | None = None
    occupancy: Occupancy | None = None
    density_leak: Array | float = 0.0


# No jitter, samples everywhere.
DEFAULT_OPTIONS = RenderOptions()
