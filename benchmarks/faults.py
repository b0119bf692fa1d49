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
import functools
import hashlib
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from adnerf_jax import checkpoints

ROOT = pathlib.Path(__file__).parent.parent
PREEMPTED = 75
STEPS, EVERY = 200, 20
PAIR_STEPS = 60  # of two processes, which share the cores
PATIENCE = 900  # seconds after which a job hangs
LOST_WITHIN = 60  # seconds in which a process says that it has lost the other one


class Outcome(NamedTuple):
    """How often a fault happened, how often the end was another one than undisturbed, and notes."""

    times: int
    wrong: int
    note: str = ""


class Job:
    """A command that can be started again and again.

    Args:
      command: arguments, without the interpreter.
      result: what is compared of its end.
    """

    def __init__(self, command: list[str], result: Callable[[], str]):
        self.command, self.result = [sys.executable, *command], result

    def start(self, *options: str, **environment: str) -> subprocess.Popen:
        """Starts it, with further options and variables."""
        return subprocess.Popen(
            [*self.command, *options],
            cwd=ROOT,
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def finish(self) -> str:
        """Runs it to its end; what it said.

        Raises:
          RuntimeError: it failed.
        """
        return finished(self.start())


class Measured(NamedTuple):
    """A job, what removes its work, the seconds that it takes undisturbed, and its result then."""

    job: Job
    begin: Callable[[], None]
    seconds: float
    expected: str

    def lost(self) -> bool:
        """Finishes the job; whether it ends otherwise than undisturbed."""
        self.job.finish()
        return self.job.result() != self.expected


def measured(job: Job, begin: Callable[[], None]) -> Measured:
    """Runs a job undisturbed, once to compile and once to measure."""
    begin()
    job.finish()
    begin()
    start = time.monotonic()
    job.finish()
    return Measured(job, begin, time.monotonic() - start, job.result())


def finished(process: subprocess.Popen) -> str:
    """Waits for a process to end well; what it said.

    Raises:
      RuntimeError: it failed.
    """
    return well(process, said_at_end(process))


def well(process: subprocess.Popen, said: str) -> str:
    """What a process said that has ended.

    Raises:
      RuntimeError: it failed.
    """
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {said[-500:]}")
    return said


def said_at_end(process: subprocess.Popen, patience: float = PATIENCE) -> str:
    """Waits for a process to end; what it said.

    Raises:
      RuntimeError: it hangs; it is killed.
    """
    try:
        return process.communicate(timeout=patience)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[1]
        raise RuntimeError(f"no end within {patience:.0f} s: {said[-500:]}") from None


def interrupted(process: subprocess.Popen, number: signal.Signals, seconds: float) -> tuple[bool, str]:
    """Sends a signal after some seconds; whether the process was still running, and what it said."""
    try:
        return False, process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return True, said_at_end(process)


def wait_until(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    """Returns as soon as a running process has reached something.

    Raises:
      RuntimeError: it ended before.
    """
    while not reached():
        if process.poll() is not None:
            raise RuntimeError(f"ended too early, status {process.returncode}: {process.communicate()[1][-500:]}")
        time.sleep(0.01)


def training(data: pathlib.Path, workdir: pathlib.Path, steps: int = STEPS) -> Job:
    """A small head's training."""
    command = [
        "run.py",
        "--config=configs/head.py:fast,smoke",
        f"--config.data={data}",
        f"--workdir={workdir}",
        f"--config.train.steps={steps}",
        f"--config.train.checkpoint_every={EVERY}",
        f"--config.train.validate_every={steps}",
        "--config.train.log_every=5",
    ]
    return Job(command, lambda: trained_result(workdir))


def trained_result(workdir: pathlib.Path) -> str:
    """Step and digests of all arrays of the newest checkpoint, and the reported steps."""
    step = checkpoints.latest_step(workdir)
    arrays = checkpoints.description(workdir, step)["arrays"]
    lines = logged(workdir)
    return repr((step, lines, sorted((name, one["digest"]) for name, one in arrays.items())))


def folder_result(folder: pathlib.Path) -> str:
    """Digests of the files of a folder, without those that begin with a dot and those that tell times."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts) and path.name not in ("manifest.json", "report.json"):
            digest.update(str(name).encode() + path.read_bytes())
    return digest.hexdigest()


def frames_result(video: pathlib.Path) -> str:
    """Digest of a video's decoded pictures."""
    from adnerf_jax.media.video import read_frames

    digest = hashlib.sha256()
    for frame in read_frames(video):
        digest.update(frame.tobytes())
    return digest.hexdigest()


def logged(workdir: pathlib.Path) -> int:
    """Lines of `metrics.jsonl`."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


class Bench:
    """What the rows share: inputs, folders, and the jobs as they go undisturbed.

    Args:
      data: a small dataset of its own.
      home: where everything is written.
      audio, video: to render, to prepare.
    """

    def __init__(self, data: pathlib.Path, home: pathlib.Path, audio: pathlib.Path | None, video: pathlib.Path | None):
        self.data, self.home, self.audio, self.video = data, home, audio, video
        self.undisturbed, self.workdir = home / "undisturbed", home / "disturbed"

    @functools.cached_property
    def head(self) -> Measured:
        """The training, in a workdir of its own."""
        alone = measured(training(self.data, self.undisturbed), lambda: remove(self.undisturbed))
        return alone._replace(job=training(self.data, self.workdir), begin=lambda: remove(self.workdir))

    @functools.cached_property
    def render(self) -> Measured:
        """Speech of the undisturbed head."""
        assert self.head.expected  # it is trained
        command = ["run.py", "--mode=render", "--config=configs/head.py:fast", f"--workdir={self.undisturbed}"]
        command += [f"--config.render.audio={self.audio.absolute()}", f"--config.render.out={self.talking}"]

        def begin() -> None:
            remove(self.talking)
            remove(self.frames)

        return measured(Job(command, lambda: frames_result(self.talking)), begin)

    @functools.cached_property
    def prepare(self) -> Measured:
        """The preparation of a video."""
        out = self.home / "prepared"
        command = ["-m", "preprocessing", "--video", str(self.video.absolute()), "--out", str(out)]
        return measured(Job(command, lambda: folder_result(out)), lambda: remove(out))

    @property
    def talking(self) -> pathlib.Path:
        return self.home / "talking.mp4"

    @property
    def frames(self) -> pathlib.Path:
        return self.home / "talking.mp4.frames"


def remove(path: pathlib.Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


def full_in_training(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """Full from the start, at a line of the log, and at a checkpoint."""
    metrics = bench.workdir / "metrics.jsonl"
    grown, unsaved = "a file has grown", "a checkpoint could not be written"
    # Between two checkpoints none is being written: there only the log grows.
    between = lambda: logged(bench.workdir) * 5 % EVERY == EVERY * 3 // 4  # noqa: E731
    cases = (
        (between, lambda: metrics.stat().st_size, grown),
        (lambda: logged(bench.workdir) > 0, lambda: 200_000, unsaved),
        (lambda: True, lambda: 2_000, grown),
    )[:count]
    wrong = sum(filled(bench.head, *case) for case in cases)
    return Outcome(count, wrong, ", ".join(("logging", "saving", "starting")[:count]) + ": one line each, resumed")


def full_in_rendering(bench: Bench, count: int, rng: random.Random) -> Outcome:
    """Full at a kept frame, and at the video."""
    sizes = lambda: [path.stat().st_size for path in bench.frames.glob("[0-9]*.png")]  # noqa: E731
    some = lambda: len(sizes()) > 9  # noqa: E731
    cases = ((some, lambda: min(sizes()) // 2), (some, lambda: 2 * max(sizes())))[:count]
    wrong = sum(filled(bench.render, *case, "a file has grown") for case in cases)
    return Outcome(count, wrong, ", ".join(("a frame", "the video")[:count]) + ": one line each, resumed")


def free_address() -> str:
    """host:port for the first of several processes on this machine."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return f"localhost:{one.getsockname()[1]}"


def start_both(job: Job) -> list[subprocess.Popen]:
    """One job in two processes."""
    together = (f"--coordinator={free_address()}", "--processes=2")
    return [job.start(*together, f"--process={index}", JAX_PLATFORMS="cpu") for index in range(2)]


def finish_both(job: Job) -> None:
    """Runs one job in two processes to its end; neither is left where the other fails.

    Raises:
      RuntimeError: one failed.
    """
    started = start_both(job)
    try:
        for process in started:
            finished(process)
    finally:
        for process in started:
            process.kill()
            process.communicate()


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
