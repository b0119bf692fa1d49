"""The project's results table: `paper` at a size for two cores, `fast`, and ablations of `fast`.

    python -m benchmarks.own_table --data subject=D1 --data address=D2 --workdir W [--only "fast" "… no eye code"]

trains every setting on every dataset, evaluates every held-out frame and prints the table of docs/results.md, which has
the minutes of training of each row; all of them take hours. Finished settings are not repeated: run the same command
after an interruption, or with more datasets.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

import numpy as np

import run
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json, write_bytes, write_json
from adnerf_jax.common.progress import exit_status, say
from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.evaluation.reporting.evaluation import training_seconds
from adnerf_jax.face.landmarks import Landmarks, to_ibug68
from adnerf_jax.face.rigid import Pinhole
from adnerf_jax.face.tracking import track_head
from adnerf_jax.media.audio import read_audio
from adnerf_jax.preprocessing import transforms
from adnerf_jax.preprocessing.steps import canonical_face
from adnerf_jax.speech.features import get_encoder, speech_windows
from benchmarks.machine import matrix_rate

Change = Callable[[pathlib.Path, pathlib.Path], None]  # changes a copy (second) of a dataset (first)

COLUMNS = {  # columns of the table: setting, measure, digits
    "`head_only` PSNR": ("head_only", "psnr", 2),
    "`head` PSNR": ("head", "psnr", 2),
    "LPIPS": ("head", "lpips_alex", 4),
    "LMD": ("head", "lmd_px", 2),
    "lips": ("head", "lip_correlation", 2),
    "`full` PSNR": ("full", "psnr", 2),
    "SSIM": ("full", "ssim", 3),
    "LMD in `full`": ("full", "lmd_px", 2),
    "seam": ("full", "seam_error", 1),
}


def landmark_poses(source: pathlib.Path, copy: pathlib.Path) -> None:
    """Head poses tracked from landmarks alone, without optical flow and bundle adjustment."""
    found, index = Landmarks.load(source / schema.LANDMARKS), schema.load_index(source)
    head = track_head(found.points, found.valid, *Pinhole(index.focal, index.cx, index.cy), canonical_face())
    ids = np.concatenate([index.train.img_id, index.val.img_id])
    lms = to_ibug68(found.points[ids])
    transforms.write_index(copy, ids, head.transform[ids], lms, index.focal, round(2 * index.cx), round(2 * index.cy))


def logmel(source: pathlib.Path, copy: pathlib.Path) -> None:
    """Log-mel features instead of the dataset's own."""
    manifest = schema.load_manifest(source)
    frames = len(schema.load_audio_windows(source))
    windows = speech_windows(get_encoder("logmel"), read_audio(source / schema.SOUND, SAMPLE_RATE), frames)
    for name in (schema.AUDIO_WINDOWS, schema.MANIFEST):
        (copy / name).unlink(missing_ok=True)  # a hard link to the source's file
    np.save(copy / schema.AUDIO_WINDOWS, windows)
    write_json(copy / schema.MANIFEST, manifest | {"speech": {"encoder": "logmel"}})


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table.

    Attributes:
      variants: variants of the configuration.
      changes: fields to set in both stages' configurations.
      dataset: change of the dataset; None: the dataset as it is.
      torso: whether there is a torso stage.
      evaluation: fields to set for the evaluation.
    """

    variants: str = "fast"
    changes: dict[str, object] = dataclasses.field(default_factory=dict)
    dataset: Change | None = None
    torso: bool = True
    evaluation: dict[str, object] = dataclasses.field(default_factory=dict)


def _codes(*names: str) -> dict[str, object]:
    """Fields that set the head's condition codes; all codes but the audio code also weight the shape grids."""
    return {"model.head.codes": names, "model.head.shape_codes": names[1:]}


SETTINGS = {
    "paper, small, 2500 steps": Setting("small", {"train.steps": 2500}),
    "fast": Setting(),
    "… poses of landmarks alone": Setting(dataset=landmark_poses),
    "… no proposal": Setting(changes={"model.head.coarse_samples": 1}),
    # A torso would be conditioned on the audio code smoothed by an untrained attention network.
    "… no attention": Setting(
        changes={"train.attention_from": 10**9}, torso=False, evaluation={"eval.attention": False}
    ),
    "… no eye code": Setting(changes=_codes("audio", "lips")),
    "… no lip code": Setting(changes=_codes("audio", "eyes")),
    "… expression, no audio": Setting("fast,expression"),
    "… one field": Setting("fast,single_nerf", torso=False),
    "… log-mel, no Whisper": Setting(dataset=logmel),
}


