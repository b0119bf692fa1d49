"""Start-up time of the commands: duration of one step, without and with compiled programs in the cache.

    python -m benchmarks.start_up --data D --audio S.wav --workdir W

prints a line for each command: `--help`, a training step of both stages, evaluating a frame, rendering a frame. The
times include reading the data, saving and, in the first run, compilation: the compilation cache is in `W`, which must
not exist, beside the trained stages. It takes as long as the printed times together: a few minutes.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

from benchmarks.machine import REFERENCE_GFLOPS, matrix_rate

_STAGES = ("head", "torso")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_up", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--audio", required=True, type=pathlib.Path)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/start_up"))
    arguments = parser.parse_args()
    if arguments.workdir.exists():
        raise SystemExit(f"{arguments.workdir} exists already: give a new folder")
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(arguments.workdir / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",  # as in `common.compilation`
    }
    head, torso = (arguments.workdir / name for name in _STAGES)
    training = "--config.train.steps=1", f"--config.data={arguments.data}"
    last = "--config=configs/torso.py", f"--workdir={torso}"
    commands = {
        "`--help`": ["--help"],
        "training, head": ["--config=configs/head.py:fast", f"--workdir={head}", *training],
        "training, torso": [
            "--config=configs/torso.py:fast",
            f"--workdir={torso}",
            *training,
            f"--config.head_checkpoint={head}",
        ],
        "evaluation": ["--mode=eval", *last, "--config.eval.every=100000"],
        "rendering": [
            "--mode=render",
            *last,
            f"--config.render.audio={arguments.audio}",
            "--config.render.duration=0.04",
        ],
    }
    seconds = {name: [] for name in commands}
    for _ in range(2):
        for stage in (head, torso):
            shutil.rmtree(stage, ignore_errors=True)
        for name, command in commands.items():
            start = time.monotonic()
            subprocess.run([sys.executable, "run.py", *command], check=True, capture_output=True, env=environment)
            seconds[name].append(time.monotonic() - start)
    print("| command, one step | first run, s | second run, s |\n|---|---|---|")
    for name, (first, second) in seconds.items():
        print(f"| {name} | {first:.1f} | {second:.1f} |")
    rate = matrix_rate()
    print(f"{rate:.0f} GFLOP/s; scaled to {REFERENCE_GFLOPS:g}: times {rate / REFERENCE_GFLOPS:.2f}")


if __name__ == "__main__":
    main()
