"""The paper's ablations (section 4.2) at a size for two CPU cores: two fields, an expression code, one field.

    python -m benchmarks.ablations --data D --workdir W

trains each setting with the same number of rays (variant `small`: 112 pixels, a quarter of the width; settings with two
fields give each half of the steps), evaluates every held-out frame in the setting `full` and prints the table. With
`--steps 1200`, a setting takes about 10 minutes on one core. After an interruption, run it again to continue.
"""

import argparse
import pathlib
from collections.abc import Collection

from ml_collections import ConfigDict

from adnerf_jax.common.files import write_json
from adnerf_jax.configuration import base as common
from adnerf_jax.evaluation.evaluate import evaluate
from adnerf_jax.evaluation.reporting.evaluation import training_seconds
from adnerf_jax.training.runs import apply_overrides, load_config
from adnerf_jax.training.train import train
from benchmarks.machine import matrix_rate

STEPS = 1600  # steps of 1024 rays, for each setting in the paper's family
# Name, variants, and the paper's SSIM on 500 test frames.
SETTINGS = (
    ("two fields, audio (the paper)", "small", 0.92),
    ("two fields, audio-estimated expression", "small,expression", 0.88),
    ("one field, audio", "small,single_nerf", 0.87),
)


def in_family(variants: str, family: str) -> str:
    """A setting's variants with `small`, the paper's family at the size for two cores, replaced by a family's."""
    return variants.replace("small", family)


def setting_folder(workdir: pathlib.Path, variants: str) -> pathlib.Path:
    """The folder of a setting's stages."""
    return workdir / variants.replace(",", "_")


def settings_of(workdir: pathlib.Path, **evaluation: object) -> ConfigDict:
    """A trained stage's configuration with some fields of `eval` set."""
    saved = load_config(workdir)
    given = common.get_config(saved.stage, None)
    return apply_overrides(saved, given, {f"eval.{name}": value for name, value in evaluation.items()}, workdir)


def train_setting(
    variants: str, data: pathlib.Path, workdir: pathlib.Path, steps: int | None, without: Collection[str] = ()
) -> dict[str, pathlib.Path]:
    """Trains the stages of a setting that are not finished yet.

    Args:
      variants: variants of the stages' configurations.
      data: the dataset.
      workdir: parent of the stages' folders.
      steps: total number of steps, half of them for each field where there are two; None: as configured.
      without: condition codes that the head is trained without.

    Returns:
      the stages' folders by name; the last stage renders everything.
    """
    single = "single_nerf" in variants
    folders = {stage: workdir / stage for stage in (("head",) if single else ("head", "torso"))}
    for stage, folder in folders.items():
        config = common.get_config(stage, variants)
        with config.unlocked():
            config.data = str(data)
            for key in ("codes", "shape_codes") if without else ():
                config.model.head[key] = tuple(name for name in config.model.head[key] if name not in without)
            if steps is not None:
                config.train.steps = steps if single else steps // 2
                config.train.validate_every = config.train.steps
                config.train.checkpoint_every = max(config.train.steps // 4, 1)
            if stage == "torso":
                config.head_checkpoint = str(workdir / "head")
        train(config, folder)
    return folders


def run_setting(variants: str, data: pathlib.Path, workdir: pathlib.Path, steps: int) -> dict:
    """Trains and evaluates a setting (`train_setting`).

    Returns:
      {"seconds": training time, "full": metrics} and, for an expression code, "tracked": metrics with the code as
      tracked in the ground truth.
    """
    folders = train_setting(variants, data, workdir, steps)
    last = list(folders.values())[-1]
    result = {"seconds": sum(map(training_seconds, folders.values()))}
    # The paper compares PSNR and SSIM. The last evaluation, from speech alone, is the one that stays in the folder.
    for name in ("tracked", "full") if "expression" in variants else ("full",):
        config = settings_of(last, lpips="", faces=False, tracked_codes="expression" if name == "tracked" else None)
        result[name] = evaluate(config, last)["settings"]["full"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a prepared dataset")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of 1024 rays for each setting")
    parser.add_argument("--only", type=int, nargs="+", default=range(len(SETTINGS)), help="indices of settings, from 0")
    arguments = parser.parse_args()
    rate = matrix_rate()
    results = {}
    for number in arguments.only:
        name, variants, _ = SETTINGS[number]
        folder = setting_folder(arguments.workdir, variants)
        results[name] = run_setting(variants, arguments.data, folder, arguments.steps)
        write_json(arguments.workdir / f"setting{number}.json", results[name])
    print(f"{rate:.0f} GFLOP/s; {arguments.steps} steps of 1024 rays each")
    print(f"{'everything rendered, held-out frames':40}{'PSNR':>7}{'face':>7}{'SSIM':>7}{'paper':>7}{'minutes':>9}")
    for name, _, paper in SETTINGS:
        if name not in results:
            continue
        print_row(name, results[name]["full"], f"{paper:7.2f}{results[name]['seconds'] / 60:9.1f}")
        if "tracked" in results[name]:
            print_row("    with the tracked expression", results[name]["tracked"], "")


def print_row(name: str, values: dict, rest: str) -> None:
    """Prints a line of the table."""
    print(f"{name:40}{values['psnr']:7.2f}{values['psnr_face']:7.2f}{values['ssim']:7.3f}{rest}")


if __name__ == "__main__":
    main()
