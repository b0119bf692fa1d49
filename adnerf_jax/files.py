"""Files written whole or not at all, and JSON that says where it is broken."""

import contextlib
import errno
import json
import os
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from adnerf_jax.errors import UserError


def explain_os_error(error: OSError) -> str:
    """One line for an operating-system failure, with the remedy where there is an obvious one."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}: free some space and run the same command again to continue"
    if error.errno == errno.EFBIG:
        return f"a file has grown beyond what is allowed here{where}: raise `ulimit -f`, and run the same command again"
    return f"{error.strerror or error}{where}"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` (same suffix); renames it to `path` on success.

    On any exception the temporary file is removed and `path` is left as it was, so that a later run never takes
    a half-written file for a whole one.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> pathlib.Path:
    """Where fetched weights and compiled programs are kept: `$ADNERF_CACHE`, by default `~/.cache/adnerf_jax`."""
    given = os.environ.get("ADNERF_CACHE")
    return pathlib.Path(given).expanduser() if given else pathlib.Path.home() / ".cache" / "adnerf_jax"


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


# What numpy raises for files that are not what they seem.
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


def read_array(path: str | os.PathLike, shape: tuple[int | None, ...]) -> np.ndarray:
    """Reads a `.npy` file of finite real numbers.

    Args:
      path: the file.
      shape: of the array; None stands for any length.

    Raises:
      UserError: it is something else, or a file that would need unpickling.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except _NOT_ARRAYS as error:
        raise UserError(f"{path} cannot be read as an array: {' '.join(str(error).split())}") from None
    have = getattr(array, "shape", None)
    if have is None or len(have) != len(shape) or any(b not in (None, a) for a, b in zip(have, shape, strict=True)):
        want = ", ".join("any" if n is None else str(n) for n in shape)
        raise UserError(f"{path} holds {have or 'an archive of arrays'}; expected an array [{want}]")
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise UserError(f"{path} holds what is not a finite number: make it again")
    return array


def read_archive(path: str | os.PathLike, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads arrays of a `.npz` file.

    Raises:
      UserError: it is something else, lacks one of them, or would need unpickling.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (*_NOT_ARRAYS, AttributeError) as error:
        raise UserError(f"{path} cannot be read as an archive of arrays: {' '.join(str(error).split())}") from None


def read_json(path: str | os.PathLike, what: str) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      what: the file's role, for the message ("dataset index", "configuration").

    Raises:
      UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not valid JSON: {error}") from None
