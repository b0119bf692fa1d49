"""Compares evaluated runs, and videos of other programs, on the same frames: `compare(config, workdir)`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import given_path, read_json, write_bytes, write_json
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.configuration.checks import check_values
from adnerf_jax.data.datasets import dataset_of
from adnerf_jax.evaluation.bootstrap import BLOCK, LEVEL, correlations, draws, interval, means
from adnerf_jax.evaluation.protocol import (
    TRUTH_SETTINGS,
    curves,
    fit_expected_lips,
    frames_to_evaluate,
    read_table,
    versions,
)
from adnerf_jax.evaluation.reporting.comparison import cell, comparison_page
from adnerf_jax.evaluation.reporting.videos import video_positions
from adnerf_jax.evaluation.video_scores import score_video
from adnerf_jax.media.video import read_frames
from adnerf_jax.pretrained.lpips import NETWORKS
from adnerf_jax.training.runs import load_config

Table = dict[str, dict[str, dict[str, float]]]  # run, metric, then value, bounds and difference
_MUST_AGREE = ("version", "frames", "size", "truth", "truth_sha256")  # entries of the protocols
_FIGURE_FRAMES = 4
_PRINTED = ("psnr", "ssim", "lpips_alex", "lmd_px", "lip_correlation")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One column of the table: an evaluated run or a scored video.

    Attributes:
      name: name in the table.
      path: the stage's folder, or the video.
      protocol: protocol of its evaluation.
      settings: metrics of each setting.
      rows: metrics of each frame.
      video: video that shows its frames; None where there is none.
      positions: int [N], indices of the evaluated frames in that video.
      beside_truth: whether the video shows the ground truth to the left of each frame.
      note: remark for the report.
    """

    name: str
    path: pathlib.Path
    protocol: dict[str, Any]
    settings: dict[str, dict[str, float]]
    rows: Sequence[Mapping[str, Any]]
    video: pathlib.Path | None
    positions: np.ndarray
    beside_truth: bool
    note: str


