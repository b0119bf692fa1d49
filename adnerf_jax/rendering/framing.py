"""From where and how large a person is rendered, whatever the head does.

The pictures that were learned are one window on what can be rendered. Zoom and crop choose another part of the same
picture plane, the size how finely it is sampled: head, torso and background are asked at the same places of it, so
nothing can slide. An orbit moves the camera around the head, and a focal length changes it together with the camera's
distance so that the head keeps its size. The head is a volume and turns under both. The torso is a picture in both
families (the published torso, too, is learned for one camera that never moves): it stands on a plane through the head's
rest place, facing the learned camera, and is seen from the new one in perspective. The background is a backdrop that
turns with the camera. Beyond the learned picture the edges of both are repeated: a torso that was cut off there would
show its cut as soon as the camera goes around it or shows more.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from scipy.spatial.transform import Rotation

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.types import EXACT, Camera, Rays, Scene
from adnerf_jax.nerf.broadcasting import expand_leading
from adnerf_jax.nerf.cameras import rays_through

_NAMES = ("yaw", "pitch", "zoom", "focal")
_MOST_ORBIT = 60.0  # degrees
# A ray that goes less than so far towards the torso's plane on its way forward does not meet it.
_HORIZON = 1e-3
# What a pixel of a picture takes while it is rendered and put together: floats of all layers, twice.
_BYTES_PER_PIXEL = 200
_LARGEST = 16384  # pixels a side that H.264 allows for


@struct.dataclass
class Framing:
    """A picture to render. Places (row, column) are those of the learned picture's pixels, floats.

    Attributes:
      camera: of the learned pictures.
      height, width: pixels to render.
      as_learned: all of the learned picture, pixel by pixel; all that follows is then without effect.
      top, left: the place of the picture's upper left edge, in units of pixels.
      step: learned pixels from one pixel to the next.
      moved: the camera has left its place; what follows is without effect otherwise.
      turn: float32 [4, 4], the new camera's space to the learned camera's.
      depth: of the torso's plane, before the learned camera.
      lens: focal length over the learned one.
    """

    camera: Camera
    height: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)
    as_learned: bool = struct.field(pytree_node=False, default=False)
    top: float = 0.0
    left: float = 0.0
    step: float = 1.0
    moved: bool = struct.field(pytree_node=False, default=False)
    turn: Array | None = None
    depth: float = 1.0
    lens: float = 1.0

    def places(self, pixels: Array) -> Array:
        """Places [..., 2] of the picture's pixels [..., 2], both (row, column)."""
        if self.as_learned:
            return pixels
        corner = jnp.stack([jnp.asarray(self.top, jnp.float32), jnp.asarray(self.left, jnp.float32)])
        return (pixels + 0.5) * self.step - 0.5 + expand_leading(corner, pixels.ndim)

    def rays(self, places: Array, transform: Array) -> Rays:
        """Rays [..., R, 3] through places [..., R, 2] into the space of a head with this pose [..., 4, 4]."""
        if not self.moved:
            return rays_through(places, transform, self.camera)
        lens = self.camera.replace(focal=self.camera.focal * self.lens)
        return rays_through(places, jnp.matmul(transform, self.turn, precision=EXACT), lens)

    def scene(self, scene: Scene) -> Scene:
        """The person's constants for `rays`: the camera's distance may have changed."""
        if not self.moved:
            return scene
        farther = self.depth * (self.lens - 1.0)
        return scene.replace(near=scene.near + farther, far=scene.far + farther)

    def torso_places(self, places: Array) -> tuple[Array, Array]:
        """Places [..., 2] of the torso's picture that are seen at places [..., 2] of this one; beyond it, its edge.

        Returns:
          places, and bool [...], where its plane is met at all: from a moved camera it has a horizon.
        """
        met = jnp.ones(places.shape[:-1], bool)
        if self.as_learned:
            return places, met
        camera = self.camera
        if self.moved:
            places, met = self._on_plane(places)
        last = jnp.array([camera.height, camera.width], jnp.float32) - 0.5
        return jnp.clip(places, -0.5, expand_leading(last, places.ndim)), met

    def _on_plane(self, places: Array) -> tuple[Array, Array]:
        camera = self.camera
        focal = camera.focal * self.lens
        row, column = places[..., 0], places[..., 1]
        local = jnp.stack([(column - camera.cx) / focal, -(row - camera.cy) / focal, -jnp.ones_like(row)], axis=-1)
        towards = jnp.einsum("...j,ij->...i", local, self.turn[:3, :3], precision=EXACT)
        met = towards[..., 2] < -_HORIZON
        distance = (-self.depth - self.turn[2, 3]) / jnp.where(met, towards[..., 2], -1.0)
        point = expand_leading(self.turn[:3, 3], towards.ndim) + distance[..., None] * towards
        row = camera.cy - camera.focal * point[..., 1] / self.depth
        column = camera.cx + camera.focal * point[..., 0] / self.depth
        return jnp.stack([row, column], axis=-1), met

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The part of a learned picture uint8 [H, W, 3] that this one shows; its edge is repeated beyond it."""
        rows = (np.arange(self.height, dtype=np.float32) + 0.5) * self.step - 0.5 + self.top
        columns = (np.arange(self.width, dtype=np.float32) + 0.5) * self.step - 0.5 + self.left
        if self.step > 1:  # what one pixel shows must not be a sample of many
            picture = cv2.GaussianBlur(picture, (0, 0), 0.4 * float(self.step))
        x, y = np.meshgrid(columns, rows)
        return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def as_framing(picture: Camera | Framing) -> Framing:
    """A framing itself; a learned camera as the framing of all that it saw."""
    if isinstance(picture, Framing):
        return picture
    return Framing(picture, picture.height, picture.width, as_learned=True)


def framing(
    learned: Camera,
    place: np.ndarray,
    view: Any = None,
    size: Any = None,
    crop: Any = None,
) -> Framing | None:
    """The framing of what a user asks for; None for the learned pictures as they are.

    Args:
      learned: camera of the learned pictures.
      place: [3], the head's rest place in the camera's space.
      view: a mapping or text `yaw=10,pitch=-5,zoom=1.2,focal=900`: degrees that the camera goes around the head, to the
        viewer's right and up; how much larger things appear; the focal length in pixels of the learned pictures.
      size: pixels of the longer side, (width, height), or text `512` or `640x360`.
      crop: (x, y, width, height) as fractions of the learned picture, or as text; by default all of it.

    Raises:
      UserError: a part outside the picture, a size that cannot be or does not fit into memory.
    """
    asked = _view(view)
    if not asked and size is None and crop is None:
        return None
    left, top, across, down = _crop(crop)
    zoom, lens = asked.get("zoom", 1.0), asked.get("focal", learned.focal) / learned.focal
    if not (0.1 <= zoom <= 10 and 0.2 <= lens <= 10):
        raise UserError(
            f"camera: zoom goes from 0.1 to 10, the focal length from {0.2 * learned.focal:.0f} to "
            f"{10 * learned.focal:.0f} pixels"
        )
    x, y, w, h = left * learned.width, top * learned.height, across * learned.width, down * learned.height
    x, y, w, h = x + w / 2 * (1 - 1 / zoom), y + h / 2 * (1 - 1 / zoom), w / zoom, h / zoom
    width, height = _size(size, across * learned.width, down * learned.height)
    # A picture of other proportions shows more to both sides, or above and below, never less.
    step = max(w / width, h / height)
    x, y = x + (w - width * step) / 2, y + (h - height * step) / 2
    depth = -float(place[2])
    return Framing(
        camera=learned,
        height=height,
        width=width,
        top=np.float32(y),
        left=np.float32(x),
        step=np.float32(step),
        moved=bool(lens != 1 or asked.get("yaw") or asked.get("pitch")),
        turn=_orbit(np.asarray(place, np.float64), asked.get("yaw", 0.0), asked.get("pitch", 0.0), lens),
        depth=np.float32(depth),
        lens=np.float32(lens),
    )


def _orbit(pivot: np.ndarray, yaw: float, pitch: float, lens: float) -> np.ndarray:
    """From the new camera's space to the learned one's, [4, 4]: around the head, and away as the lens asks for."""
    # The camera goes to the right when it turns about the vertical axis right-handedly, and up against the other one.
    turn = Rotation.from_euler("YX", [yaw, -pitch], degrees=True).as_matrix()
    result = np.eye(4)
    result[:3, :3] = turn
    # The pivot stays where it is seen: on the axis through its own place, `lens` times as deep.
    result[:3, 3] = pivot - turn @ (pivot * [1, 1, lens])
    return result.astype(np.float32)


def _view(given: Any) -> dict[str, float]:
    """The numbers of a view.

    Raises:
      UserError: other names, or something that is no number.
    """
    if given is None or given == "":
        return {}
    if isinstance(given, str):
        pairs = [part.partition("=") for part in given.split(",")]
        given = {name.strip(): value for name, _, value in pairs}
    if not isinstance(given, Mapping):
        raise UserError(f"camera: expected {', '.join(f'{name}=number' for name in _NAMES)}, not {given!r}")
    unknown = [name for name in given if name not in _NAMES]
    if unknown:
        raise UserError(f"camera: there is no {unknown[0]!r}; there are {', '.join(_NAMES)}")
    try:
        view = {name: float(value) for name, value in given.items()}
    except (TypeError, ValueError):
        raise UserError(f"camera: expected {', '.join(f'{name}=number' for name in _NAMES)}, not {given}") from None
    if not all(map(math.isfinite, view.values())):
        raise UserError(f"camera: expected {', '.join(f'{name}=number' for name in _NAMES)}, not {dict(given)}")
    if max(map(abs, (view.get("yaw", 0), view.get("pitch", 0)))) > _MOST_ORBIT:
        raise UserError(f"camera: it can go around the head by up to {_MOST_ORBIT:g} degrees")
    return view


def _crop(given: Any) -> tuple[float, float, float, float]:
    """x, y, width, height as fractions.

    Raises:
      UserError: not a part of the picture.
    """
    if given is None:
        return 0.0, 0.0, 1.0, 1.0
    try:
        x, y, width, height = (float(v) for v in (given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError):
        raise UserError(f"crop {given!r}: expected x,y,width,height as fractions of the picture") from None
    inside = min(x, y) >= 0 and min(width, height) > 0 and max(x + width, y + height) <= 1 + 1e-6
    if not (all(map(math.isfinite, (x, y, width, height))) and inside):
        raise UserError(f"crop {given!r} is not a part of the picture: x,y,width,height are fractions of it")
    return x, y, width, height


def _size(given: Any, width: float, height: float) -> tuple[int, int]:
    """Pixels (width, height) of a picture with the proportions of width x height, or as told.

    Raises:
      UserError: not a size, or one beyond memory.
    """
    if given is None:
        return max(round(width), 1), max(round(height), 1)
    try:
        if isinstance(given, str) and "x" in given.lower():
            sides = [int(side) for side in given.lower().split("x")]
        else:
            sides = [int(side) for side in (given if isinstance(given, (tuple, list)) else [given])]
        if len(sides) not in (1, 2):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"size {given!r}: expected pixels of the longer side, or WIDTHxHEIGHT") from None
    if len(sides) == 1:
        longest = max(width, height)
        sides = [max(round(sides[0] * side / longest), 1) if sides[0] > 0 else 0 for side in (width, height)]
    if min(sides) < 16:
        raise UserError(f"size {given!r}: a picture has at least 16 pixels on each side")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sides[0] * sides[1] * _BYTES_PER_PIXEL > memory // 2:
        raise UserError(
            f"size {sides[0]}x{sides[1]} takes about {sides[0] * sides[1] * _BYTES_PER_PIXEL / 2**30:.0f} GiB to "
            f"render, this machine has {memory / 2**30:.0f} GiB: ask for fewer pixels"
        )
    if max(sides) > _LARGEST:
        raise UserError(f"size {given!r}: a picture has at most {_LARGEST} pixels on each side")
    return sides[0], sides[1]
