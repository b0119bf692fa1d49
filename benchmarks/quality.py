"""Quality of the `fast` head against training time: held-out PSNR after 30 s, 1, 2, 4 and 8 minutes.

    python -m benchmarks.quality --data D --workdir W [--seconds 30 60 120 240 480]

trains a separate head for each time, with the number of steps that fits (the learning rate schedule ends with the
steps), and evaluates every held-out frame. Writes `W/quality.json` and its plot, `W/quality.html`. It takes the sum of
the times (15 minutes by default), two short trainings to calibrate, and the evaluations. After
an interruption, run it again to continue.
"""

import argparse
import pathlib
import time

from adnerf_jax.common.files import read_json, write_bytes, write_json
from adnerf_jax.configuration import base as common
from adnerf_jax.evaluation.evaluate import evaluate
from adnerf_jax.evaluation.reporting.charts import Line, line_chart
from adnerf_jax.evaluation.reporting.page import note, page
from adnerf_jax.training.train import train
from benchmarks.machine import REFERENCE_GFLOPS, matrix_rate

PROBE_STEPS = 100


def settings(data: str, steps: int):
    """The configuration of a fast head without validation and checkpoints before the last step."""
    config = common.get_config("head", "fast")
    with config.unlocked():
        config.data = data
    config.eval.update(lpips="", faces=False)
    config.train.steps = steps
    config.train.validate_every = config.train.checkpoint_every = steps
    return config


def train_for(data: str, workdir: pathlib.Path, steps: int) -> float:
    """Trains a head and returns the seconds, including compilation."""
    start = time.monotonic()
    train(settings(data, steps), workdir)
    return time.monotonic() - start


def measure(data: str, workdir: pathlib.Path, steps: int) -> dict:
    """Trains and evaluates a head: a row of the table."""
    seconds = train_for(data, workdir, steps)
    found = evaluate(settings(data, steps), workdir)["settings"]["head_only"]
    return {"steps": steps, "seconds": seconds, "psnr": found["psnr"], "ssim": found["ssim"], "gflops": matrix_rate()}


def plotted(rows: list[dict]) -> str:
    """A page with a chart of the table."""
    curve = Line("head_only", [row["seconds"] for row in rows], [row["psnr"] for row in rows])
    chart = line_chart("PSNR of held-out frames (dB)", [curve], "seconds of training, including compilation")
    rate = max(row["gflops"] for row in rows)
    return page("Quality against training time", chart, note(f"At {rate:.0f} GFLOP/s in float32 matrix products."))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a prepared dataset")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 60.0, 120.0, 240.0, 480.0])
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    file = workdir / "quality.json"
    rows = read_json(file, "quality")["rows"] if file.exists() else []
    if not rows:
        # Two lengths of training give the time of a step and the constant overhead.
        short, long = (train_for(arguments.data, workdir / f"probe{n}", n) for n in (PROBE_STEPS, 3 * PROBE_STEPS))
        step = (long - short) / (2 * PROBE_STEPS)
        overhead = max(short - PROBE_STEPS * step, 0.0)
        rows = [{"budget": s, "steps": max(round((s - overhead) / step), 1)} for s in sorted(arguments.seconds)]
    for i, row in enumerate(rows):
        if "psnr" not in row:
            rows[i] = {**row, **measure(arguments.data, workdir / f"head{row['steps']}", row["steps"])}
            write_json(file, {"rows": rows})
    print(f"{'s':>7}{f's at {REFERENCE_GFLOPS:.0f} GFLOP/s':>20}{'steps':>8}{'head_only dB':>14}{'SSIM':>7}")
    for row in rows:
        scaled = row["seconds"] * row["gflops"] / REFERENCE_GFLOPS
        print(f"{row['seconds']:7.0f}{scaled:20.0f}{row['steps']:8}{row['psnr']:14.2f}{row['ssim']:7.3f}")
    plot = workdir / "quality.html"
    write_bytes(plot, plotted(rows).encode())
    print(f"wrote {file} and {plot}")


if __name__ == "__main__":
    main()
