"""What commands print: progress bars with rate and time left, messages, and errors with their exit status."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from adnerf_jax.common.errors import Option, Preempted, UserError, as_argument, as_flag, join_message
from adnerf_jax.common.files import explain_os_error

T = TypeVar("T")
# Set in all processes of a run but the first, which alone prints.
_silent = False
# Whether the last line on the terminal is a bar's that is still redrawn.
_unfinished = False
# How options are written in messages: by their names, until a command sets how it writes flags (`exit_status`).
_word: Callable[[Option], str] = as_argument


def silence() -> None:
    """Prints nothing but errors from here on: another process of this run reports its progress."""
    global _silent
    _silent = True


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min, 75 days."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} days"


class Bar:
    """One line that is redrawn on a terminal, and printed now and then into a log file.

    The first unit of a run is not counted in the rate and in the time left: it compiles, loads or opens what the others
    then use. Until it is done, the line says so.

    Args:
      label: what is being done.
      total: number of units, or None where it is not known beforehand.
      unit: name of a unit ("frames", "steps").
      done: units finished by an earlier, interrupted run; they do not count in the rate.
      compiles: whether the first unit compiles what the others run.
    """

    WIDTH = 24

    def __init__(
        self, label: str, total: int | None, unit: str = "frames", *, done: int = 0, compiles: bool = False
    ) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._resumed, self._compiles = done, compiles
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None  # units done, and the time, when the first one was done
        self._live = sys.stderr.isatty()
        self._next = self._start + (0.0 if self._live else 10.0)
        if (compiles or self._live) and done != total:
            self._draw("", end="" if self._live else "\n")

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more units; `note` is shown at the end of the line."""
        self.done += count
        now = time.monotonic()
        if self._first is None and self.done > self._resumed:
            self._first = self.done, now
        if now >= self._next:
            self._next = now + (0.2 if self._live else 30.0)
            self._draw(note, end="" if self._live else "\n")

    def close(self, note: str = "") -> None:
        """Draws the last state and ends the line."""
        self._draw(note, end="\n", ended=True)

    @property
    def rate(self) -> float | None:
        """Units a second since the first one was done; None before the second one is."""
        if self._first is None or self.done == self._first[0]:
            return None
        spent = time.monotonic() - self._first[1]
        return (self.done - self._first[0]) / spent if spent > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Until all units are done, at the rate so far; None where rate or total are not known."""
        rate = self.rate
        return max(self.total - self.done, 0) / rate if self.total and rate else None

    def _draw(self, note: str, end: str, ended: bool = False) -> None:
        if not _silent:
            _print(f"{self.label}: {self._counts()} {self._pace(ended)} {note}".rstrip(), end)

    def _counts(self) -> str:
        if not self.total:
            return f"{self.done} {self.unit}"
        filled = int(self.WIDTH * min(self.done / self.total, 1.0))
        return f"|{'█' * filled}{'·' * (self.WIDTH - filled)}| {self.done}/{self.total} {self.unit}"

    def _pace(self, ended: bool) -> str:
        """The rate, and the time left; the time spent at the end, and where the total is not known."""
        rate, left = self.rate, self.seconds_left
        if ended:
            time_shown = duration(time.monotonic() - self._start)
        elif self._first is None:
            time_shown = "compiling" if self._compiles else "starting"
        elif left is not None:
            time_shown = f"{duration(left)} left"
        elif rate is None and self._compiles:
            time_shown = f"compiled in {duration(self._first[1] - self._start)}"
        else:
            time_shown = duration(time.monotonic() - self._start)
        return time_shown if rate is None else f"{rate:.1f}/s {time_shown}"


def track(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "frames", *, compiles: bool = False
) -> Iterator[T]:
    """Yields from `items` while drawing a `Bar`; `total` defaults to `len(items)` where it has one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    bar = Bar(label, total, unit, compiles=compiles)
    for item in items:
        yield item
        bar.update()
    bar.close()


class Stopwatch:
    """Measures how long iterators take to yield their values.

    Attributes:
      seconds: in all, since it was created or set to 0.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, values: Iterator[T]) -> Iterator[T]:
        """The values, which are never None."""
        while True:
            start = time.monotonic()
            value = next(values, None)
            self.seconds += time.monotonic() - start
            if value is None:
                return
            yield value


PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again


def exit_status(command: Callable[[], None], word: Callable[[Option], str] = as_flag) -> int:
    """Runs a command for the command line.

    Args:
      command: what to do.
      word: writes an option of a message as a flag of this command.

    Returns:
      0; 2 after an error of input or settings (`UserError`), 1 after one of the operating system (`OSError`), 130 after
      an interrupt from the keyboard, 75 after SIGTERM, with everything saved. Each but 0 prints one line on standard
      error.
    """
    global _word
    before, _word = _word, word
    try:
        command()
    except UserError as error:
        _print(f"error: {join_message(error.args, word)}")
        return 2
    except OSError as error:
        _print(f"error: {explain_os_error(error)}")
        return 1
    except Preempted as error:
        say(f"stopped by SIGTERM: {error}; run the same command again to continue")
        return PREEMPTED
    except KeyboardInterrupt:
        say("interrupted: run the same command again to continue")
        return 130
    finally:
        _word = before
    return 0


def say(*parts: str | Option) -> None:
    """Prints one line, made of texts and of the options that it names, on standard error."""
    if not _silent:
        _print(join_message(parts, _word))


def _print(line: str, end: str = "\n") -> None:
    """Prints a line on standard error, in the place of a bar's where that is not ended."""
    global _unfinished
    print(("\r\x1b[K" if _unfinished else "") + line, end=end, file=sys.stderr, flush=True)
    _unfinished = not end
