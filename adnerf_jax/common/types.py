"""Arrays that travel together. F frames, R rays a frame, S samples a ray, C speech features."""

import jax
from flax import struct
from jax import Array

# Of products whose factors must not be rounded where that is the default (TPUs, recent GPUs): rays would miss their
# pixels by one or two, and the published numbers would not be met.
EXACT = jax.lax.Precision.HIGHEST


@struct.dataclass
class Camera:
    """A pinhole camera; the principal point and the focal length are in pixels."""

    focal: float
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
      eyes: float32 [F, 2], openness of the right and the left eye.
      expression: float32 [F, E], blendshapes as they were tracked; None: to be estimated from the speech.
    """

    audio: Array
    eyes: Array
    expression: Array | None = None


@struct.dataclass
class Batch:
    """The rays of one training step, R from each of F frames.

    Attributes:
      pixels: float32 [F, R, 2], (row, column).
      target: float32 [F, R, 3], the colours to reach, in [0, 1].
      background: float32 [F, R, 3], what stands behind the person in `target`.
      transforms: float32 [F, 4, 4], camera-to-head.
      conditions: of the F frames.
    """

    pixels: Array
    target: Array
    background: Array
    transforms: Array
    conditions: Conditions


@struct.dataclass
class Scene:
    """What is fixed by the training data and never trained; saved with the parameters.

    Attributes:
      near, far: float32 [], range of t of the samples.
      box: float32 [2, 3], corners of the space that the head can occupy, head space.
      audio_mean: float32 [C], audio_basis: float32 [C, K], the projection of the speech features (`scenes.whitening`).
      lips_weights: float32 [16, C, M], lips_bias: float32 [M], the lips' shape as a linear function of the
        features of a window (`articulation.fit_ridge`).
      expression_weights: float32 [16, C, E], expression_bias: float32 [E], the standardised blendshapes likewise.
      expression_mean, expression_scale: float32 [E], their standardisation.
      eyes_mean, eyes_scale: float32 [2], standardisation of the eyes' openness.
      pose_mean, pose_scale: float32 [6], standardisation of the head's pose (`cameras.placement_vector`).
      torso_top: float32 [], row above which no torso was ever seen, as a fraction of the height.
      torso_camera: float32 [4, 4], camera-to-head of the first training frame: the static camera of a torso in space.
    """

    near: Array
    far: Array
    box: Array
    audio_mean: Array
    audio_basis: Array
    lips_weights: Array
    lips_bias: Array
    expression_weights: Array
    expression_bias: Array
    expression_mean: Array
    expression_scale: Array
    eyes_mean: Array
    eyes_scale: Array
    pose_mean: Array
    pose_scale: Array
    torso_top: Array
    torso_camera: Array


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
    """What a head model renders: the levels that the loss sees, finest last, and the sampler's own loss."""

    rendered: tuple[Rendered, ...]
    sampler_loss: Array


@struct.dataclass
class Occupancy:
    """Where in a box a model's fields have density under any condition (`occupancy.survey`).

    Attributes:
      box: float32 [2, 3], lower and upper corner; what lies outside counts as the nearest cell inside.
      cells: bool [L, N³] of the levels, coarsest network first; cell (x, y, z) at x + y·N + z·N².
    """

    box: Array
    cells: Array