def compare(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Writes `comparison.json` and `comparison.html`.

    Args:
      config: `compare` names what to compare; `data` is the dataset where only videos are compared.
      workdir: folder of the two files.

    Returns:
      the content of `comparison.json`: for each setting, run and metric the value with its 95 % bootstrap interval over
      the frames, and the difference from the first run with its own interval.

    Raises:
      UserError: settings out of range, fewer than two entries, an entry that was not evaluated or cannot be read, or
        evaluations by different protocols.
    """
    workdir = pathlib.Path(workdir)
    check_values(config, "compare", "seed")
    entries = _entries(config.compare.runs)
    runs = {name: _load_evaluation(name, path) for name, path in entries.items() if path.is_dir()}
    videos = {name: path for name, path in entries.items() if not path.is_dir()}
    _check_protocols(list(runs.values()))
    if videos:
        runs |= _score_videos(config, videos, list(runs.values()))
    contestants = [runs[name] for name in entries]
    _check_protocols(contestants)
    settings = _tables(contestants, config)
    if not settings:
        raise UserError(
            "nothing to compare: no setting was evaluated in two of them; there are "
            + "; ".join(f"{one.name}: {', '.join(one.settings)}" for one in contestants)
        )
    result = {
        "protocol": {name: contestants[0].protocol[name] for name in _MUST_AGREE}
        | {
            "intervals": f"{100 * LEVEL:.0f} % bootstrap intervals from {config.compare.resamples} resamples of the "
            f"frames in blocks of up to {BLOCK} consecutive frames, the same for all, seed {config.seed}",
        },
        "runs": {one.name: {"path": str(one.path), "note": one.note} for one in contestants},
        "versions": versions(),
        "settings": settings,
    }
    write_json(workdir / "comparison.json", result)
    figure = _figure(contestants)
    write_bytes(workdir / "comparison.html", comparison_page(result, figure).encode())
    _print_tables(settings)
    say(f"wrote {workdir}/comparison.json, comparison.html")
    return result


def _entries(given: str | None) -> dict[str, pathlib.Path]:
    """Parses `A,name=B,V.mp4` into paths by name."""
    entries: dict[str, pathlib.Path] = {}
    for text in filter(None, map(str.strip, (given or "").split(","))):
        name, equals, path = text.partition("=")
        name, path = (name, path) if equals and not pathlib.Path(text).exists() else (text, text)
        path = given_path(path)
        if not pathlib.Path(path).exists():
            raise UserError(
                f"config.compare.runs names {path}, which does not exist: give folders of stages, or videos"
            )
        if name in entries:
            raise UserError(f"config.compare.runs names {name} twice: give them different names, as in first={path}")
        entries[name] = pathlib.Path(path)
    if len(entries) < 2:
        raise UserError(
            "give two or more to compare: ", Option("compare.runs", "A,B,V.mp4"), ", folders of stages or videos"
        )
    return entries


def _load_evaluation(name: str, folder: pathlib.Path) -> Contestant:
    """Reads the evaluation in a stage's folder.

    Raises:
      UserError: the stage has not been evaluated, or its files are damaged.
    """
    config, metrics = load_config(folder), folder / "eval" / "metrics.json"
    again = _evaluate_again(config.stage, folder)
    if not metrics.exists():
        raise UserError(f"{folder} has not been evaluated: ", *again)
    result = read_json(metrics, "evaluation")
    if not isinstance(result, dict) or not set(_MUST_AGREE) <= set(result.get("protocol", ())):
        raise UserError(f"{metrics} is not an evaluation of this program: ", *again)
    video = folder / "eval" / "held_out.mp4"
    rows = read_table(folder / "eval" / "frames.csv")
    try:
        _check_complete(result, rows)
        times = curves(rows, next(iter(result["settings"])))["time"].astype(int)
        positions = video_positions(times, result["protocol"]["every"])
        model, protocol = result["model"], result["protocol"]
        note = f"{model['family']} {model['stage']}, {model['step']} steps; smoothing: {protocol['smoothing']}"
        if protocol["tracked_codes"]:
            note += f"; as tracked in the ground truth: {', '.join(protocol['tracked_codes'])}"
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise UserError(f"{folder}/eval is damaged ({type(error).__name__}: {error}): ", *again) from None
    shown = video if video.exists() else None
    return Contestant(name, folder, result["protocol"], result["settings"], rows, shown, positions, True, note)


def _evaluate_again(stage: str, folder: pathlib.Path) -> tuple[str | Option, ...]:
    """The end of a message: how a stage's folder is evaluated."""
    options = Option("mode", "eval"), Option("config", f"configs/{stage}.py"), Option("workdir", folder)
    return "evaluate it with ", options[0], " ", options[1], " ", options[2]


def _check_complete(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where `frames.csv` lacks frames or columns that `metrics.json` has metrics of."""
    counts = {name: sum(row["setting"] == name for row in rows) for name in result["settings"] if name != "cross"}
    expected = int(result["protocol"]["frames"].split()[0])
    for name, count in counts.items():
        if count != expected:
            raise ValueError(f"frames.csv has {count} frames in {name}, metrics.json {expected}")
        if "lip_correlation" in result["settings"][name] and not {"lip_opening", "lip_opening_truth"} <= rows[0].keys():
            raise ValueError("frames.csv lacks the columns of the lips")


def _check_protocols(contestants: Sequence[Contestant]) -> None:
    """Raises UserError where two were not evaluated on the same frames by the same protocol."""
    for one in contestants[1:]:
        first = contestants[0]
        different = [
            f"{name} ({first.protocol[name]}, {one.protocol[name]})"
            for name in _MUST_AGREE
            if first.protocol[name] != one.protocol[name]
        ]
        if different:
            raise UserError(
                f"{first.name} and {one.name} were evaluated by different protocols, so that their metrics are not "
                f"comparable: {'; '.join(different)}; evaluate both on the same frames by the same version"
            )


def _score_videos(
    config: ConfigDict, videos: dict[str, pathlib.Path], runs: Sequence[Contestant]
) -> dict[str, Contestant]:
    """Scores videos with the dataset, the frames and the metrics of the runs, or of `config` where there are none."""
    config = ConfigDict(config.to_dict())
    if runs:
        protocol, saved = runs[0].protocol, load_config(runs[0].path)
        config.data = config.data or saved.data
        config.size, config.train.tuning, config.compat = saved.size, saved.train.tuning, saved.compat
        config.eval.every = protocol["every"]
        config.eval.lpips = ",".join(name for name in NETWORKS if f"lpips_{name}" in protocol["measures"])
        config.eval.faces = "faces_found" in protocol["measures"]
    if config.data is None:
        raise UserError("give the dataset whose held-out frames the videos show: ", Option("data", "D"))
    dataset = dataset_of(config)
    train, split, frames = frames_to_evaluate(config, dataset)
    expected = fit_expected_lips(dataset, train) if config.eval.faces else None
    found = {}
    for name, path in videos.items():
        scored = score_video(
            path,
            dataset,
            split,
            frames,
            config.eval.every,
            config.compare.setting,
            expected,
            config.eval.lpips,
            config.eval.faces,
            config.eval.syncnet,
        )
        found[name] = Contestant(
            name, path, scored.protocol, scored.settings, scored.rows, path, scored.positions, False, scored.note
        )
    return found


def _tables(contestants: Sequence[Contestant], config: ConfigDict) -> dict[str, Table]:
    """The table of each setting that at least two contestants have."""
    tables = {}
    for setting in TRUTH_SETTINGS:
        present = [one for one in contestants if setting in one.settings]
        if len(present) > 1:
            tables[setting] = _table(present, setting, config.compare.resamples, config.seed)
    return tables


def _table(present: Sequence[Contestant], setting: str, count: int, seed: int) -> Table:
    """Metrics of the contestants with intervals, and their differences from the first one with intervals."""
    columns = [curves(one.rows, setting) for one in present]
    frames = len(columns[0]["frame"])
    rows = draws(frames, count, seed)
    shared = [name for name in present[0].settings[setting] if all(name in one.settings[setting] for one in present)]
    table: Table = {one.name: {} for one in present}
    for measure in shared:
        if measure == "lip_correlation":
            resampled = [correlations(own["lip_opening"], own["lip_opening_truth"], rows) for own in columns]
        else:  # a metric of the whole sequence, such as jitter, has no values of single frames
            resampled = [means(own[measure], rows) for own in columns if measure in own]
        per_frame = len(resampled) == len(present)
        for k, one in enumerate(present):
            entry = {"value": one.settings[setting][measure]}
            if per_frame:
                entry["low"], entry["high"] = interval(resampled[k])
            if k:
                entry["difference"] = entry["value"] - present[0].settings[setting][measure]
            if k and per_frame:
                low, high = interval(resampled[k] - resampled[0])
                entry |= {"difference_low": low, "difference_high": high}
            table[one.name][measure] = {name: round(value, 4) for name, value in entry.items() if np.isfinite(value)}
    return table


def _figure(contestants: Sequence[Contestant]) -> list[list[tuple[str, np.ndarray]]]:
    """A few evenly spaced frames from the videos: a row for each frame of (name, uint8 [H, W, 3]).

    The ground truth comes first where one of the videos shows it.
    """
    count = min(len(one.positions) for one in contestants)
    chosen = np.unique(np.linspace(0, count - 1, _FIGURE_FRAMES).astype(int))
    rows: list[list[tuple[str, np.ndarray]]] = [[] for _ in chosen]
    width, height = contestants[0].protocol["size"]  # a video of odd size has a row or column more
    for one in contestants:
        if one.video is None:
            continue
        wanted = {int(one.positions[i]): k for k, i in enumerate(chosen)}
        every = one.protocol["every"] if one.beside_truth else 1
        for position, image in enumerate(read_frames(one.video, FPS / every)):
            if position not in wanted:
                continue
            row = rows[wanted[position]]
            if one.beside_truth and not any(name == "truth" for name, _ in row):
                row.insert(0, ("truth", image[:height, :width]))
            left = width if one.beside_truth else 0
            row.append((one.name, image[:height, left : left + width]))
    return rows


def _print_tables(settings: dict[str, Table]) -> None:
    """Prints the main metrics of each table on the console."""
    for setting, runs in settings.items():
        for name, values in runs.items():
            cells = (f"{measure} {cell(values[measure])}" for measure in _PRINTED if measure in values)
            say(f"{setting}, {name}: " + ", ".join(cells))
