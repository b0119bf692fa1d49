"""What happens to long jobs: kills, preemptions, damaged files and full disks, and that nothing is lost by them.

    python -m benchmarks.faults --data D --workdir W [--audio S.wav] [--video V.mp4] [--kills 20] [--render-kills 10] …

trains a small head on dataset D once undisturbed, then again and again with something happening, and compares the last
checkpoint's digests (parameters and optimizer). Renders with kills are compared by their frames (`--audio S.wav` in the
training's own poses), preparations with kills by the files of their datasets (`--video V.mp4`). A line for each kind of
fault, and one that sums up.
"""

import argparse
import hashlib
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from adnerf_jax import checkpoints

ROOT = pathlib.Path(__file__).parent.parent
PREEMPTED = 75
STEPS, EVERY = 200, 20


class Line(NamedTuple):
    """A kind of fault, how often it happened, how often the end was another one than undisturbed, and notes."""

    fault: str
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

    def start(self, file_size: int | None = None) -> subprocess.Popen:
        """Starts it; `file_size`: bytes that no file of it may exceed."""

        def limit() -> None:
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

        return subprocess.Popen(
            self.command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=limit
        )

    def finish(self) -> str:
        """Runs it to its end; what it said.

        Raises:
          RuntimeError: it failed.
        """
        process = self.start()
        said = process.communicate()[1]
        if process.returncode:
            raise RuntimeError(f"status {process.returncode}: {said[-500:]}")
        return said


def training(data: pathlib.Path, workdir: pathlib.Path) -> Job:
    """A small head's training."""
    command = [
        "run.py",
        "--config=configs/head.py:fast,smoke",
        f"--config.data={data}",
        f"--workdir={workdir}",
        f"--config.train.steps={STEPS}",
        f"--config.train.checkpoint_every={EVERY}",
        f"--config.train.validate_every={STEPS}",
        "--config.train.log_every=5",
    ]
    return Job(command, lambda: trained_result(workdir))


def trained_result(workdir: pathlib.Path) -> str:
    """Step and digests of all arrays of the newest checkpoint, and the reported steps."""
    step = checkpoints.latest_step(workdir)
    arrays = checkpoints.description(workdir, step)["arrays"]
    lines = (workdir / "metrics.jsonl").read_text().count("\n")
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


def kills(job: Job, expected: str, count: int, seconds: float, rng: random.Random, begin: Callable[[], None]) -> Line:
    """SIGKILL at moments spread over the whole duration; begins anew where the job comes to its end."""
    done = wrong = 0
    begin()
    while done < count:
        process = job.start()
        try:
            said = process.communicate(timeout=rng.uniform(0.2, 1.0) * seconds)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
            continue
        if process.returncode:
            print(said[-500:])
        wrong += process.returncode != 0 or job.result() != expected
        begin()
    job.finish()
    wrong += job.result() != expected
    return Line("", count, wrong)


def kills_in_writing(job: Job, expected: str, workdir: pathlib.Path, count: int) -> Line:
    """SIGKILL while a checkpoint is being written."""
    done = 0
    process = job.start()
    while done < count:
        writing = list(checkpoints.directory(workdir).glob("*orbax-checkpoint-tmp*"))
        if writing and process.poll() is None:
            process.kill()
            done += 1
        if process.poll() is not None:
            process.communicate()
            if checkpoints.latest_step(workdir) == STEPS:
                shutil.rmtree(workdir)
            process = job.start()
    process.kill()
    process.communicate()
    job.finish()
    return Line("SIGKILL while a checkpoint is written", count, job.result() != expected)


def terminations(
    job: Job, expected: str, workdir: pathlib.Path, count: int, seconds: float, rng: random.Random
) -> Line:
    """SIGTERM: the documented status, and the same end."""
    unclean = told = 0
    while told < count:
        process = job.start()
        try:
            process.communicate(timeout=rng.uniform(0.4, 0.9) * seconds)
            shutil.rmtree(workdir)  # it was at its end before
            continue
        except subprocess.TimeoutExpired:
            process.terminate()
        said = process.communicate()[1]
        told += 1
        if process.returncode != PREEMPTED or "is saved at step" not in said:
            unclean += 1
            print(f"status {process.returncode}: {said[-300:]}")
    job.finish()
    return Line("SIGTERM", count, unclean + (job.result() != expected), f"{count - unclean} with status {PREEMPTED}")


