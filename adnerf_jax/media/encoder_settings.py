"""The containers and codecs of video files that can be written."""

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
      container: ffmpeg's name of the muxer.
      codec, options: codec of the video stream and its options.
      pixels: ffmpeg's pixel format.
      pixels_with_alpha: the pixel format with an alpha channel; None where the format has none.
      sound: codec of the audio stream.
      container_options: options of the muxer.
    """

    container: str
    codec: str
    options: dict[str, str]
    pixels: str
    pixels_with_alpha: str | None
    sound: str
    container_options: dict[str, str]


# The index is written at the start of the file, so that a browser can play before it has downloaded everything.
_INDEX_FIRST = {"movflags": "+faststart"}
FORMATS = {
    # No B frames: presentation starts at 0 without an edit list, which some players ignore.
    ".mp4": Format("mp4", "libx264", {"crf": "18", "preset": "fast", "bf": "0"}, "yuv420p", None, "aac", _INDEX_FIRST),
    ".webm": Format(
        "webm",
        "libvpx-vp9",
        # No alternate reference frames: ffmpeg refuses them together with an alpha channel.
        {"crf": "20", "deadline": "good", "cpu-used": "4", "row-mt": "1", "auto-alt-ref": "0"},
        "yuv420p",
        "yuva420p",
        "libopus",
        {},
    ),
    ".mov": Format(
        "mov", "prores_ks", {"profile": "4444", "alpha_bits": "16"}, "yuv444p10le", "yuva444p10le", "aac", _INDEX_FIRST
    ),
}
# For live streams: the encoder buffers no frames, and a fragment is written every fifth of a second. (With a fragment
# for each frame the last one gets a wrong time stamp.)
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
    """The format by a file name's extension.

    Raises:
      UserError: the extension is unknown, or `alpha` is set and the format has no alpha channel.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            f"{path}: cannot write {suffix or 'a file without an extension'}; give a name that ends in "
            f"{', '.join(FORMATS)}, or .png for a folder of pictures"
        )
    if alpha and FORMATS[suffix].pixels_with_alpha is None:
        raise UserError(
            f"{path}: {suffix} has no transparency, and there is no background: write .webm (VP9), .mov (ProRes 4444) "
            f"or .png (pictures), or give a background"
        )
    return FORMATS[suffix]


def bleed_colours(rgba: np.ndarray) -> np.ndarray:
    """Extends the colours of an image with straight alpha into its transparent pixels.

    Codecs mix the colours of neighbouring pixels, so that the invisible black of transparent pixels would darken every
    edge.

    Args:
      rgba: uint8 [H, W, 4].

    Returns:
      uint8 [H, W, 4]; only colours where the opacity is 0 differ.
    """
    opacity = rgba[..., 3:].astype(np.float32) / 255.0
    weighted = cv2.boxFilter(rgba[..., :3].astype(np.float32) * opacity, -1, (17, 17))
    weight = cv2.boxFilter(opacity, -1, (17, 17))[..., None]
    spread = np.where(weight > 0, weighted / np.maximum(weight, 1e-6), 0.0)
    result = rgba.copy()
    result[..., :3] = np.where(rgba[..., 3:] == 0, np.round(np.clip(spread, 0, 255)), rgba[..., :3])
    return result
