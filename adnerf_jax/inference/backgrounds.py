"""Backgrounds: the one of the training video, sharp or blurred, a picture, a video, a colour, or none."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.data.person import Person
from adnerf_jax.media.heif import file_is_heif
from adnerf_jax.media.image import read_rgba
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.rendering.framing import Framing

_COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "magenta": (255, 0, 255),
}
_WORDS = ("original", "blur", "none")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_BLUR = 0.03  # standard deviation of the blur, in widths of the picture

# Starts an iterator over the backgrounds of frame 0, 1, …: uint8 [H, W, 3].
BackgroundSource = Callable[[], Iterator[np.ndarray]]


def background_source(given: Any, person: Person, framed: Framing | None) -> BackgroundSource | None:
    """Makes a background source from a word, a colour, a file or an array.

    Args:
      given: `original` (that of the training video), `blur` (the original one, blurred), `none`, a colour (`white`,
        `#1e90ff`), a picture file, a video file, which is played in a loop, or an array uint8 [h, w, 3]. Pictures of
        another size are scaled and cropped to cover the frame.
      person: the person who is rendered.
      framed: the view that is rendered; None: that of the training video.

    Returns:
      None for `none`: frames get the person's opacity instead.

    Raises:
      UserError: `given` is none of these, or a file that cannot be read.
    """
    height, width = person.background.shape[:2] if framed is None else (framed.height, framed.width)
    original = person.background if framed is None else framed.cut(person.background)
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3 or not given.size:
            raise UserError(f"background: expected an array uint8 [H, W, 3], not {given.dtype} {list(given.shape)}")
        return _constant(cover(given, width, height))
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"background: expected a word, a colour, a file or an array, not {repr(given)[:60]}")
    name = os.fspath(given)
    if name == "none":
        return None
    if name == "original":
        return _constant(original)
    if name == "blur":
        return _constant(cv2.GaussianBlur(original, (0, 0), _BLUR * width, borderType=cv2.BORDER_REPLICATE))
    colour = _COLOURS.get(name.lower(), _hex(name))
    if colour is not None:
        return _constant(np.full((height, width, 3), colour, np.uint8))
    path = pathlib.Path(name)
    if not path.exists():
        raise UserError(
            f"there is no background {name!r}: give {', '.join(_WORDS)}, a colour ({', '.join(_COLOURS)}, #rrggbb), "
            f"a picture or a video"
        )
    if path.suffix.lower() in _IMAGES or (path.is_file() and file_is_heif(path)):
        return _constant(_picture(path, original))
    return _video(path, width, height)


def cover(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture [h, w, C] scaled and cropped around its centre to [height, width, C]; its proportions stay."""
    if picture.shape[:2] == (height, width):
        return picture
    inner = _scaled_size(picture.shape[1], picture.shape[0], width, height)
    interpolation = cv2.INTER_AREA if inner[0] < picture.shape[1] else cv2.INTER_CUBIC
    return _crop_centre(cv2.resize(picture, inner, interpolation=interpolation), width, height)


def _scaled_size(width: int, height: int, least_width: int, least_height: int) -> tuple[int, int]:
    """The smallest size with the proportions of width x height that covers the other one."""
    scale = max(least_width / width, least_height / height)
    return max(round(width * scale), least_width), max(round(height * scale), least_height)


def _crop_centre(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _picture(path: pathlib.Path, original: np.ndarray) -> np.ndarray:
    """A picture file scaled and cropped to the size of `original`, composited over it where it is transparent."""
    height, width = original.shape[:2]
    rgba = read_rgba(path)
    if rgba.shape[:2] != (height, width):
        say(f"{path} is {rgba.shape[1]}x{rgba.shape[0]}: it is scaled and cropped to {width}x{height}")
    if (rgba[..., 3] == 255).all():
        return cover(np.ascontiguousarray(rgba[..., :3]), width, height)
    say(f"{path} is transparent in places: the original background shows there")
    # Colours are premultiplied before scaling: those of transparent pixels must not blend into the edges.
    layer = rgba.astype(np.float32) / 255.0
    layer[..., :3] *= layer[..., 3:]
    layer = np.clip(cover(layer, width, height), 0.0, 1.0)
    mixed = layer[..., :3] + (1.0 - layer[..., 3:]) * (original.astype(np.float32) / 255.0)
    return to_uint8(mixed)


def _video(path: pathlib.Path, width: int, height: int) -> BackgroundSource:
    """A video's frames at 25 fps, in a loop."""
    info = probe(path)
    info.say_conversions()
    inner = _scaled_size(info.width, info.height, width, height)
    if (info.width, info.height) != (width, height):
        say(f"{path} is {info.width}x{info.height}: it is scaled and cropped to {width}x{height}")

    def start() -> Iterator[np.ndarray]:
        while True:
            empty = True
            for frame in read_frames(path, FPS, size=inner):
                empty = False
                yield _crop_centre(frame, width, height)
            if empty:
                raise UserError(f"{path} shows no picture: give another background")

    return start


def _constant(picture: np.ndarray) -> BackgroundSource:
    return lambda: itertools.repeat(picture)


def _hex(name: str) -> tuple[int, int, int] | None:
    """#rrggbb to red, green, blue; None for anything else."""
    if len(name) != 7 or name[0] != "#":
        return None
    try:
        return int(name[1:3], 16), int(name[3:5], 16), int(name[5:7], 16)
    except ValueError:
        return None
