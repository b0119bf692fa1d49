"""What happens to long jobs: kills, preemptions, damaged files and full disks, and that nothing is lost by them.

    python -m benchmarks.faults --data D --workdir W --audio S.wav --video V.mp4 [--rows training,sigterm,…] [--most 2]

trains a small head on dataset D undisturbed, then again and again with something happening, and compares the last
checkpoint's digests (parameters and optimizer). Renders (`--audio S.wav` in the training's own poses) are compared by
their frames, preparations (`--video V.mp4`) by the files of their datasets. A line for each kind of fault as soon as it
is through, and one that sums up. `--rows` takes some of them alone; what they compare with is made anew. Linux only.
`python run.py --config=configs/quickstart.py:smoke` makes such inputs: `dataset`, `subject/driving.wav` and
`subject/subject.mp4`.
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
    PATIENCE,
    STEPS,
    Bench,
    Measured,
    finish_both,
    interrupted,
    logged,
    said_at_end,
    start_both,
    training,
    wait_until,
    well,
)

PREEMPTED = 75
PAIR_STEPS = 60  # of two processes, which share the cores
LOST_WITHIN = 60  # seconds in which a process says that it has lost the other one
GROWN = "a file has grown"  # what is said where one may not


class Outcome(NamedTuple):
    """How often a fault happened, how often the end was another one than undisturbed, and notes."""

    times: int
    wrong: int
    note: str = ""


def kills(measured: Measured, count: int, rng: random.Random) -> Outcome:
    """SIGKILL at moments spread over the whole duration; begins anew where the job comes to its end."""
    done = wrong = 0
    measured.begin()
    while done < count:
        process = measured.job.start()
        killed, said = interrupted(process, signal.SIGKILL, rng.uniform(0.2, 1.0) * measured.seconds)
        if killed:
            done += 1
            continue
        well(process, said)
        wrong += measured.job.result() != measured.expected
        measured.begin()
    return Outcome(count, wrong + measured.lost())


def kills_in_writing(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """SIGKILL while a checkpoint is being written: one counts that leaves it unfinished."""
    head = bench.head
    done = wrong = 0
    head.begin()
    while done < count:
        started = time.time_ns()

        def writing(since: int = started) -> bool:
            for path in checkpoints.directory(bench.workdir).glob("*.orbax-checkpoint-tmp"):
                try:
                    if path.stat().st_ctime_ns > since:  # not one that an earlier kill has left
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
        said = process.communicate()[1]
        if not killed or process.returncode != -signal.SIGKILL:
            well(process, said)
        done += writing()
        if checkpoints.latest_step(bench.workdir) == STEPS:
            wrong += head.lost()
            head.begin()
    return Outcome(count, wrong + head.lost())


def terminations(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """SIGTERM: the documented status, or in the last instant all done; and the same end."""
    head = bench.head
    head.begin()
    saved = done = told = wrong = 0
    while told < count:
        process = head.job.start()
        running, said = interrupted(process, signal.SIGTERM, rng.uniform(0.4, 0.9) * head.seconds)
        if not running:  # it was at its end before
            well(process, said)
            wrong += head.job.result() != head.expected
            head.begin()
            continue
        told += 1
        if process.returncode == PREEMPTED and "is saved at step" in said:
            saved += 1
        elif process.returncode == 0 and "is trained already" in head.job.finish():
            done += 1
        else:
            print(f"status {process.returncode}: {said[-300:]}")
    note = f"{saved} saved with status {PREEMPTED}, {done} had finished"
    return Outcome(count, wrong + count - saved - done + head.lost(), note)


def damages(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """The newest checkpoint truncated, a bit of it flipped, half of its files gone."""
    head = bench.head
    head.begin()
    shutil.copytree(bench.undisturbed, bench.workdir)
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
        said = head.job.finish()
        if f"the checkpoint of step {STEPS}" not in said or head.job.result() != head.expected:
            wrong += 1
            print(f"{kind}: {said[-300:]}")
    return Outcome(count, wrong, "each said, the one before taken")


def filled(measured: Measured, reached: Callable[[], bool], limit: Callable[[], int], word: str) -> int:
    """A disk that fills under a job: from a moment on no file of it may grow beyond a size (RLIMIT_FSIZE).

    Args:
      measured: the job.
      reached: whether the moment has come.
      limit: bytes, asked at that moment.
      word: of what is said then.

    Returns:
      0 where it ends in one line that says so, and goes on to the same result; else 1.
    """
    measured.begin()
    process = measured.job.start()
    wait_until(reached, process)
    size = limit()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    said = said_at_end(process)
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    clear = process.returncode == 1 and len(errors) == 1 and word in errors[0] and "Traceback" not in said
    if clear and not measured.lost():
        return 0
    print(f"{size} bytes, status {process.returncode}: {said[-500:]}")
    return 1


def all_filled(measured: Measured, *cases: tuple[str, Callable[[], bool], Callable[[], int], str]) -> Outcome:
    """A disk that fills at several moments: what is being done then, and what `filled` takes."""
    wrong = sum(filled(measured, *case) for _, *case in cases)
    return Outcome(len(cases), wrong, ", ".join(doing for doing, *_ in cases) + ": one line each, resumed")


def full_in_training(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """Full at a line of the log, at a checkpoint, and from the start."""
    metrics = bench.workdir / "metrics.jsonl"
    # Between two checkpoints none is being written: there only the log grows.
    between = lambda: logged(bench.workdir) * 5 % EVERY == EVERY * 3 // 4  # noqa: E731
    cases = (
        ("logging", between, lambda: metrics.stat().st_size, GROWN),
        ("saving", lambda: logged(bench.workdir) > 0, lambda: 200_000, "a checkpoint could not be written"),
        ("starting", lambda: True, lambda: 2_000, GROWN),
    )
    return all_filled(bench.head, *cases[:count])


def full_in_rendering(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """Full at a kept frame, and at the video."""
    sizes = lambda: [path.stat().st_size for path in bench.frames.glob("[0-9]*.png")]  # noqa: E731
    some = lambda: len(sizes()) > 9  # noqa: E731
    cases = (
        ("a frame", some, lambda: min(sizes()) // 2, GROWN),
        ("the video", some, lambda: 2 * max(sizes()), GROWN),
    )
    return all_filled(bench.render, *cases[:count])


def full_in_preprocessing(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """Full at a frame, at the landmarks, at what is kept while poses are found, and at a picture to train on."""

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
    """SIGKILL of one of two processes: the other one says so and ends; both started again end as undisturbed."""
    slowest, wrong = 0.0, 0
    whole = training(bench.data, bench.home / "two", PAIR_STEPS)
    finish_both(whole)
    for index in range(count):
        workdir = bench.home / f"two-{index}"
        job = training(bench.data, workdir, PAIR_STEPS)
        started = start_both(job)
        try:
            wait_until(lambda workdir=workdir: checkpoints.latest_step(workdir) is not None, started[0])
            time.sleep(rng.uniform(0.0, 1.0))
            # The second one first: the first one is the coordinator too.
            started[1 - index % 2].kill()
            since, left = time.monotonic(), started[index % 2]
            said = said_at_end(left, LOST_WITHIN)
            slowest = max(slowest, time.monotonic() - since)
        finally:
            for process in started:
                process.kill()
                process.communicate()
        told = "when another process of the run has ended" in said or "distributed service" in said
        finish_both(job)
        if left.returncode == 0 or not told or job.result() != whole.result():
            wrong += 1
            print(f"status {left.returncode}: {said[-500:]}")
    return Outcome(count, wrong, f"the other one said so within {slowest:.1f} s, both continued")


def changed_data(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """A picture removed or exchanged under a running job: refused by the next one until it is back."""
    head = bench.head
    pictures = sorted((bench.data / "gt").glob("[0-9]*.png"))
    before, other = pictures[1].read_bytes(), pictures[2].read_bytes()
    wrong = 0
    for content in (None, other)[:count]:
        head.begin()
        process = head.job.start()
        wait_until(lambda: checkpoints.latest_step(bench.workdir) is not None, process)
        try:
            pictures[1].unlink()
            if content is not None:
                pictures[1].write_bytes(content)
            _, told = interrupted(process, signal.SIGTERM, rng.uniform(0.0, 0.3) * head.seconds)
            again = head.job.start()
            said = said_at_end(again)
        finally:
            pictures[1].write_bytes(before)
        # What is missing may be made up for by a compressed picture: then the data are others.
        refused = again.returncode == 2 and "Traceback" not in told + said
        if not refused or process.returncode not in (0, PREEMPTED) or head.lost():
            wrong += 1
            print(f"status {process.returncode}, then {again.returncode}: {told[-300:]} {said[-300:]}")
    return Outcome(count, wrong, "refused, then continued")


class Row(NamedTuple):
    """A kind of fault: what the table calls it, how often it is made to happen, how, and the input it needs besides."""

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
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a small dataset; it is copied")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="what it holds is removed")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"by commas, of {', '.join(ROWS)}; default: all")
    parser.add_argument("--most", type=int, default=max(row.times for row in ROWS.values()), help="faults a row")
    parser.add_argument("--audio", type=pathlib.Path, help="speech to render")
    parser.add_argument("--video", type=pathlib.Path, help="video to prepare")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := set(names) - ROWS.keys():
        parser.error(f"no rows: {', '.join(sorted(unknown))}")
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
        except (RuntimeError, OSError) as error:  # the other rows go on
            outcome = Outcome(count, count, f"given up: {error}")
        times, wrong = times + outcome.times, wrong + outcome.wrong
        note = f"{outcome.note + '; ' if outcome.note else ''}{time.monotonic() - since:.0f} s"
        print(f"{row.fault:40}{outcome.times:6}{outcome.wrong:6}  {note}", flush=True)
    if left_out:
        print(f"left out: {', '.join(left_out)}")
    print(f"{times} faults: {wrong} lost or different results", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
