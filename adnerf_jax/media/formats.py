"""Video files that can be written, and what goes into them."""

import os
import pathlib

import cv2
import numpy as np
from flax import struct

from adnerf_jax.common.errors import UserError


@struct.dataclass
class Format:
    """A container with its codecs.

    Attributes:
      container: ffmpeg's name of it.
      codec, options: of the pictures.
      pixels: ffmpeg's pixel format.
      pixels_with_alpha: likewise where there is opacity; None where the format has none.
      sound: codec of the sound.
      container_options: of the container.
    """

    container: str
    codec: str
    options: dict[str, str]
    pixels: str
    pixels_with_alpha: str | None
    sound: str
    container_options: dict[str, str]


# The index goes to the front, so that a browser can play before it has everything.
_FRONT = {"movflags": "+faststart"}
FORMATS = {
    # No B frames: presentation starts at 0 without an edit list, which some players ignore.
    ".mp4": Format("mp4", "libx264", {"crf": "18", "preset": "fast", "bf": "0"}, "yuv420p", None, "aac", _FRONT),
    ".webm": Format(
        "webm",
        "libvpx-vp9",
        # Without alternative reference frames, which ffmpeg refuses beside opacity.
        {"crf": "20", "deadline": "good", "cpu-used": "4", "row-mt": "1", "auto-alt-ref": "0"},
        "yuv420p",
        "yuva420p",
        "libopus",
        {},
    ),
    ".mov": Format(
        "mov", "prores_ks", {"profile": "4444", "alpha_bits": "16"}, "yuv444p10le", "yuva444p10le", "aac", _FRONT
    ),
}
# Seen as it is made: no frame waits for the next one, a fragment every fifth of a second. (A fragment for each frame
# would spoil the time stamp of the last one.)
LIVE_MP4 = Format(
    "mp4",
    "libx264",
    {"crf": "20", "preset": "veryfast", "tune": "zerolatency", "bf": "0", "g": "5"},
    "yuv420p",
    None,
    "aac",
    {"movflags": "frag_keyframe+empty_moov+delay_moov+default_base_moof"},
)


def video_format(path: str | os.PathLike, alpha: bool = False) -> Format:
    """The format that a file's name asks for.

    Raises:
      UserError: an unknown one, or one that has no opacity where opacity is wanted.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            f"{path}: cannot write {suffix or 'a file without an extension'}; give a name in {', '.join(FORMATS)}, or "
            f".png for a folder of pictures"
        )
    if alpha and FORMATS[suffix].pixels_with_alpha is None:
        raise UserError(
            f"{path}: {suffix} has no transparency, and there is no background: write .webm (VP9), .mov (ProRes 4444) "
            f"or .png (pictures), or give a background"
        )
    return FORMATS[suffix]


def bled(rgba: np.ndarray) -> np.ndarray:
    """Straight colours [H, W, 4] spread into what is transparent beside them.

    Codecs mix the colours of neighbouring pixels; the black of what nobody sees would darken every edge.
    """
    opacity = rgba[..., 3:].astype(np.float32) / 255.0
    weighted = cv2.boxFilter(rgba[..., :3].astype(np.float32) * opacity, -1, (17, 17))
    weight = cv2.boxFilter(opacity, -1, (17, 17))[..., None]
    spread = np.where(weight > 0, weighted / np.maximum(weight, 1e-6), 0.0)
    result = rgba.copy()
    result[..., :3] = np.where(rgba[..., 3:] == 0, np.round(np.clip(spread, 0, 255)), rgba[..., :3])
    return result
