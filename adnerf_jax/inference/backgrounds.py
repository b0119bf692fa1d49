"""What stands behind the person: the learned background, a picture, a video, a colour, a blur, or nothing."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.data.person import Person
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
_BLUR = 0.03  # of the width: standard deviation of the blur

# Begins the backgrounds of frame 0, 1, …: uint8 [H, W, 3].
BackgroundSource = Callable[[], Iterator[np.ndarray]]


def background_source(given: Any, person: Person, framed: Framing | None) -> BackgroundSource | None:
    """The source that a word, a colour, a file or an array names; None for nothing: the person's opacity is kept.

    Args:
      given: `original`, `blur` (the original one out of focus), `none`, a colour (`white`, `#1e90ff`), a picture or a
        video, which goes round and round, or an array uint8 [h, w, 3]. What has another size is scaled and cut to
        cover the frame.
      person: who is rendered.
      framed: how; None: as learned.

    Raises:
      UserError: anything else, or a file that cannot be read.
    """
    height, width = person.background.shape[:2] if framed is None else (framed.height, framed.width)
    original = person.background if framed is None else framed.cut(person.background)
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3 or not given.size:
            raise UserError(f"a background is uint8 [H, W, 3], not {given.dtype} {list(given.shape)}")
        return _always(cover(given, width, height))
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"a background is a word, a colour, a file or an array, not {repr(given)[:60]}")
    name = os.fspath(given)
    if name == "none":
        return None
    if name == "original":
        return _always(original)
    if name == "blur":
        return _always(cv2.GaussianBlur(original, (0, 0), _BLUR * width, borderType=cv2.BORDER_REPLICATE))
    colour = _COLOURS.get(name.lower(), _hex(name))
    if colour is not None:
        return _always(np.full((height, width, 3), colour, np.uint8))
    path = pathlib.Path(name)
    if not path.exists():
        raise UserError(
            f"there is no background {name!r}: take {', '.join(_WORDS)}, a colour ({', '.join(_COLOURS)}, #rrggbb), "
            f"a picture or a video"
        )
    if path.suffix.lower() in _IMAGES:
        return _always(_picture(path, original))
    return _video(path, width, height)


def cover(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture [h, w, C] scaled and cut around its middle so that it covers width x height."""
    if picture.shape[:2] == (height, width):
        return picture
    inner = _scaled_size(picture.shape[1], picture.shape[0], width, height)
    how = cv2.INTER_AREA if inner[0] < picture.shape[1] else cv2.INTER_CUBIC
    return _middle(cv2.resize(picture, inner, interpolation=how), width, height)


def _scaled_size(width: int, height: int, least_width: int, least_height: int) -> tuple[int, int]:
    scale = max(least_width / width, least_height / height)
    return max(round(width * scale), least_width), max(round(height * scale), least_height)


def _middle(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _picture(path: pathlib.Path, original: np.ndarray) -> np.ndarray:
    """A picture file, covering the frame; where it is transparent the original background shows."""
    height, width = original.shape[:2]
    rgba = read_rgba(path)
    if rgba.shape[:2] != (height, width):
        say(f"{path} is {rgba.shape[1]}x{rgba.shape[0]}: it is scaled and cut to {width}x{height}")
    if (rgba[..., 3] == 255).all():
        return cover(np.ascontiguousarray(rgba[..., :3]), width, height)
    say(f"{path} is transparent in places: the original background shows there")
    # Colours times opacity before scaling, or what nobody sees would colour the edges.
    layer = rgba.astype(np.float32) / 255.0
    layer[..., :3] *= layer[..., 3:]
    layer = np.clip(cover(layer, width, height), 0.0, 1.0)
    mixed = layer[..., :3] + (1.0 - layer[..., 3:]) * (original.astype(np.float32) / 255.0)
    return np.round(np.clip(mixed, 0.0, 1.0) * 255.0).astype(np.uint8)


def _video(path: pathlib.Path, width: int, height: int) -> BackgroundSource:
    """A video's frames at 25 a second, again and again."""
    info = probe(path)
    inner = _scaled_size(info.width, info.height, width, height)
    if (info.width, info.height) != (width, height):
        say(f"{path} is {info.width}x{info.height}: it is scaled and cut to {width}x{height}")

    def start() -> Iterator[np.ndarray]:
        while True:
            empty = True
            for frame in read_frames(path, FPS, size=inner):
                empty = False
                yield _middle(frame, width, height)
            if empty:
                raise UserError(f"{path} shows no picture that could stand behind: give another background")

    return start


def _always(picture: np.ndarray) -> BackgroundSource:
    return lambda: itertools.repeat(picture)


def _hex(name: str) -> tuple[int, int, int] | None:
    """#rrggbb to red, green, blue; None for anything else."""
    if len(name) != 7 or name[0] != "#":
        return None
    try:
        return int(name[1:3], 16), int(name[3:5], 16), int(name[5:7], 16)
    except ValueError:
        return None
