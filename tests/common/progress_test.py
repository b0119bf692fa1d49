"""The progress bar: what it shows before, at and after its first unit, by a clock that the tests set."""

import io
import types

import pytest

from adnerf_jax.common import progress
from adnerf_jax.common.progress import Bar, duration, say, track


class Clock:
    """Stands for `time.monotonic`."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    monkeypatch.setattr(progress, "_unfinished", False)
    return clock


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal: what is shown on its last line."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def shown(self) -> str:
            return self.getvalue().split("\r\x1b[K")[-1]

    stream = Terminal()
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stream))
    return stream


def test_the_first_step_compiles_and_is_not_in_the_time_left(terminal, clock):
    bar = Bar("head", 2001, "steps", compiles=True)
    assert "0/2001 steps compiling" in terminal.shown()
    clock.now += 90.0
    bar.update()
    assert terminal.shown().endswith("1/2001 steps compiled in 1 min 30 s")
    assert bar.rate is None and bar.seconds_left is None
    for _ in range(4):
        clock.now += 0.25
        bar.update(note="loss 0.1")
    assert terminal.shown().endswith("5/2001 steps 4.0/s 8 min 19 s left loss 0.1")
    assert bar.rate == 4.0 and bar.seconds_left == 1996 / 4


def test_a_log_file_says_that_the_first_step_compiles(capsys, clock):
    bar = Bar("head", 1000, "steps", compiles=True)
    clock.now += 60.0
    bar.update()
    clock.now += 40.0
    bar.update(20)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("| ")[2] for line in lines] == [
        "0/1000 steps compiling",
        "1/1000 steps compiled in 1 min 00 s",
        "21/1000 steps 0.5/s 32 min 38 s left",
    ]


def test_a_first_unit_that_compiles_nothing(terminal, clock):
    bar = Bar("frames", 12)
    assert terminal.shown().endswith("0/12 frames starting")
    clock.now += 8.0
    bar.update()
    assert terminal.shown().endswith("1/12 frames 8 s")
    clock.now += 1.0
    bar.update()
    assert terminal.shown().endswith("2/12 frames 1.0/s 10 s left")


def test_a_log_file_is_silent_in_the_first_seconds_of_a_bar_without_compilation(capsys, clock):
    bar = Bar("frames", 12)
    for _ in range(5):
        clock.now += 1.0
        bar.update()
    assert capsys.readouterr().err == ""


def test_what_an_earlier_run_did_is_not_in_the_rate(terminal, clock):
    bar = Bar("render", 100, done=50, compiles=True)
    assert terminal.shown().endswith("50/100 frames compiling")
    clock.now += 30.0
    bar.update()
    clock.now += 2.0
    bar.update()
    assert terminal.shown().endswith("52/100 frames 0.5/s 1 min 36 s left")


def test_nothing_compiles_where_all_is_done(capsys, clock):
    Bar("head", 40, "steps", done=40, compiles=True).close()
    line = capsys.readouterr().err
    assert line.endswith("| 40/40 steps 0 s\n") and line.count("\n") == 1


def test_the_end_shows_the_time_spent(terminal, clock):
    bar = Bar("head", 3, "steps", compiles=True)
    for seconds in (10.0, 0.5, 0.5):
        clock.now += seconds
        bar.update()
    bar.close(note="done")
    assert terminal.shown().endswith("3/3 steps 2.0/s 11 s done\n")


def test_without_a_total_the_time_spent_is_shown(terminal, clock):
    bar = Bar("fetching", None, "MiB")
    assert terminal.shown() == "fetching: 0 MiB starting"
    bar.update(0)
    assert terminal.shown() == "fetching: 0 MiB starting"
    for _ in range(3):
        clock.now += 2.0
        bar.update(4)
    assert terminal.shown() == "fetching: 12 MiB 2.0/s 6 s"


def test_tracked_items_are_counted_after_their_use(terminal, clock):
    for item in track([5.0, 1.0, 1.0], "evaluation", compiles=True):
        if item == 5.0:
            assert terminal.shown().endswith("0/3 frames compiling")
        clock.now += item
    assert terminal.shown().endswith("3/3 frames 1.0/s 7 s\n")


def test_a_message_takes_the_place_of_an_unfinished_bar(terminal, clock):
    bar = Bar("head", 10, "steps", compiles=True)
    say("a message")
    assert terminal.shown() == "a message\n"
    bar.update()
    bar.close()
    before = terminal.getvalue()
    say("another")
    assert terminal.getvalue() == before + "another\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.4, "59 s"), (185, "3 min 05 s"), (2 * 3600 + 7 * 60, "2 h 07 min"), (75 * 86400, "75 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
