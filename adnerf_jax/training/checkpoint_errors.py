"""Why a checkpoint cannot be read or written: damaged files, or the machine. Orbax's own messages are kept away."""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import jax

if TYPE_CHECKING:  # the class has a name for type checkers alone
    _Hook = Callable[[sys.UnraisableHookArgs], object]

# Failures of the machine, with what can be done about them: the files themselves may be whole.
_REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "let this user read its files"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise `ulimit -n`"),
    errno.ENOMEM: "free some memory",
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO),
        "check the disk, or mount the network storage again",
    ),
}


class ReadFailure(NamedTuple):
    """Why a checkpoint could not be read.

    Attributes:
      reason: on one line.
      remedy: what to do about it; None where the files are damaged.
    """

    reason: str
    remedy: str | None = None


def explain_read_failure(error: BaseException, folder: pathlib.Path) -> ReadFailure:
    """Whether an error in reading a checkpoint comes from the machine, by all errors that it was raised from.

    Args:
      error: raised by JSON, zarr, TensorStore or Orbax.
      folder: the checkpoint's folder.
    """
    if not folder.is_dir():
        return ReadFailure(
            f"{folder} no longer exists", "give all processes the same storage, and delete nothing there"
        )
    cause: BaseException | None = error
    while cause is not None:
        exhausted = isinstance(cause, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(cause)
        if exhausted or isinstance(cause, MemoryError):
            return ReadFailure(_one_line(cause), "free some memory of the machine and its devices")
        for code, remedy in _REMEDIES.items():
            # TensorStore gives the system's words without its number.
            if getattr(cause, "errno", None) == code or f": {os.strerror(code)}" in str(cause):
                return ReadFailure(os.strerror(code), remedy)
        cause = cause.__cause__ or cause.__context__
    return ReadFailure(_one_line(error))


@contextlib.contextmanager
def explained_write(folder: pathlib.Path) -> Iterator[None]:
    """Raises an OSError, with what to do, from what Orbax and TensorStore raise when they cannot write to `folder`."""
    try:
        yield
    except jax.errors.JaxRuntimeError:  # of the devices, or of another process that has ended
        raise
    except Exception as error:
        raise OSError(
            f"a checkpoint could not be written into {folder} ({_one_line(error)}): free space there and run the same "
            f"command again; it goes on from the newest whole checkpoint"
        ) from error


def _one_line(error: BaseException) -> str:
    """The beginning of an error's message."""
    return " ".join(f"{type(error).__name__} {error}".split())[:160]


@functools.cache
def quiet_failed_reads() -> None:
    """Leaves out what Orbax prints of a damaged checkpoint beside its error; once a process, before the first read."""
    logging.getLogger("asyncio").addFilter(_is_not_of_a_read)
    sys.unraisablehook = _without_late_reads(sys.unraisablehook)
    warnings.filterwarnings("ignore", message="Sharding info not provided")  # its sharding file is lost
    warnings.filterwarnings("ignore", message="coroutine 'PyTreeHandler")  # reads that were not begun


def _is_not_of_a_read(record: logging.LogRecord) -> bool:
    """False for reads that failed or were cancelled after the first failure of the same checkpoint."""
    failed = "tensorstore_spec=" in str(record.exc_info[1]) if record.exc_info else False
    return not (failed or "orbax/checkpoint" in record.getMessage())


def _without_late_reads(hook: "_Hook") -> "_Hook":
    """`sys.unraisablehook` without reads that end, or are cancelled, after the first failure closed Orbax's loop."""

    def filtered(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        ended = unraisable.object is None and isinstance(error, RuntimeError) and "loop is closed" in str(error)
        # Orbax raises an error of its own even from the end of a coroutine.
        cancelled = isinstance(getattr(error, "__cause__", None), GeneratorExit)
        if not (ended or cancelled):
            hook(unraisable)

    return filtered
