"""What a head model and a torso model must do. The families (`paper.py`, `fast.py`) implement both.

Models are Linen modules. `model.apply({"params": params}, …)` calls `__call__`, and with `method=` the methods `codes`
and `visible`. The others are called directly: `torso_code` needs no parameters, `survey` takes them as an argument.

Shapes: F frames, R rays or pixels of a frame, W numbers in a code.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from jax import Array

from adnerf_jax.common.types import (
    DEFAULT_OPTIONS,
    ArrayLike,
    Camera,
    Conditions,
    Levels,
    Occupancy,
    Rays,
    RenderOptions,
    Scene,
)

# Premultiplied colours [F, R, 3] and opacities [F, R].
Layer = tuple[Array, Array]


class Model(Protocol):
    """The part of `flax.linen.Module` that training and rendering use."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any: ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any: ...


class HeadModel(Model, Protocol):
    """The head: rays in head space, through which the head's pose acts, to colours and opacities.

    Attributes:
      needs_occupancy: whether rendering leaves out samples by an occupancy grid; False: `survey` returns None.
    """

    needs_occupancy: ClassVar[bool]

    def codes(self, conditions: Conditions, scene: Scene, smooth: Array | bool = True) -> dict[str, ArrayLike]:
        """The condition codes of F frames by name, [F, W] each (`codes.encoder.Codes`)."""

    def torso_code(self, codes: Mapping[str, ArrayLike]) -> ArrayLike:
        """The one of the codes that conditions the torso, [F, W]."""

    def __call__(
        self,
        rays: Rays,
        codes: Mapping[str, ArrayLike],
        background: ArrayLike,
        scene: Scene,
        options: RenderOptions = DEFAULT_OPTIONS,
    ) -> Levels:
        """Renders rays [F, R, 3] over a background [F, R, 3]."""

    def visible(self, rays: Rays, scene: Scene, options: RenderOptions = DEFAULT_OPTIONS) -> Array:
        """Rays [F, R] that can meet the head under any condition, bool; the others need not be rendered."""

    def survey(
        self,
        params: Any,
        codes: Mapping[str, ArrayLike],
        transforms: np.ndarray,
        camera: Camera,
        scene: Scene,
        cells: int,
    ) -> Occupancy | None:
        """The grid that tells `RenderOptions` where the head has density; None for a model that needs no grid.

        Args:
          params: the head's parameters.
          codes: codes of K frames; cells with density under any of them are occupied.
          transforms: [N, 4, 4], the poses that the grid covers.
          camera, scene: the person's.
          cells: number of cells along each axis of the grid.
        """


class TorsoModel(Model, Protocol):
    """The torso: pixels of a static camera, with the head's pose as an input, to layers in front of the head.

    Attributes:
      needs_occupancy: as for `HeadModel`.
      abutting: how head and torso are composited into one layer (`compositing.composite_layers`): True where they share
        an edge, each on its own side of it; False where the torso covers the head as an independent layer.
    """

    needs_occupancy: ClassVar[bool]
    abutting: ClassVar[bool]

    def __call__(
        self,
        pixels: Array,
        camera: Camera,
        transforms: ArrayLike,
        code: ArrayLike,
        scene: Scene,
        options: RenderOptions = DEFAULT_OPTIONS,
    ) -> tuple[Layer, ...]:
        """Renders pixels in front of nothing: as many levels as the head has, finest last.

        Args:
          pixels: float32 [F, R, 2], (row, column).
          camera: the pixels' camera.
          transforms: [F, 4, 4], camera-to-head: the head's pose.
          code: [F, W], from `HeadModel.torso_code`.
          scene: the person's constants.
          options: see `RenderOptions`.
        """

    def visible(self, pixels: Array, camera: Camera, scene: Scene, options: RenderOptions = DEFAULT_OPTIONS) -> Array:
        """Pixels [F, R] that can show the torso under any condition, bool; the others need not be rendered."""

    def survey(
        self, params: Any, code: ArrayLike, transforms: ArrayLike, camera: Camera, scene: Scene, cells: int
    ) -> Occupancy | None:
        """As `HeadModel.survey`, for codes [K, W] and head poses [K, 4, 4] of K frames."""
