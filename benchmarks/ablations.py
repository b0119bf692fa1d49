"""The paper's ablations (section 4.2) at a size that two cores can train: two fields, an expression code, one field.

    python -m benchmarks.ablations --data D --workdir W

trains each setting on a dataset with the same number of rays (variant `small`: 112 pixels, a quarter of the width;
where there are two fields, half of the steps for each), evaluates every held-out frame with everything rendered, and
prints the table. Run again, it goes on where it stopped.
"""

import argparse
import pathlib
import time

from adnerf_jax.evaluate import evaluate
from adnerf_jax.files import read_json, write_json
from adnerf_jax.train import train
from benchmarks.machine import matrix_rate
from configs import common

# Name, variants, and the paper's SSIM on 500 test frames.
SETTINGS = (
    ("two fields, audio (the paper)", "small", 0.92),
    ("two fields, audio-estimated expression", "small,expression", 0.88),
    ("one field, audio", "small,single_nerf", 0.87),
)


def run_setting(variants: str, data: pathlib.Path, workdir: pathlib.Path, steps: int) -> dict:
    """Trains and evaluates a setting; `steps` in all, half of them for each field where there are two.

    Returns:
      {"seconds": of training, "full": its metrics, and for an expression code "tracked": those with it as tracked}.
    """
    single = "single_nerf" in variants
    stages = ("head",) if single else ("head", "torso")
    seconds_file = workdir / "seconds.json"
    seconds = read_json(seconds_file, "timing") if seconds_file.exists() else {}
    for stage in stages:
        config = common.get_config(stage, variants)
        with config.unlocked():
            config.data = str(data)
            # PSNR and SSIM are what the paper compares.
            config.eval.update(lpips="", faces=False)
            config.train.steps = steps if single else steps // 2
            config.train.validate_every = config.train.steps
            config.train.checkpoint_every = max(config.train.steps // 4, 1)
            if stage == "torso":
                config.head_checkpoint = str(workdir / "head")
        start = time.monotonic()
        train(config, workdir / stage)
        # A run that had ended before takes no time worth counting.
        seconds.setdefault(stage, time.monotonic() - start)
        write_json(seconds_file, seconds)
    result = {"seconds": sum(seconds.values()), "full": evaluate(config, workdir / stages[-1])["settings"]["full"]}
    if "expression" in variants:
        config.eval.tracked_expression = True
        result["tracked"] = evaluate(config, workdir / stages[-1])["settings"]["full"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a prepared dataset")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=1600, help="of 1024 rays, for each setting")
    parser.add_argument("--only", type=int, nargs="+", default=range(len(SETTINGS)), help="numbers of settings, from 0")
    arguments = parser.parse_args()
    rate = matrix_rate()
    results = {}
    for number in arguments.only:
        name, variants, _ = SETTINGS[number]
        results[name] = run_setting(
            variants, arguments.data, arguments.workdir / variants.replace(",", "_"), arguments.steps
        )
        write_json(arguments.workdir / f"setting{number}.json", results[name])
    print(f"{rate:.0f} GFLOP/s; {arguments.steps} steps of 1024 rays each")
    print(f"{'everything rendered, held-out frames':40}{'PSNR':>7}{'face':>7}{'SSIM':>7}{'paper':>7}{'minutes':>9}")
    for name, _, paper in SETTINGS:
        if name not in results:
            continue
        row(name, results[name]["full"], f"{paper:7.2f}{results[name]['seconds'] / 60:9.1f}")
        if "tracked" in results[name]:
            row("    the expression as tracked", results[name]["tracked"], "")


def row(name: str, values: dict, rest: str) -> None:
    """A line of the table."""
    print(f"{name:40}{values['psnr']:7.2f}{values['psnr_face']:7.2f}{values['ssim']:7.3f}{rest}")


if __name__ == "__main__":
    main()
