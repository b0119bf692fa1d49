"""Reading `.npy` and `.npz` files that may be damaged or hostile."""

import os
import struct
import tokenize
import zipfile
import zlib

import numpy as np

from adnerf_jax.common.errors import UserError

# What numpy raises for files that are no arrays.
_NOT_ARRAYS = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

_LARGEST = 1e15


def read_array(path: str | os.PathLike, shape: tuple[int | None, ...]) -> np.ndarray:
    """Reads a `.npy` file of finite real numbers, whose squares can be summed as float32.

    Args:
      path: the file.
      shape: the expected shape; None stands for any length.

    Raises:
      UserError: the file is no array of that shape, holds other numbers, or would need unpickling.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except _NOT_ARRAYS as error:
        raise UserError(f"{path} cannot be read as an array: {' '.join(str(error).split())}") from None
    have = getattr(array, "shape", None)
    if have is None or len(have) != len(shape) or any(b not in (None, a) for a, b in zip(have, shape, strict=True)):
        want = ", ".join("any" if n is None else str(n) for n in shape)
        raise UserError(f"{path} holds {have or 'an archive of arrays'}; expected an array [{want}]")
    if array.dtype.kind not in "fiub" or not (np.abs(array, dtype=np.float64) < _LARGEST).all():
        raise UserError(
            f"{path} holds values that are not finite numbers, or of a size that nothing measures: make it again"
        )
    return array


def read_archive(path: str | os.PathLike, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads arrays of a `.npz` file.

    Raises:
      UserError: the file is no archive of arrays, lacks one of them, or would need unpickling.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (*_NOT_ARRAYS, AttributeError) as error:
        raise UserError(f"{path} cannot be read as an archive of arrays: {' '.join(str(error).split())}") from None
