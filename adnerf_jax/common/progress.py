"""The console: a bar with rate and time left, for everything that takes more than a moment."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from adnerf_jax.common.errors import Option, Preempted, UserError, join_message
from adnerf_jax.common.files import explain_os_error

T = TypeVar("T")
# Of several processes that do the same, one speaks.
_silent = False


# How options are written in messages: by their names, until a command says what its flags are (`exit_status`).
_word: Callable[[Option], str] = str


def silence() -> None:
    """Leaves the console to another process of this run: from here on only errors are printed."""
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

    Args:
      label: what is being done.
      total: number of units, or None where it is not known beforehand.
      unit: name of a unit ("frames", "steps").
      done: units finished by an earlier, interrupted run; they do not count in the rate.
    """

    WIDTH = 24

    def __init__(self, label: str, total: int | None, unit: str = "frames", done: int = 0):
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._resumed = done
        self._start = time.monotonic()
        self._live = sys.stderr.isatty()
        self._next = self._start + (0.0 if self._live else 10.0)

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more units; `note` is shown at the end of the line."""
        self.done += count
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (0.2 if self._live else 30.0)
            self._draw(note, end="" if self._live else "\n")

    def close(self, note: str = "") -> None:
        """Draws the last state and ends the line."""
        self._draw(note, end="\n")

    def _draw(self, note: str, end: str) -> None:
        spent = time.monotonic() - self._start
        rate = (self.done - self._resumed) / spent if spent > 0 else 0.0
        parts = [f"{self.label}:"]
        if self.total:
            filled = int(self.WIDTH * min(self.done / self.total, 1.0))
            parts.append(f"|{'█' * filled}{'·' * (self.WIDTH - filled)}| {self.done}/{self.total} {self.unit}")
        else:
            parts.append(f"{self.done} {self.unit}")
        parts.append(f"{rate:.1f}/s")
        if self.total and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left" if rate else "starting")
        else:
            parts.append(duration(spent))
        if note:
            parts.append(note)
        if _silent:
            return
        print(("\r\x1b[K" if self._live else "") + " ".join(parts), end=end, file=sys.stderr, flush=True)


def track(items: Iterable[T], label: str, total: int | None = None, unit: str = "frames") -> Iterator[T]:
    """Yields from `items` while drawing a bar; `total` defaults to `len(items)` where it has one."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    bar = Bar(label, total, unit)
    for item in items:
        yield item
        bar.update()
    bar.close()


class Stopwatch:
    """How long iterators took for their values.

    Attributes:
      seconds: in all, since it was made or set to 0.
    """

    def __init__(self):
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


def exit_status(command: Callable[[], None], word: Callable[[Option], str] = "--{}".format) -> int:
    """Runs a command for the command line.

    Args:
      command: what to do.
      word: writes an option of a message as a flag of this command.

    Returns:
      0; 2 for what the user has to mend (`UserError`), 1 for what the machine refuses (`OSError`), 130 when
      interrupted, 75 when told to end (SIGTERM) with everything saved; each of them with one line on standard error.
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
    """One line to the user, of texts and of options that it names."""
    if not _silent:
        _print(join_message(parts, _word))


def _print(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
