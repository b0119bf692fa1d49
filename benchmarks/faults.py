"""Fault injection into long jobs: kills, preemption, damaged files and full disks must not change any result.

    python -m benchmarks.faults --data D --workdir W --audio S.wav --video V.mp4 [--rows training,sigterm,…] [--most 2]

trains a small head on dataset D without a fault, then repeatedly with injected faults, and compares the digests of the
last checkpoint (parameters and optimiser). Renders (`--audio S.wav`, in the poses of the training) are compared by
their frames, preparations (`--video V.mp4`) by the files of their datasets. Prints a line for each kind of fault, with
its duration, and a summary. `--rows` selects kinds of faults, `--most` limits the faults of each; a row takes about as
many runs of its job as it has faults. Linux only. `python run.py --config=configs/quickstart.py:smoke` makes suitable
inputs: `dataset`, `subject/driving.wav` and `subject/subject.mp4`.
"""

import argparse
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from adnerf_jax.training import checkpoints
from benchmarks.fault_jobs import (
    EVERY,
    LOG_EVERY,
    PATIENCE,
    STEPS,
    Bench,
    Measured,
    check_status,
    finish_both,
    interrupted,
    logged,
    start_both,
    training,
    wait_for_end,
    wait_until,
)

PREEMPTED = 75
# A training in two processes: few steps, since on one core the two wait for each other most of the time.
PAIR_STEPS, PAIR_EVERY = 32, 8
LOST_WITHIN = 60  # seconds within which a process must notice that the other one has ended
GROWN = "a file has grown"  # the error where a file may not grow further


class Outcome(NamedTuple):
    """How often a fault was injected, how often the result was wrong, and a note."""

    times: int
    wrong: int
    note: str = ""


def kills(measured: Measured, count: int, rng: random.Random) -> Outcome:
    """SIGKILL at random moments of the job, which starts from the beginning after it has finished."""
    done = wrong = 0
    seconds = measured.seconds
    measured.reset()
    while done < count:
        started = time.monotonic()
        process = measured.job.start()
        killed, output = interrupted(process, signal.SIGKILL, rng.uniform(0.2, 1.0) * seconds)
        if killed:
            done += 1
            continue
        check_status(process, output)
        seconds = min(seconds, time.monotonic() - started)
        wrong += measured.job.result() != measured.expected
        measured.reset()
    return Outcome(count, wrong + measured.differs())


