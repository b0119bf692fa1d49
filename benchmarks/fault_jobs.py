"""The jobs that `benchmarks.faults` starts, interrupts and compares by digests of their results."""

import functools
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from adnerf_jax.training import checkpoints

ROOT = pathlib.Path(__file__).parent.parent
STEPS, EVERY, LOG_EVERY = 60, 20, 5
# Faults do not depend on the size of the model, and the jobs are started some thirty times.
_SMALL = (
    "--config.model.head.grid.levels=2",
    "--config.model.head.shape_grid.levels=2",
    "--config.model.head.width=16",
    "--config.model.head.coarse_samples=16",
    "--config.train.rays=256",
)
PATIENCE = 900  # seconds after which a job counts as hanging


class Job:
    """A command that can be run repeatedly.

    Args:
      command: arguments, without the interpreter.
      result: digest of what the finished command has written.
      compiled: folder of compiled programs, unless the environment names one.
    """

    def __init__(self, command: list[str], result: Callable[[], str], compiled: pathlib.Path):
        self.command, self.result = [sys.executable, *command], result
        # All runs of a benchmark share compiled programs.
        shared = {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        self._environment = shared | os.environ

    def start(self, *options: str, **environment: str) -> subprocess.Popen:
        """Starts the command with additional options and environment variables."""
        return subprocess.Popen(
            [*self.command, *options],
            cwd=ROOT,
            env=self._environment | environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def finish(self) -> str:
        """Runs the command to its end and returns its standard error.

        Raises:
          RuntimeError: it failed.
        """
        return finished(self.start())


class Measured(NamedTuple):
    """A job, a function that deletes its output, its seconds without a fault, and its result without a fault."""

    job: Job
    reset: Callable[[], None]
    seconds: float
    expected: str

    def differs(self) -> bool:
        """Runs the job to its end; whether its result differs from the one without a fault."""
        self.job.finish()
        return self.job.result() != self.expected


def measured(job: Job, reset: Callable[[], None]) -> Measured:
    """Runs a job without a fault. Its duration, which includes compilation, is the longest of a later run."""
    reset()
    start = time.monotonic()
    job.finish()
    return Measured(job, reset, time.monotonic() - start, job.result())


def finished(process: subprocess.Popen) -> str:
    """Waits for a process to end with status 0 and returns its standard error.

    Raises:
      RuntimeError: it failed or hangs.
    """
    return check_status(process, wait_for_end(process))


def check_status(process: subprocess.Popen, errors: str) -> str:
    """Returns the standard error of an ended process.

    Raises:
      RuntimeError: its status is not 0.
    """
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {errors[-500:]}")
    return errors


def wait_for_end(process: subprocess.Popen, patience: float = PATIENCE) -> str:
    """Waits for a process to end, with any status, and returns its standard error.

    Raises:
      RuntimeError: it did not end within `patience` seconds; it is killed.
    """
    try:
        return process.communicate(timeout=patience)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        errors = process.communicate()[1]
        raise RuntimeError(f"no end within {patience:.0f} s: {errors[-500:]}") from None


def interrupted(process: subprocess.Popen, number: signal.Signals, seconds: float) -> tuple[bool, str]:
    """Sends a signal after some seconds; whether the process was still running, and its standard error."""
    try:
        return False, process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return True, wait_for_end(process)


def wait_until(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits until a condition holds while a process runs.

    Raises:
      RuntimeError: the process ended before.
    """
    while not reached():
        if process.poll() is not None:
            raise RuntimeError(f"ended too early, status {process.returncode}: {process.communicate()[1][-500:]}")
        time.sleep(0.01)


def free_address() -> str:
    """A free host:port on this machine for the coordinator."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return f"localhost:{one.getsockname()[1]}"


def start_both(job: Job) -> list[subprocess.Popen]:
    """Starts one job in two processes."""
    together = (f"--coordinator={free_address()}", "--processes=2")
    return [job.start(*together, f"--process={index}", JAX_PLATFORMS="cpu") for index in range(2)]


def finish_both(job: Job) -> None:
    """Runs one job in two processes to its end; where one fails, both are killed.

    Raises:
      RuntimeError: one of them failed.
    """
    started = start_both(job)
    try:
        for process in started:
            finished(process)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def training(data: pathlib.Path, workdir: pathlib.Path, steps: int = STEPS, every: int = EVERY) -> Job:
    """The training of a small head, with a checkpoint after `every` steps; compiled programs are kept beside it."""
    command = [
        "run.py",
        "--config=configs/head.py:fast,smoke",
        f"--config.data={data}",
        f"--workdir={workdir}",
        f"--config.train.steps={steps}",
        f"--config.train.checkpoint_every={every}",
        f"--config.train.validate_every={steps}",
        f"--config.train.log_every={LOG_EVERY}",
        *_SMALL,
    ]
    return Job(command, lambda: trained_result(workdir), workdir.parent / "compiled")


def trained_result(workdir: pathlib.Path) -> str:
    """Step and digests of all arrays of the newest checkpoint, and the number of logged lines."""
    step = checkpoints.latest_step(workdir)
    arrays = checkpoints.read_metadata(checkpoints.directory(workdir) / str(step))["arrays"]
    lines = logged(workdir)
    return repr((step, lines, sorted((name, one["digest"]) for name, one in arrays.items())))


def folder_result(folder: pathlib.Path) -> str:
    """Digest of the files in a folder, except hidden files and those that contain times."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts) and path.name not in ("manifest.json", "report.json"):
            digest.update(str(name).encode() + path.read_bytes())
    return digest.hexdigest()


def frames_result(video: pathlib.Path) -> str:
    """Digest of a video's decoded frames."""
    from adnerf_jax.media.video import read_frames

    digest = hashlib.sha256()
    for frame in read_frames(video):
        digest.update(frame.tobytes())
    return digest.hexdigest()


def logged(workdir: pathlib.Path) -> int:
    """Number of lines in `metrics.jsonl`."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


class Bench:
    """What the rows share: inputs, folders, and the jobs with their results without a fault.

    Args:
      data: a small dataset, which is modified.
      home: folder that everything is written to.
      audio: speech to render; None: no rows that render.
      video: video to prepare; None: no rows that prepare.
    """

    def __init__(self, data: pathlib.Path, home: pathlib.Path, audio: pathlib.Path | None, video: pathlib.Path | None):
        self.data, self.home, self.audio, self.video = data, home, audio, video
        self.reference, self.workdir = home / "reference", home / "disturbed"

    @functools.cached_property
    def head(self) -> Measured:
        """The training, measured without a fault; faults happen in another workdir."""
        alone = measured(training(self.data, self.reference), lambda: remove(self.reference))
        return alone._replace(job=training(self.data, self.workdir), reset=lambda: remove(self.workdir))

    @functools.cached_property
    def render(self) -> Measured:
        """A talking video of the head that was trained without a fault."""
        assert self.head.expected  # trains the head on first use
        command = ["run.py", "--mode=render", "--config=configs/head.py:fast", f"--workdir={self.reference}"]
        command += [f"--config.render.audio={self.audio.absolute()}", f"--config.render.out={self.talking}"]

        def reset() -> None:
            remove(self.talking)
            remove(self.frames)

        return measured(Job(command, lambda: frames_result(self.talking), self.compiled), reset)

    @functools.cached_property
    def prepare(self) -> Measured:
        """The preparation of a video."""
        command = ["-m", "preprocessing", "--video", str(self.video.absolute()), "--out", str(self.prepared)]
        job = Job(command, lambda: folder_result(self.prepared), self.compiled)
        return measured(job, lambda: remove(self.prepared))

    @property
    def compiled(self) -> pathlib.Path:
        return self.home / "compiled"

    @property
    def talking(self) -> pathlib.Path:
        return self.home / "talking.mp4"

    @property
    def frames(self) -> pathlib.Path:
        return self.home / "talking.mp4.frames"

    @property
    def prepared(self) -> pathlib.Path:
        return self.home / "prepared"


def remove(path: pathlib.Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
