"""Whole pictures: the only place where pixels are chunked, padded and compacted, and where head and torso meet."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from adnerf_jax.cameras import pixel_grid, rays_through
from adnerf_jax.compositing import over
from adnerf_jax.types import Camera, Conditions, Scene

# Rays are tested for occupied space on every 4th pixel of every 4th row, and the answer holds for its neighbourhood.
_VISIBILITY_STRIDE = 4
_MIN_OPACITY = 0.1


@struct.dataclass
class Layers:
    """A frame before it is put together; colours are premultiplied with their opacity.

    Attributes:
      head: float32 [H, W, 3], head_opacity: float32 [H, W], depth: float32 [H, W] (Σ w·t of the head).
      torso: float32 [H, W, 3], torso_opacity: float32 [H, W]; zero in the head stage.
    """

    head: Array
    head_opacity: Array
    depth: Array
    torso: Array
    torso_opacity: Array

    def head_over(self, background: Array) -> Array:
        """The head alone over a background [H, W, 3]."""
        return over(self.head, self.head_opacity, background)

    def person_over(self, background: Array) -> Array:
        """Head and torso over a background: head_rgb · (1 − torso opacity) + torso foreground (paper, section 3.4)."""
        return over(self.torso, self.torso_opacity, self.head_over(background))


def map_where(mask: Array, function: Callable[[Array], Array], outputs: int, chunk: int) -> Array:
    """Evaluates a function at the places where a mask is set, chunk by chunk; zero elsewhere.

    The set places are packed first, and the number of chunks is decided on the device: shapes are static, nothing
    returns to the host, and the cost follows the number of set places.

    Args:
      mask: bool [P].
      function: int32 [chunk] places to float32 [chunk, outputs]; places past the end are clamped to P − 1.
      outputs: numbers for each place.
      chunk: places for each evaluation.

    Returns:
      float32 [P, outputs].
    """
    places = mask.shape[0]
    padded = -(-places // chunk) * chunk
    packed = jnp.nonzero(mask, size=padded, fill_value=places)[0].astype(jnp.int32)

    def evaluate(i: Array, result: Array) -> Array:
        at = jax.lax.dynamic_slice(packed, (i * chunk,), (chunk,))
        return result.at[at].set(function(jnp.minimum(at, places - 1)), mode="drop")

    chunks = (mask.sum() + chunk - 1) // chunk
    return jax.lax.fori_loop(0, chunks, evaluate, jnp.zeros((places, outputs), jnp.float32))


def _pixels(places: Array, width: int) -> Array:
    return jnp.stack([places // width, places % width], axis=-1).astype(jnp.float32)[None]


def head_visibility(head: nn.Module, params, scene: Scene, transform: Array, camera: Camera) -> Array:
    """Pixels whose rays can meet the head: bool [H·W]."""
    stride = _VISIBILITY_STRIDE
    rows, columns = -(-camera.height // stride), -(-camera.width // stride)
    middles = pixel_grid(rows, columns) * stride + stride / 2
    rays = rays_through(middles[None], transform[None], camera)
    opaque = head.apply({"params": params}, rays, scene, method="visible") > _MIN_OPACITY
    near = jax.lax.reduce_window(opaque.reshape(rows, columns), False, jnp.logical_or, (3, 3), (1, 1), "SAME")
    return near.repeat(stride, 0).repeat(stride, 1)[: camera.height, : camera.width].reshape(-1)


def render_head(
    head: nn.Module, params, scene: Scene, transform: Array, codes: dict[str, Array], camera: Camera, chunk: int
) -> tuple[Array, Array, Array]:
    """The head in front of nothing.

    Args:
      head, params: the model and its parameters.
      scene: of the person.
      transform: [4, 4], camera-to-head.
      codes: condition codes, [1, D] each.
      camera: intrinsics and size.
      chunk: rays for each evaluation.

    Returns:
      premultiplied colour [H, W, 3], opacity [H, W], depth [H, W].
    """

    def render(places: Array) -> Array:
        rays = rays_through(_pixels(places, camera.width), transform[None], camera)
        finest = head.apply({"params": params}, rays, codes, jnp.zeros((1, chunk, 3)), scene).rendered[-1]
        return jnp.concatenate([finest.foreground, finest.opacity[..., None], finest.depth[..., None]], axis=-1)[0]

    visible = head_visibility(head, params, scene, transform, camera)
    image = map_where(visible, render, 5, chunk).reshape(camera.height, camera.width, 5)
    return image[..., :3], image[..., 3], image[..., 4]


def render_torso(
    torso: nn.Module, params, scene: Scene, transform: Array, audio: Array, camera: Camera, chunk: int
) -> tuple[Array, Array]:
    """The torso in front of nothing: premultiplied colour [H, W, 3] and opacity [H, W].

    Args:
      transform: [4, 4], the head's pose, an input here.
      audio: [1, D], the head's smoothed audio code.
    """
    size = jnp.array([camera.height, camera.width], jnp.float32)

    def render(places: Array) -> Array:
        x = _pixels(places, camera.width) / size
        colour, opacity = torso.apply({"params": params}, x, transform[None], audio, scene)
        return jnp.concatenate([colour, opacity[..., None]], axis=-1)[0]

    below = jnp.arange(camera.height) / camera.height >= scene.torso_top
    image = map_where(jnp.repeat(below, camera.width), render, 4, chunk).reshape(camera.height, camera.width, 4)
    return image[..., :3], image[..., 3]


def make_renderer(head: nn.Module, torso: nn.Module | None, camera: Camera, chunk: int = 4096):
    """A compiled function (head params, torso params, scene, transform [4, 4], conditions of one frame) → `Layers`.

    Args:
      torso: None renders the head alone; its layer is then empty.
      camera: fixed for the life of the function.
      chunk: rays for each evaluation.
    """

    @jax.jit
    def render(head_params, torso_params, scene: Scene, transform: Array, conditions: Conditions) -> Layers:
        codes = head.apply({"params": head_params}, conditions, scene, method="codes")
        colour, opacity, depth = render_head(head, head_params, scene, transform, codes, camera, chunk)
        if torso is None:
            return Layers(colour, opacity, depth, jnp.zeros_like(colour), jnp.zeros_like(opacity))
        above = render_torso(torso, torso_params, scene, transform, codes["audio"], camera, chunk)
        return Layers(colour, opacity, depth, *above)

    return render


def to_uint8(image: Array) -> Array:
    """[0, 1] to 0 … 255, rounded."""
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)