def kills_in_writing(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """SIGKILL while a checkpoint is being written; only kills that leave it unfinished count."""
    head = bench.head
    done = wrong = 0
    head.reset()
    while done < count:
        started = time.time_ns()

        def writing(since: int = started) -> bool:
            for path in checkpoints.directory(bench.workdir).glob("*.orbax-checkpoint-tmp"):
                try:
                    if path.stat().st_ctime_ns > since:  # not left by an earlier kill
                        return True
                except FileNotFoundError:
                    continue  # finished just now
            return False

        process = head.job.start()
        while process.poll() is None and not writing() and time.time_ns() - started < PATIENCE * 1e9:
            time.sleep(0.001)
        killed = process.poll() is None
        if killed:
            time.sleep(rng.uniform(0.0, 0.1))
            process.kill()
        output = process.communicate()[1]
        if not killed or process.returncode != -signal.SIGKILL:
            check_status(process, output)
        done += writing()
        if checkpoints.latest_step(bench.workdir) == STEPS:
            wrong += head.differs()
            head.reset()
    return Outcome(count, wrong + head.differs())


def terminations(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """SIGTERM at a random step: the job must save, end with the documented status, and resume to the same result."""
    head = bench.head
    head.reset()
    saved = wrong = 0
    for _ in range(count):
        # In the first half of the steps that are left, so that it strikes while training.
        done = checkpoints.latest_step(bench.workdir) or 0
        if done > STEPS - 6 * LOG_EVERY:
            wrong += head.differs()
            head.reset()
            done = 0
        line = rng.randint(done // LOG_EVERY + 1, (done + STEPS) // 2 // LOG_EVERY)
        process = head.job.start()
        wait_until(lambda line=line: logged(bench.workdir) >= line, process)
        process.send_signal(signal.SIGTERM)
        output = wait_for_end(process)
        if process.returncode == PREEMPTED and "is saved at step" in output:
            saved += 1
        else:
            print(f"status {process.returncode}: {output[-300:]}")
    note = f"all while training, {saved} saved with status {PREEMPTED}"
    return Outcome(count, wrong + count - saved + head.differs(), note)


def damages(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """Damage of the newest checkpoint: truncation, a flipped bit, half of the files missing."""
    head = bench.head
    head.reset()
    shutil.copytree(bench.reference, bench.workdir)
    wrong = 0
    for kind in ("truncated", "flipped", "half missing")[:count]:
        newest = checkpoints.directory(bench.workdir) / str(STEPS)
        files = sorted((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        if kind == "truncated":
            os.truncate(files[-1], files[-1].stat().st_size // 2)
        elif kind == "flipped":
            content = bytearray(files[-1].read_bytes())
            content[rng.randrange(len(content) // 4, len(content) * 3 // 4)] ^= 1 << rng.randrange(8)
            files[-1].write_bytes(content)
        else:
            for file in files[::2]:
                file.unlink()
        output = head.job.finish()
        if f"the checkpoint of step {STEPS}" not in output or head.job.result() != head.expected:
            wrong += 1
            print(f"{kind}: {output[-300:]}")
    return Outcome(count, wrong, "each was reported, and the checkpoint before was used")


def filled(measured: Measured, reached: Callable[[], bool], limit: Callable[[], int], word: str) -> int:
    """Simulates a full disk: from some moment on, no file of the job may grow beyond a size (RLIMIT_FSIZE).

    Args:
      measured: the job.
      reached: whether the moment has come.
      limit: the size in bytes, evaluated at that moment.
      word: text that the error must contain.

    Returns:
      0 if the job ends with one line that contains `word` and then resumes to the same result; else 1.
    """
    measured.reset()
    process = measured.job.start()
    wait_until(reached, process)
    size = limit()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    output = wait_for_end(process)
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    clear = process.returncode == 1 and len(errors) == 1 and word in errors[0] and "Traceback" not in output
    if clear and not measured.differs():
        return 0
    print(f"{size} bytes, status {process.returncode}: {output[-500:]}")
    return 1


def all_filled(measured: Measured, *cases: tuple[str, Callable[[], bool], Callable[[], int], str]) -> Outcome:
    """Full disks at several moments: (what the job is doing then, arguments of `filled`)."""
    wrong = sum(filled(measured, *case) for _, *case in cases)
    return Outcome(len(cases), wrong, ", ".join(doing for doing, *_ in cases) + ": one error line each, then resumed")


def full_in_training(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """A full disk while logging, while saving a checkpoint, and from the start."""
    metrics = bench.workdir / "metrics.jsonl"
    # Halfway between two checkpoints only the log is being written.
    between = lambda: logged(bench.workdir) * LOG_EVERY % EVERY == EVERY * 3 // 4  # noqa: E731
    cases = (
        ("logging", between, lambda: metrics.stat().st_size, GROWN),
        ("saving", lambda: logged(bench.workdir) > 0, lambda: 200_000, "a checkpoint could not be written"),
        ("starting", lambda: True, lambda: 2_000, GROWN),
    )
    return all_filled(bench.head, *cases[:count])


def full_in_rendering(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """A full disk while writing a frame, and while encoding the video."""
    sizes = lambda: [path.stat().st_size for path in bench.frames.glob("[0-9]*.png")]  # noqa: E731
    some = lambda: len(sizes()) > 9  # noqa: E731
    cases = (
        ("a frame", some, lambda: min(sizes()) // 2, GROWN),
        ("the video", some, lambda: 2 * max(sizes()), GROWN),
    )
    return all_filled(bench.render, *cases[:count])


def full_in_preprocessing(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """A full disk while writing a frame, the landmarks, the files of the pose search, and a ground-truth image."""

    def since(doing: str, written: str, size: int) -> tuple[str, Callable[[], bool], Callable[[], int], str]:
        return doing, lambda: any(bench.prepared.glob(written)), lambda: size, GROWN

    cases = (
        since("a frame", "ori_imgs/*.jpg", 500),
        since("the landmarks", "ori_imgs/*.lms", 500),
        since("the poses", "parsing/*.png", 100_000),  # part maps are smaller
        since("a picture", "gt/[0-9]*.png", 500),
    )
    return all_filled(bench.prepare, *cases[:count])


def one_of_two(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """SIGKILL of one of two processes: the other must end with an error; both then resume to the same result."""
    slowest, wrong = 0.0, 0
    whole = training(bench.data, bench.home / "two", PAIR_STEPS, PAIR_EVERY)
    finish_both(whole)
    for index in range(count):
        workdir = bench.home / f"two-{index}"
        job = training(bench.data, workdir, PAIR_STEPS, PAIR_EVERY)
        started = start_both(job)
        try:
            wait_until(lambda workdir=workdir: checkpoints.latest_step(workdir) is not None, started[0])
            time.sleep(rng.uniform(0.0, 0.3))
            # Alternating, beginning with the second process; the first one is also the coordinator.
            started[1 - index % 2].kill()
            since, left = time.monotonic(), started[index % 2]
            output = wait_for_end(left, LOST_WITHIN)
            slowest = max(slowest, time.monotonic() - since)
        finally:
            for process in started:
                process.kill()
                process.communicate()
        reported = "when another process of the run has ended" in output or "distributed service" in output
        finish_both(job)
        if left.returncode == 0 or not reported or job.result() != whole.result():
            wrong += 1
            print(f"status {left.returncode}: {output[-500:]}")
    return Outcome(count, wrong, f"the other process ended within {slowest:.1f} s, both resumed")


def changed_data(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """A training image removed or replaced during a job: the next run must refuse it until it is restored."""
    head = bench.head
    pictures = sorted((bench.data / "gt").glob("[0-9]*.png"))
    before, other = pictures[1].read_bytes(), pictures[2].read_bytes()
    wrong = 0
    for content in (None, other)[:count]:
        head.reset()
        process = head.job.start()
        wait_until(lambda: checkpoints.latest_step(bench.workdir) is not None, process)
        try:
            pictures[1].unlink()
            if content is not None:
                pictures[1].write_bytes(content)
            _, first_output = interrupted(process, signal.SIGTERM, rng.uniform(0.0, 0.3) * head.seconds)
            again = head.job.start()
            output = wait_for_end(again)
        finally:
            pictures[1].write_bytes(before)
        # A missing image may be replaced by its compressed original; then the data differ.
        refused = again.returncode == 2 and "Traceback" not in first_output + output
        if not refused or process.returncode not in (0, PREEMPTED) or head.differs():
            wrong += 1
            print(f"status {process.returncode}, then {again.returncode}: {first_output[-300:]} {output[-300:]}")
    return Outcome(count, wrong, "refused, then resumed")


class Row(NamedTuple):
    """A kind of fault: name in the table, number of injections, function, and an optional input that it needs."""

    fault: str
    times: int
    run: Callable[[Bench, int, random.Random], Outcome]
    needs: str | None = None


ROWS = {
    "training": Row("SIGKILL in training", 20, lambda bench, *rest: kills(bench.head, *rest)),
    "writing": Row("SIGKILL while a checkpoint is written", 5, kills_in_writing),
    "sigterm": Row("SIGTERM", 5, terminations),
    "damage": Row("newest checkpoint damaged", 3, damages),
    "full-training": Row("disk full in training", 3, full_in_training),
    "data": Row("a data file removed or changed", 2, changed_data),
    "two": Row("one of two processes killed", 2, one_of_two),
    "rendering": Row("SIGKILL in rendering", 10, lambda bench, *rest: kills(bench.render, *rest), "audio"),
    "full-rendering": Row("disk full in rendering", 2, full_in_rendering, "audio"),
    "full-preprocessing": Row("disk full in preprocessing", 4, full_in_preprocessing, "video"),
    "preprocessing": Row("SIGKILL in preprocessing", 10, lambda bench, *rest: kills(bench.prepare, *rest), "video"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a small dataset, which is copied")
    parser.add_argument(
        "--workdir", type=pathlib.Path, required=True, help="folder for everything; existing content is deleted"
    )
    parser.add_argument(
        "--rows", default=",".join(ROWS), help=f"kinds of faults, separated by commas: {', '.join(ROWS)}; default: all"
    )
    parser.add_argument(
        "--most", type=int, default=max(row.times for row in ROWS.values()), help="limit of the faults of each kind"
    )
    parser.add_argument("--audio", type=pathlib.Path, help="speech to render")
    parser.add_argument("--video", type=pathlib.Path, help="video to prepare")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := set(names) - ROWS.keys():
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}")
    home = arguments.workdir.absolute()
    shutil.rmtree(home, ignore_errors=True)
    data = shutil.copytree(arguments.data, home / "data", ignore=shutil.ignore_patterns(".frames"))
    bench = Bench(data, home, arguments.audio, arguments.video)

    print(f"{'fault':40}{'times':>6}{'wrong':>6}", flush=True)
    times = wrong = 0
    left_out = []
    for name in names:
        row = ROWS[name]
        if row.needs and getattr(arguments, row.needs) is None:
            left_out.append(f"{name} (no --{row.needs})")
            continue
        count, since = min(row.times, arguments.most), time.monotonic()
        try:
            outcome = row.run(bench, count, random.Random(f"{arguments.seed} {name}"))
        except (RuntimeError, OSError) as error:  # the other rows still run
            outcome = Outcome(count, count, f"given up: {error}")
        times, wrong = times + outcome.times, wrong + outcome.wrong
        note = f"{outcome.note + '; ' if outcome.note else ''}{time.monotonic() - since:.0f} s"
        print(f"{row.fault:40}{outcome.times:6}{outcome.wrong:6}  {note}", flush=True)
    if left_out:
        print(f"left out: {', '.join(left_out)}")
    print(f"{times} faults: {wrong} wrong results", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
