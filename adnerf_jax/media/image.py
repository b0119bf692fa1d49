"""Reading and writing of PNG and JPEG files, and reading of what phones make."""

import pathlib

import cv2
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_bytes
from adnerf_jax.media.container import local_url
from adnerf_jax.media.heif import decode_heif, is_heif
from adnerf_jax.media.provenance import Provenance

_TO_BGR = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}


def write_image(
    path: pathlib.Path, image: np.ndarray, quality: int | None = None, provenance: Provenance | None = None
) -> None:
    """Writes a picture atomically.

    Args:
      path: ends in `.png` or `.jpg`.
      image: uint8, RGB [H, W, 3], RGBA [H, W, 4] with straight colours, or grey [H, W].
      quality: JPEG quality, 0 to 100; None writes a PNG with fast compression.
      provenance: the metadata of origin that a PNG gets.

    Raises:
      OSError: it cannot be written.
    """
    setting = (cv2.IMWRITE_PNG_COMPRESSION, 1) if quality is None else (cv2.IMWRITE_JPEG_QUALITY, quality)
    image = np.ascontiguousarray(image)
    encoded, data = cv2.imencode(
        path.suffix, cv2.cvtColor(image, _TO_BGR[image.shape[2]]) if image.ndim == 3 else image, setting
    )
    if not encoded:
        raise OSError(f"cannot encode {path}")
    write_bytes(path, data.tobytes() if provenance is None else provenance.in_png(data.tobytes()))


def read_image(path: pathlib.Path) -> np.ndarray:
    """A picture as uint8 RGB [H, W, 3].

    Raises:
      UserError: it is missing or damaged.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_rgba(path: pathlib.Path) -> np.ndarray:
    """A picture as uint8 RGBA [H, W, 4] with straight alpha; opaque if the file has no alpha channel.

    Raises:
      UserError: it is missing or damaged.
    """
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 4:
        return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGBA)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def _decode(path: pathlib.Path, flags: int) -> np.ndarray:
    # Not by `cv2.imread`, which crashes on a name that is not UTF-8.
    data = path.read_bytes() if path.is_file() else b""
    if is_heif(data[:12]):
        try:
            return cv2.cvtColor(decode_heif(local_url(path), data), cv2.COLOR_RGB2BGR)
        except ValueError as error:
            raise UserError(f"cannot read the image {path} ({error}): convert it to JPEG") from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise UserError(f"cannot read the image {path}: it is missing or damaged; make it again")
    return image
