"""The framing of a render: view, zoom, crop and size, independent of the head's pose.

The training pictures are one window on the picture plane. Zoom and crop choose another part of the same plane, the size
its sampling density: head, torso and background are sampled at the same positions, so they stay aligned. An orbit moves
the camera around the head; a change of the focal length also changes the camera's distance so that the head keeps its
size. The head is a volume and is rendered from the new camera. The torso is a picture in both families (the published
torso, too, is trained for one static camera): it is placed on a plane through the head's rest position, facing the
training camera, and seen from the new camera in perspective. The background is a backdrop that turns with the camera.
Outside of the training picture the edge pixels of both are repeated: a torso that ended there would show its cut edge
as soon as the camera moves or shows more.
"""

import dataclasses
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

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.types import EXACT, ArrayLike, Camera, Rays, Scene
from adnerf_jax.nerf.cameras import rays_through

_NAMES = ("yaw", "pitch", "zoom", "focal")
_MOST_ORBIT = 60.0  # degrees
# Least component of a unit-depth ray along the normal of the torso's plane for which the two intersect.
_HORIZON = 1e-3
# Memory of a pixel while it is rendered and composited: floats of all layers, twice.
_BYTES_PER_PIXEL = 200
_LARGEST = 16384  # pixels a side that H.264 allows for


@struct.dataclass
class Framing:
    """A picture to render. Positions (row, column) are floats in units of the training picture's pixels.

    Attributes:
      camera: camera of the training pictures.
      height, width: pixels to render.
      as_learned: the whole training picture, pixel by pixel; the attributes below then have no effect.
      top, left: position of the picture's upper left edge.
      step: distance of neighbouring pixels.
      moved: whether the camera differs from the training camera; the attributes below have no effect otherwise.
      turn: float32 [4, 4], the new camera's space to the training camera's.
      depth: distance of the torso's plane from the training camera.
      lens: focal length divided by the training camera's.
    """

    camera: Camera
    height: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)
    as_learned: bool = struct.field(pytree_node=False, default=False)
    top: float | np.floating = 0.0
    left: float | np.floating = 0.0
    step: float | np.floating = 1.0
    moved: bool = struct.field(pytree_node=False, default=False)
    turn: ArrayLike | None = None
    depth: float | np.floating = 1.0
    lens: float | np.floating = 1.0

    def places(self, pixels: Array) -> Array:
        """Positions [..., 2] of the picture's pixels [..., 2], both (row, column)."""
        if self.as_learned:
            return pixels
        corner = jnp.stack([jnp.asarray(self.top, jnp.float32), jnp.asarray(self.left, jnp.float32)])
        return (pixels + 0.5) * self.step - 0.5 + expand_leading(corner, pixels.ndim)

    def rays(self, places: Array, transform: ArrayLike) -> Rays:
        """Rays [..., R, 3], in head space, through positions [..., R, 2] for a head pose [..., 4, 4]."""
        if not self.moved:
            return rays_through(places, transform, self.camera)
        assert self.turn is not None
        lens = dataclasses.replace(self.camera, focal=self.camera.focal * self.lens)
        return rays_through(places, jnp.matmul(transform, self.turn, precision=EXACT), lens)

    def scene(self, scene: Scene) -> Scene:
        """The scene for `rays`: near and far follow the camera's distance."""
        if not self.moved:
            return scene
        farther = self.depth * (self.lens - 1.0)
        return dataclasses.replace(scene, near=scene.near + farther, far=scene.far + farther)

    def torso_places(self, places: Array) -> tuple[Array, Array]:
        """Positions [..., 2] in the torso's picture for positions [..., 2] of this one, clamped to its edge.

        Returns:
          positions, and bool [...], where rays meet the torso's plane: from a moved camera it has a horizon.
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
        assert self.turn is not None
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
        """The part of a training picture uint8 [H, W, 3] that this one shows; its edge pixels are repeated outside."""
        rows = (np.arange(self.height, dtype=np.float32) + 0.5) * self.step - 0.5 + self.top
        columns = (np.arange(self.width, dtype=np.float32) + 0.5) * self.step - 0.5 + self.left
        if self.step > 1:  # against aliasing
            picture = cv2.GaussianBlur(picture, (0, 0), 0.4 * float(self.step))
        x, y = np.meshgrid(columns, rows)
        return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def as_framing(picture: Camera | Framing) -> Framing:
    """A framing itself; the framing of the whole training picture for its camera."""
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
    """The framing that a user's options describe; None for the training pictures as they are.

    Args:
      learned: camera of the training pictures.
      place: [3], the head's rest position in the camera's space.
      view: a mapping or text `yaw=10,pitch=-5,zoom=1.2,focal=900`: degrees that the camera goes around the head, to the
        viewer's right and up; the magnification; the focal length in pixels of the training pictures.
      size: pixels of the longer side, (width, height), or text `512` or `640x360`.
      crop: (x, y, width, height) as fractions of the training picture, or as text; by default all of it.

    Raises:
      UserError: a crop outside the picture, an invalid size, or one that does not fit into memory.
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
    # Another aspect ratio extends the picture on both sides, or above and below; nothing is cut off.
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


def _orbit(pivot: np.ndarray, yaw: float, pitch: float, lens: float | np.floating) -> np.ndarray:
    """From the new camera's space to the training camera's, [4, 4]: an orbit, then the distance for `lens`."""
    # A right-handed turn about the vertical axis moves the camera right; a left-handed one about the other moves it up.
    turn = Rotation.from_euler("YX", [yaw, -pitch], degrees=True).as_matrix()
    result = np.eye(4)
    result[:3, :3] = turn
    # The pivot keeps its position in the picture: on the ray through it, `lens` times as deep.
    result[:3, 3] = pivot - turn @ (pivot * [1, 1, lens])
    return result.astype(np.float32)


def _view(given: Any) -> dict[str, float]:
    """The numbers of a view by name.

    Raises:
      UserError: an unknown name, or a value that is not a finite number.
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
      UserError: not a rectangle inside the picture.
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
    """Pixels (width, height): given, or with the aspect ratio of width x height.

    Raises:
      UserError: an invalid size, or one that does not fit into memory.
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
            f"render, this machine has {memory / 2**30:.0f} GiB: choose fewer pixels"
        )
    if max(sides) > _LARGEST:
        raise UserError(f"size {given!r}: a picture has at most {_LARGEST} pixels on each side")
    return sides[0], sides[1]
