"""Whole pictures: visible pixels are packed and rendered in chunks; head and torso are composited."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from adnerf_jax.common.types import DEFAULT_OPTIONS, ArrayLike, Camera, Conditions, Occupancy, RenderOptions, Scene
from adnerf_jax.models.protocols import HeadModel, TorsoModel
from adnerf_jax.nerf.cameras import pixel_grid
from adnerf_jax.nerf.compositing import composite_layers, over
from adnerf_jax.nerf.packing import map_where
from adnerf_jax.rendering.framing import Framing, as_framing

# Rays are tested for visibility on every 4th pixel of every 4th row; the result holds for the pixels around it.
_VISIBILITY_STRIDE = 4


@struct.dataclass
class Layers:
    """The layers of a frame before they are composited; colours are premultiplied with their opacity.

    Attributes:
      head: float32 [H, W, 3], head_opacity: float32 [H, W], depth: float32 [H, W] (Σ w·t of the head).
      torso: float32 [H, W, 3], torso_opacity: float32 [H, W]; zero in the head stage.
      abutting: how the two are composited (`TorsoModel.abutting`).
    """

    head: Array
    head_opacity: Array
    depth: Array
    torso: Array
    torso_opacity: Array
    abutting: bool = struct.field(pytree_node=False, default=False)

    def head_over(self, background: ArrayLike) -> Array:
        """The head alone over a background [H, W, 3]."""
        return over(self.head, self.head_opacity, background)

    def person_over(self, background: ArrayLike) -> Array:
        """Torso over head over a background [H, W, 3] (paper, section 3.4)."""
        return over(*self._person(), background)

    def straight(self) -> Array:
        """Head and torso in front of nothing, [H, W, 4]: colour not multiplied with the opacity beside it."""
        colour, opacity = self._person()
        return jnp.concatenate([colour / jnp.maximum(opacity, 1e-6)[..., None], opacity[..., None]], axis=-1)

    def _person(self) -> tuple[Array, Array]:
        return composite_layers(self.torso, self.torso_opacity, self.head, self.head_opacity, self.abutting)


def _pixels(places: Array, width: int) -> Array:
    return jnp.stack([places // width, places % width], axis=-1).astype(jnp.float32)[None]


def head_visibility(
    head: HeadModel,
    params: Any,
    scene: Scene,
    transform: ArrayLike,
    picture: Camera | Framing,
    options: RenderOptions = DEFAULT_OPTIONS,
) -> Array:
    """Pixels whose rays can meet the head: bool [H·W]; arguments as `render_head`."""
    stride = _VISIBILITY_STRIDE
    rows, columns = -(-picture.height // stride), -(-picture.width // stride)
    middles = pixel_grid(rows, columns) * stride + stride / 2
    framed = as_framing(picture)
    rays, scene = framed.rays(framed.places(middles[None]), transform[None]), framed.scene(scene)
    opaque = head.apply({"params": params}, rays, scene, options, method="visible")
    near = jax.lax.reduce_window(opaque.reshape(rows, columns), False, jnp.logical_or, (3, 3), (1, 1), "SAME")
    return near.repeat(stride, 0).repeat(stride, 1)[: picture.height, : picture.width].reshape(-1)


def render_head(
    head: HeadModel,
    params: Any,
    scene: Scene,
    transform: ArrayLike,
    codes: Mapping[str, ArrayLike],
    picture: Camera | Framing,
    chunk: int,
    options: RenderOptions = DEFAULT_OPTIONS,
) -> tuple[Array, Array, Array]:
    """The head in front of nothing.

    Args:
      head, params: the model and its parameters.
      scene: the person's constants.
      transform: [4, 4], camera-to-head.
      codes: condition codes, [1, D] each.
      picture: the learned camera and its size, or another framing.
      chunk: rays for each evaluation.
      options: see `RenderOptions`; without jitter.

    Returns:
      premultiplied colour [H, W, 3], opacity [H, W], depth [H, W].
    """

    framed = as_framing(picture)
    seen = framed.scene(scene)

    def render(places: Array) -> Array:
        rays = framed.rays(framed.places(_pixels(places, picture.width)), transform[None])
        nothing = jnp.zeros_like(rays.directions)
        levels = head.apply({"params": params}, rays, codes, nothing, seen, options)
        finest = levels.rendered[-1]
        return jnp.concatenate([finest.foreground, finest.opacity[..., None], finest.depth[..., None]], axis=-1)[0]

    visible = head_visibility(head, params, scene, transform, picture, options)
    image = map_where(visible, render, 5, chunk).reshape(picture.height, picture.width, 5)
    return image[..., :3], image[..., 3], image[..., 4]


def render_torso(
    torso: TorsoModel,
    params: Any,
    scene: Scene,
    transform: ArrayLike,
    code: ArrayLike,
    picture: Camera | Framing,
    chunk: int,
    options: RenderOptions = DEFAULT_OPTIONS,
) -> tuple[Array, Array]:
    """The torso in front of nothing: premultiplied colour [H, W, 3] and opacity [H, W].

    Args:
      transform: [4, 4], the head's pose, an input here.
      code: [1, D], from `HeadModel.torso_code`.
      torso, params, scene, picture, chunk, options: as for `render_head`.
    """
    framed = as_framing(picture)
    camera = framed.camera

    def render(places: Array) -> Array:
        pixels, _ = framed.torso_places(framed.places(_pixels(places, picture.width)))
        layers = torso.apply({"params": params}, pixels, camera, transform[None], code, scene, options)
        colour, opacity = layers[-1]
        return jnp.concatenate([colour, opacity[..., None]], axis=-1)[0]

    pixels, met = framed.torso_places(framed.places(pixel_grid(picture.height, picture.width)[None]))
    visible = torso.apply({"params": params}, pixels, camera, scene, options, method="visible")
    visible = (visible & met)[0]
    image = map_where(visible, render, 4, chunk).reshape(picture.height, picture.width, 4)
    return image[..., :3], image[..., 3]


def make_renderer(
    head: HeadModel, torso: TorsoModel | None, camera: Camera, chunk: int = 4096, smooth: bool = True
) -> Callable[..., Layers]:
    """`framed_renderer` for the framing of the training pictures: (head params, torso params, …) → `Layers`."""
    return functools.partial(framed_renderer(head, torso, chunk, smooth), as_framing(camera))


def framed_renderer(
    head: HeadModel, torso: TorsoModel | None, chunk: int = 4096, smooth: bool = True
) -> Callable[..., Layers]:
    """A compiled function of one frame; compiled once for each size of the picture, wherever the camera is.

    Args:
      head: the head model.
      torso: None renders the head alone; its layer is then empty.
      chunk: rays for each evaluation.
      smooth: whether attention smooths the audio code.

    Returns:
      (framing, head params, torso params, scene, transform [4, 4], conditions, head occupancy, torso occupancy) →
      `Layers`.
    """

    @jax.jit
    def render(
        picture: Framing,
        head_params: Any,
        torso_params: Any,
        scene: Scene,
        transform: Array,
        conditions: Conditions,
        head_occupancy: Occupancy | None = None,
        torso_occupancy: Occupancy | None = None,
    ) -> Layers:
        codes = head.apply({"params": head_params}, conditions, scene, smooth, method="codes")
        head_options = RenderOptions(occupancy=head_occupancy)
        colour, opacity, depth = render_head(head, head_params, scene, transform, codes, picture, chunk, head_options)
        if torso is None:
            return Layers(colour, opacity, depth, jnp.zeros_like(colour), jnp.zeros_like(opacity))
        code, torso_options = head.torso_code(codes), RenderOptions(occupancy=torso_occupancy)
        above = render_torso(torso, torso_params, scene, transform, code, picture, chunk, torso_options)
        return Layers(colour, opacity, depth, *above, torso.abutting)

    return render
