"""Two trainings in one workdir: the second ends, and says who trains there."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import tiny

from adnerf_jax.common import processes
from adnerf_jax.common.errors import UserError
from adnerf_jax.training import workdir_lock
from adnerf_jax.training.train import train
from adnerf_jax.training.workdir_lock import alone_in

_HOLD = """
import fcntl, json, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.write(file, json.dumps({"host": sys.argv[2], "pid": os.getpid(), "since": "today"}).encode())
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Starts another process that holds the lock of `tmp_path`, of a host by name."""
    started = []

    def start(host: str) -> subprocess.Popen:
        command = [sys.executable, "-c", _HOLD, str(tmp_path / ".lock"), host]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_training_says_who_trains(tiny_data, tmp_path):
    workdir = tmp_path / "head"
    with alone_in(workdir):
        who = f"process {os.getpid()} on {re.escape(socket.gethostname())} since 2"
        with pytest.raises(UserError, match=f"another training writes into {workdir}: {who}") as raised:
            train(tiny.config("head", tiny_data), workdir)
        assert "\n" not in str(raised.value)
        assert [path.name for path in workdir.iterdir()] == [".lock"]
    assert not workdir.exists()  # nothing was written
    with alone_in(workdir):
        pass


def test_a_killed_training_holds_nothing(tmp_path, holder):
    process = holder(socket.gethostname())
    with pytest.raises(UserError, match=f"process {process.pid} on"), alone_in(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".lock").exists()
    with alone_in(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_the_lock_of_a_machine_that_is_gone_ends(tmp_path, holder, monkeypatch, capsys):
    process = holder("elsewhere")
    monkeypatch.setattr(time, "sleep", lambda _: (process.kill(), process.wait()))
    with alone_in(tmp_path):
        pass
    assert f"in use by process {process.pid} on elsewhere since today: waiting" in capsys.readouterr().err


def test_a_lock_that_is_elsewhere_still_held(tmp_path, holder, monkeypatch):
    holder("elsewhere")
    monkeypatch.setattr(workdir_lock, "_LEASE", 0.0)
    with pytest.raises(UserError, match="on elsewhere since today"), alone_in(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with alone_in(tmp_path):
        pass
    assert f"warning: {tmp_path} cannot be locked (No locks available)" in capsys.readouterr().err


def test_the_first_of_several_processes_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_main", lambda: False)
    with alone_in(tmp_path / "head"):
        assert not (tmp_path / "head").exists()
    monkeypatch.setattr(processes, "as_main", lambda _: "process 5 on first since today")
    with pytest.raises(UserError, match="process 5 on first"), alone_in(tmp_path / "head"):
        pass


def test_a_lock_that_is_a_link(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=".lock is a link to"), alone_in(tmp_path):
        pass
    assert not (tmp_path / "other").exists()