def changed_dataset(source: pathlib.Path, copy: pathlib.Path, change: Change) -> pathlib.Path:
    """A copy of a dataset by hard links, changed by `change`; `copy` is renamed into place when it is complete."""
    if not copy.exists():
        unfinished = copy.with_name(copy.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished, copy_function=os.link)
        change(source, unfinished)
        unfinished.rename(copy)
    return copy


def run_setting(name: str, data: pathlib.Path, folder: pathlib.Path) -> dict:
    """Trains and evaluates a setting on a dataset, unless its result exists.

    Returns:
      {"settings": those of `metrics.json`, "seconds": training time}.
    """
    setting = SETTINGS[name]
    done = folder / "result.json"
    if done.exists():
        return read_json(done, "result")
    if setting.dataset is not None:
        data = changed_dataset(data, folder / "dataset", setting.dataset)
    stages = ("head", "torso") if setting.torso else ("head",)
    for stage in stages:
        where = f"--config.data={data}", f"--workdir={folder / stage}"
        _run(f"--config=configs/{stage}.py:{setting.variants}", *where, *_options(setting.changes))
    last = f"--config=configs/{stages[-1]}.py", f"--workdir={folder / stages[-1]}"
    _run("--mode=eval", *last, *_options(setting.evaluation))
    metrics = read_json(folder / stages[-1] / "eval" / "metrics.json", "evaluation")
    seconds = sum(training_seconds(folder / stage) for stage in stages)
    result = {"settings": metrics["settings"], "seconds": seconds}
    write_json(done, result)
    return result


def _options(fields: dict[str, object]) -> list[str]:
    return [f"--config.{name}={value}" for name, value in fields.items()]


def _run(*options: str) -> None:
    status = run.main(["run.py", *options])
    if status:
        raise UserError(
            f"run.py {' '.join(options)} ended with status {status}: run the same command again to continue"
        )


def markdown(results: dict[str, dict[str, dict]]) -> str:
    """The table of docs/results.md by dataset and setting."""
    lines = [f"| | {' | '.join(COLUMNS)} | minutes |", "|---" * (len(COLUMNS) + 2) + "|"]
    for dataset, of_setting in results.items():
        for name, result in of_setting.items():
            cells = []
            for setting, measure, digits in COLUMNS.values():
                value = result["settings"].get(setting, {}).get(measure)
                cells.append("" if value is None else f"{value:.{digits}f}")
            lines.append(f"| {dataset}, {name} | {' | '.join(cells)} | {result['seconds'] / 60:.0f} |")
    return "\n".join(lines)


def own_table(data: Sequence[str], workdir: pathlib.Path, only: Sequence[str]) -> None:
    """Trains and evaluates the settings on all datasets; prints the table and writes it to `table.md`."""
    unknown = [name for name in only if name not in SETTINGS]
    if unknown:
        raise UserError(f"no setting is called {unknown[0]}; there are: {'; '.join(SETTINGS)}")
    datasets = {}
    for text in data:
        name, equals, path = text.partition("=")
        if not equals or not (pathlib.Path(path) / schema.TRANSFORMS["train"]).exists():
            raise UserError(f"--data {text} names no dataset: use --data NAME=FOLDER")
        datasets[name] = pathlib.Path(path)
    rate, results = matrix_rate(), {}
    for dataset, path in datasets.items():
        results[dataset] = {}
        for number, name in enumerate(SETTINGS):
            if name in only or not only:
                say(f"[{dataset}: {name}]")
                results[dataset][name] = run_setting(name, path, workdir / dataset / str(number))
                table = markdown(results) + f"\n\nMinutes of training at {rate:.0f} GFLOP/s.\n"
                write_bytes(workdir / "table.md", table.encode())
    print(table, end="")


def main(argv: Sequence[str]) -> int:
    """Parses the command line and runs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_table", description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", required=True, metavar="NAME=FOLDER", help="once for each dataset")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="+", default=[], help="names of the settings to run; default: all")
    options = parser.parse_args(argv)
    return exit_status(lambda: own_table(options.data, options.workdir, options.only))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
