"""Files that are written atomically, JSON with clear errors, and digests."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

from adnerf_jax.common.errors import UserError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def explain_os_error(error: OSError) -> str:
    """One line for an error of the operating system, with the remedy where there is an obvious one."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}: free some space and run the same command again to continue"
    if error.errno == errno.EFBIG:
        return f"a file has grown beyond what is allowed here{where}: raise `ulimit -f`, and run the same command again"
    return f"{error.strerror or error}{where}"


def part_of(path: pathlib.Path) -> pathlib.Path:
    """A new name beside `path`, with its suffix, for a file or folder that is being written.

    The name is random, since process ids can be equal in containers that share a disk. Nothing is created, so that the
    file gets the usual permissions from whoever creates it.
    """
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` (same suffix); renames it to `path` on success.

    On any exception the temporary file is removed and `path` is left unchanged, so that a later run never takes
    a half-written file for a whole one.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def given_path(given: str | os.PathLike) -> str:
    """A path as a user gives it, with `~` for the home folder where no shell has replaced it.

    Raises:
      UserError: it is a URL.
    """
    text = os.fsdecode(given)
    if _URL.match(text):
        raise UserError(f"{text} is a URL, and only local files are read: download it, and give the file's path")
    return os.path.expanduser(text)


def cache_folder() -> pathlib.Path:
    """Folder of downloaded weights and compiled programs: `$ADNERF_CACHE`, by default `~/.cache/adnerf_jax`."""
    return pathlib.Path(os.path.expanduser(os.environ.get("ADNERF_CACHE") or "~/.cache/adnerf_jax"))


def can_write_into(folder: pathlib.Path) -> bool:
    """Whether files can be made in a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def same_file(one: Any, other: Any) -> bool:
    """Whether both are paths of the same existing file."""
    named = all(isinstance(given, (str, os.PathLike)) and pathlib.Path(given).exists() for given in (one, other))
    return named and os.path.samefile(one, other)


def sha256_of(path: str | os.PathLike) -> str:
    """The digest of a file's contents, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


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
