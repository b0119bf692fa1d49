"""Only one training writes into a workdir: `alone_in`."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from adnerf_jax.common import processes
from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.own_folders import check_no_links
from adnerf_jax.common.progress import say

_LOCK = ".lock"
# Seconds for which a network file system may keep the lock of a machine that is gone.
_LEASE = 100.0


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path) -> Iterator[None]:
    """A context in which no other run trains in `workdir`; all processes of a run enter it, and the first one locks.

    Raises:
      UserError: another run trains there; the message names its process.
    """
    with _locked(workdir) if processes.is_main() else contextlib.nullcontext("") as held:
        holder = processes.as_main(held)
        if holder:
            raise UserError(
                f"another training writes into {workdir}: {holder}; wait for it or stop it, or use another ",
                Option("workdir"),
            )
        yield


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[str]:
    """Holds the lock of a workdir, which is created; folders that stay empty are removed again.

    The operating system releases the lock when the process ends, however it ends.

    Yields:
      the holder of the lock in words, where another process holds it; otherwise an empty text.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    check_no_links(path)
    descriptor, holder = _acquire(path)
    try:
        yield holder
    finally:
        if not holder:
            path.unlink(missing_ok=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):  # one is not empty
            for made in created:
                made.rmdir()


def _acquire(path: pathlib.Path) -> tuple[int, str]:
    """The open lock file, and who holds the lock where it is not this process."""
    until = time.monotonic() + _LEASE
    waiting = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            host, holder = _holder(descriptor)
            if host in ("", socket.gethostname()) or time.monotonic() > until:
                return descriptor, holder
            if not waiting:
                say(f"{path.parent} is in use by {holder}: waiting, as that machine may be gone")
                waiting = True
            os.close(descriptor)
            time.sleep(2)
            continue
        except OSError as error:
            say(
                f"warning: {path.parent} cannot be locked ({error.strerror}), as on some network file systems: make "
                f"sure that no other training writes there"
            )
        if _is_at(descriptor, path):  # otherwise the holder before has removed it
            break
        os.close(descriptor)
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}).encode(), 0)
    return descriptor, ""


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> tuple[str, str]:
    """The host of a lock's holder ("" where it is not known), and the holder in words."""
    try:
        held = json.loads(os.pread(descriptor, 1000, 0))
        host, pid, since = str(held["host"]), int(held["pid"]), str(held["since"])
    except (ValueError, KeyError, TypeError):  # it is being written
        return "", "another process"
    return host, " ".join(f"process {pid} on {host} since {since}".split())