def damages(job: Job, expected: str, workdir: pathlib.Path) -> Line:
    """The newest checkpoint truncated, a bit of it flipped, half of its files gone."""
    wrong, kinds = 0, ("truncated", "flipped", "half missing")
    for kind in kinds:
        newest = checkpoints.directory(workdir) / str(STEPS)
        files = sorted((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        if kind == "truncated":
            os.truncate(files[-1], files[-1].stat().st_size // 2)
        elif kind == "flipped":
            content = bytearray(files[-1].read_bytes())
            content[len(content) // 2] ^= 1
            files[-1].write_bytes(content)
        else:
            for file in files[::2]:
                file.unlink()
        said = job.finish()
        if f"the checkpoint of step {STEPS}" not in said or job.result() != expected:
            wrong += 1
            print(f"{kind}: {said[-300:]}")
    return Line("newest checkpoint damaged", len(kinds), wrong, "each said")


def full_disks(job: Job, expected: str, workdir: pathlib.Path) -> Line:
    """No file may grow beyond some sizes: decoding, logging and saving end at one of them, in one line."""
    wrong, sizes = 0, (2_000, 20_000, 200_000)
    for size in sizes:
        shutil.rmtree(workdir, ignore_errors=True)
        process = job.start(size)
        said = process.communicate()[1]
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        clear = process.returncode == 1 and len(errors) == 1 and "Traceback" not in said
        job.finish()
        if not clear or job.result() != expected:
            wrong += 1
            print(f"{size} bytes, status {process.returncode}: {said[-500:]}")
    return Line("files may not grow (RLIMIT_FSIZE)", len(sizes), wrong, "one line each, resumed")


def changed_data(job: Job, expected: str, data: pathlib.Path, workdir: pathlib.Path, seconds: float) -> Line:
    """A picture removed under a running job, and one exchanged before the next."""
    pictures = sorted((data / "gt").glob("[0-9]*.png"))
    victim, other = pictures[1].read_bytes(), pictures[2].read_bytes()
    wrong = 0
    try:
        for content in (None, other):
            shutil.rmtree(workdir, ignore_errors=True)
            process = job.start()
            try:
                process.communicate(timeout=0.6 * seconds)
            except subprocess.TimeoutExpired:
                pictures[1].unlink()
                if content is not None:
                    pictures[1].write_bytes(content)
                process.terminate()
                process.communicate()
            again = job.start()
            said = again.communicate()[1]
            # What is missing may be made up for by a compressed picture: then the data are others.
            wrong += again.returncode != 2 or "Traceback" in said
            pictures[1].write_bytes(victim)
    finally:
        pictures[1].write_bytes(victim)
    job.finish()
    return Line("a data file removed or changed", 2, wrong + (job.result() != expected), "refused, then continued")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a small dataset; it is copied")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--write-kills", type=int, default=5)
    parser.add_argument("--terminations", type=int, default=5)
    parser.add_argument("--render-kills", type=int, default=10)
    parser.add_argument("--prepare-kills", type=int, default=10)
    parser.add_argument("--audio", type=pathlib.Path, help="speech to render")
    parser.add_argument("--video", type=pathlib.Path, help="video to prepare")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, home = random.Random(arguments.seed), arguments.workdir.absolute()
    shutil.rmtree(home, ignore_errors=True)
    data = shutil.copytree(arguments.data, home / "data", ignore=shutil.ignore_patterns(".frames"))

    undisturbed = training(data, home / "undisturbed")
    undisturbed.finish()  # compiles
    shutil.rmtree(home / "undisturbed")
    seconds = timed(undisturbed)
    expected = undisturbed.result()
    workdir = home / "disturbed"
    job = training(data, workdir)

    def begin() -> None:
        shutil.rmtree(workdir, ignore_errors=True)

    lines = []
    if arguments.kills:
        line = kills(job, expected, arguments.kills, seconds, rng, begin)
        lines.append(line._replace(fault="SIGKILL in training"))
        begin()
    if arguments.write_kills:
        lines.append(kills_in_writing(job, expected, workdir, arguments.write_kills))
        begin()
    if arguments.terminations:
        lines.append(terminations(job, expected, workdir, arguments.terminations, seconds, rng))
    lines.append(damages(job, expected, workdir))
    lines.append(full_disks(job, expected, workdir))
    lines.append(changed_data(job, expected, data, workdir, seconds))
    if arguments.audio and arguments.render_kills:
        video = home / "talking.mp4"
        command = ["run.py", "--mode=render", "--config=configs/head.py:fast", f"--workdir={home / 'undisturbed'}"]
        command += [f"--config.render.audio={arguments.audio.absolute()}", f"--config.render.out={video}"]
        render = Job(command, lambda: frames_result(video))
        lines.append(disturbed(render, arguments.render_kills, rng, lambda: video.unlink(missing_ok=True), "rendering"))
    if arguments.video and arguments.prepare_kills:
        out = home / "prepared"
        command = ["-m", "preprocessing", "--video", str(arguments.video.absolute()), "--out", str(out)]
        prepare = Job(command, lambda: folder_result(out))
        remove = lambda: shutil.rmtree(out, ignore_errors=True)  # noqa: E731
        lines.append(disturbed(prepare, arguments.prepare_kills, rng, remove, "preprocessing"))

    print(f"{'fault':40}{'times':>6}{'wrong':>6}")
    for line in lines:
        print(f"{line.fault:40}{line.times:6}{line.wrong:6}  {line.note}")
    wrong, times = sum(line.wrong for line in lines), sum(line.times for line in lines)
    print(f"{times} faults: {wrong} lost or different results")
    sys.exit(1 if wrong else 0)


def timed(job: Job) -> float:
    """Seconds of a run."""
    start = time.monotonic()
    job.finish()
    return time.monotonic() - start


def disturbed(job: Job, count: int, rng: random.Random, begin: Callable[[], None], name: str) -> Line:
    """Kills of a job that is first run undisturbed."""
    begin()
    job.finish()
    begin()
    seconds = timed(job)
    expected = job.result()
    return kills(job, expected, count, seconds, rng, begin)._replace(fault=f"SIGKILL in {name}")


if __name__ == "__main__":
    main()
