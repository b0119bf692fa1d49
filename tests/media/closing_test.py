"""Closing a video while another error is in flight: that error is reported."""

import io
import os
import subprocess
import sys

import av
import numpy as np
import pytest

from adnerf_jax.media.video import VideoWriter

SIDE = 64
PICTURE = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


class Pipe(io.RawIOBase):
    """A pipe whose reader leaves after some bytes."""

    def __init__(self, room: int):
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise BrokenPipeError("the reader has left")
        return len(data)


@pytest.mark.parametrize("room", [0, 100, 20_000])
@pytest.mark.parametrize("sound", [None, (np.zeros(32_000, np.float32), 16000)])
def test_a_closed_pipe_is_a_broken_pipe(room, sound):
    with pytest.raises(BrokenPipeError), VideoWriter(Pipe(room), SIDE, SIDE, sound=sound) as writer:
        for _ in range(50):
            writer.write(PICTURE)


def test_a_pipe_that_closes_at_the_end_is_a_broken_pipe():
    whole = io.BytesIO()
    for room in (None, 1):
        target = whole if room is None else Pipe(len(whole.getvalue()) - room)
        with pytest.raises(BrokenPipeError) if room else pytest.MonkeyPatch.context():
            with VideoWriter(target, SIDE, SIDE) as writer:
                for _ in range(3):
                    writer.write(PICTURE)


@pytest.mark.parametrize("while_flushing", [False, True])
def test_an_error_is_not_replaced_by_one_of_closing(tmp_path, monkeypatch, while_flushing):
    closing = lambda *_: (_ for _ in ()).throw(OSError("closing"))  # noqa: E731
    with pytest.raises(RuntimeError, match="first"), VideoWriter(tmp_path / "v.mp4", SIDE, SIDE) as writer:
        writer._exit.callback(closing)
        writer.write(PICTURE)
        if not while_flushing:
            raise RuntimeError("first")
        monkeypatch.setattr(writer, "_blocks", iter(()))
        monkeypatch.setattr(writer, "_audio", None, raising=False)
        monkeypatch.setattr(writer, "_container", Failing(writer._container))
    assert os.listdir(tmp_path) == []


class Failing:
    """A container that cannot be written to any more."""

    def __init__(self, container: av.container.OutputContainer):
        self.container = container

    def mux(self, packets) -> None:
        raise RuntimeError("first")


def test_the_live_demo_ends_quietly_when_its_player_is_closed(tmp_path):
    """The demo's own writing, in a process whose standard output is a pipe that nobody reads."""
    program = """
import sys, types
import numpy as np
from adnerf_jax.inference import avatar, stream_demo
class Frames:
    width = height = 64
    speech = types.SimpleNamespace(sound=None)
    count = 0
    def __iter__(self):
        return self
    def __next__(self):
        self.count += 1
        if self.count > 200:
            raise StopIteration
        return np.random.default_rng(self.count).integers(0, 255, (64, 64, 3), dtype=np.uint8)
person = types.SimpleNamespace(
    stream=lambda *_, **__: Frames(), look_ahead=0.5, provenance=types.SimpleNamespace(tags=dict)
)
avatar.Avatar.load = classmethod(lambda *_: person)
sys.exit(stream_demo.main(["stream_demo", "--workdir=w", "--format=" + sys.argv[1]]))
"""
    for form in ("mp4", "raw"):
        process = subprocess.Popen(
            [sys.executable, "-c", program, form],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.read(20_000)
        process.stdout.close()
        errors = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait() == 0, errors
        assert errors.splitlines()[-1] == "the player has closed its input" and "Traceback" not in errors, errors
