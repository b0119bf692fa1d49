"""Several runs, and videos of other programs, in one table on the same frames: `compare(config, workdir)`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json, write_bytes, write_json
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.configuration.checks import SEED, check_choice, check_ranges
from adnerf_jax.data.datasets import dataset_of
from adnerf_jax.evaluation.bootstrap import BLOCK, LEVEL, correlations, draws, interval, means
from adnerf_jax.evaluation.protocol import curves, frames_to_judge, known_sound, read_table, versions
from adnerf_jax.evaluation.reporting.comparison import cell, comparison_page
from adnerf_jax.evaluation.reporting.films import film_places
from adnerf_jax.evaluation.video_scores import score_video
from adnerf_jax.media.video import read_frames
from adnerf_jax.pretrained.lpips import NETWORKS
from adnerf_jax.training.runs import load_config

Table = dict[str, dict[str, dict[str, float]]]  # run, measure, what of it
SETTINGS = ("head_only", "head", "full")
_SAME = ("version", "frames", "size", "truth", "truth_sha256")  # of the protocols
_FIGURE_FRAMES = 4
_MOST_RESAMPLES = 10**5
_TOLD = ("psnr", "ssim", "lpips_alex", "lmd_px", "lip_correlation")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One column of the table.

    Attributes:
      name: in the table.
      path: a stage's folder, or a video.
      protocol: by which it was judged.
      settings: its numbers.
      rows: of its frames.
      film: video in which its frames can be seen; None where there is none.
      places: int [N], which of the film's frames they are.
      halved: whether the film shows the truth beside them, on the left.
      note: what else a reader should know.
    """

    name: str
    path: pathlib.Path
    protocol: dict[str, Any]
    settings: dict[str, dict[str, float]]
    rows: list[dict[str, Any]]
    film: pathlib.Path | None
    places: np.ndarray
    halved: bool
    note: str


def compare(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Writes `comparison.json` and `comparison.html`.

    Args:
      config: its `compare` says what to compare; `data` names the dataset where only videos are compared.
      workdir: where the files go.

    Returns:
      what `comparison.json` holds: for each setting, run and measure the value, the interval that 95 of 100 resamples
      of the frames fall into, and the difference from the first run with its own.

    Raises:
      UserError: settings that cannot be, fewer than two entries, one that was not evaluated or cannot be read, or
        different protocols.
    """
    workdir = pathlib.Path(workdir)
    check_ranges(config, {"compare.resamples": (1, _MOST_RESAMPLES), "seed": SEED})
    check_choice(config, "compare.setting", SETTINGS)
    entries = _entries(config.compare.runs)
    runs = {name: _evaluated(name, path) for name, path in entries.items() if path.is_dir()}
    videos = {name: path for name, path in entries.items() if not path.is_dir()}
    _check_same(list(runs.values()))
    if videos:
        runs |= _judged_videos(config, videos, list(runs.values()))
    contestants = [runs[name] for name in entries]
    _check_same(contestants)
    settings = {}
    for setting in SETTINGS:
        present = [one for one in contestants if setting in one.settings]
        if len(present) > 1:
            settings[setting] = _table(present, setting, config.compare.resamples, config.seed)
    if not settings:
        raise UserError(
            "nothing to compare: no setting is shared by two of them; there are "
            + "; ".join(f"{one.name}: {', '.join(one.settings)}" for one in contestants)
        )
    result = {
        "protocol": {name: contestants[0].protocol[name] for name in _SAME}
        | {
            "intervals": f"{config.compare.resamples} resamples of the frames in blocks of up to {BLOCK} in a row, the "
            f"same for all, seed {config.seed}; {100 * LEVEL:.0f} % of them fall inside",
        },
        "runs": {one.name: {"path": str(one.path), "note": one.note} for one in contestants},
        "versions": versions(),
        "settings": settings,
    }
    write_json(workdir / "comparison.json", result)
    figure = _figure(contestants)
    write_bytes(workdir / "comparison.html", comparison_page(result, figure).encode())
    _tell(settings)
    say(f"wrote {workdir}/comparison.json, comparison.html")
    return result


def _entries(given: str | None) -> dict[str, pathlib.Path]:
    """`A,name=B,V.mp4` as paths by name."""
    entries: dict[str, pathlib.Path] = {}
    for text in filter(None, map(str.strip, (given or "").split(","))):
        name, equals, path = text.partition("=")
        name, path = (name, path) if equals and not pathlib.Path(text).exists() else (text, text)
        if not pathlib.Path(path).exists():
            raise UserError(
                f"config.compare.runs names {path}, which does not exist: give folders of stages, or videos"
            )
        if name in entries:
            raise UserError(f"config.compare.runs names {name} twice: give them different names, as in first={path}")
        entries[name] = pathlib.Path(path)
    if len(entries) < 2:
        raise UserError("give two or more to compare: --config.compare.runs=A,B,V.mp4, folders of stages or videos")
    return entries


def _evaluated(name: str, folder: pathlib.Path) -> Contestant:
    """A stage's folder with the numbers of its evaluation."""
    config, metrics = load_config(folder), folder / "eval" / "metrics.json"
    again = f"python run.py --mode=eval --config=configs/{config.stage}.py --workdir={folder}"
    if not metrics.exists():
        raise UserError(f"{folder} has not been evaluated: {again}")
    result = read_json(metrics, "evaluation")
    if not isinstance(result, dict) or not set(_SAME) <= set(result.get("protocol", ())):
        raise UserError(f"{folder} was evaluated by another version of this program: {again}")
    film = folder / "eval" / "held_out.mp4"
    rows = read_table(folder / "eval" / "frames.csv")
    try:
        _check_whole(result, rows)
        times = curves(rows, next(iter(result["settings"])))["time"].astype(int)
        places = film_places(times, result["protocol"]["every"])
        model, smoothing = result["model"], result["protocol"]["smoothing"]
        note = f"{model['family']} {model['stage']}, {model['step']} steps; smoothing: {smoothing}"
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise UserError(f"{folder}/eval is damaged ({type(error).__name__}: {error}): {again}") from None
    shown = film if film.exists() else None
    return Contestant(name, folder, result["protocol"], result["settings"], rows, shown, places, True, note)


def _check_whole(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where `frames.csv` has not the frames of each setting that `metrics.json` has."""
    counts = {name: sum(row["setting"] == name for row in rows) for name in result["settings"] if name != "cross"}
    expected = int(result["protocol"]["frames"].split()[0])
    for name, count in counts.items():
        if count != expected:
            raise ValueError(f"frames.csv has {count} frames in {name}, metrics.json {expected}")
        if "lip_correlation" in result["settings"][name] and not {"lip_opening", "lip_opening_truth"} <= rows[0].keys():
            raise ValueError("frames.csv lacks the lips")


def _check_same(contestants: Sequence[Contestant]) -> None:
    """Raises UserError where two were not judged on the same frames by the same protocol."""
    for one in contestants[1:]:
        first = contestants[0]
        different = [
            f"{name} ({first.protocol[name]}, {one.protocol[name]})"
            for name in _SAME
            if first.protocol[name] != one.protocol[name]
        ]
        if different:
            raise UserError(
                f"{first.name} and {one.name} were judged by different protocols, so their numbers say nothing about "
                f"each other: {'; '.join(different)}"
            )


def _judged_videos(
    config: ConfigDict, videos: dict[str, pathlib.Path], runs: Sequence[Contestant]
) -> dict[str, Contestant]:
    """Videos, scored as the runs were: their dataset, frames and measures."""
    config = ConfigDict(config.to_dict())
    if runs:
        protocol, saved = runs[0].protocol, load_config(runs[0].path)
        config.data = config.data or saved.data
        config.size, config.train.tuning, config.compat = saved.size, saved.train.tuning, saved.compat
        config.eval.every = protocol["every"]
        config.eval.lpips = ",".join(name for name in NETWORKS if f"lpips_{name}" in protocol["measures"])
        config.eval.faces = "faces_found" in protocol["measures"]
    if config.data is None:
        raise UserError("give the dataset whose held-out frames the videos show with --config.data=D")
    dataset = dataset_of(config)
    trained_on, split, judged = frames_to_judge(config, dataset)
    known = known_sound(dataset, trained_on) if config.eval.faces else None
    found = {}
    for name, path in videos.items():
        scored = score_video(
            path,
            dataset,
            split,
            judged,
            config.eval.every,
            config.compare.setting,
            known,
            config.eval.lpips,
            config.eval.faces,
            config.eval.syncnet,
        )
        found[name] = Contestant(
            name, path, scored.protocol, scored.settings, scored.rows, path, scored.places, False, scored.note
        )
    return found


def _table(present: Sequence[Contestant], setting: str, count: int, seed: int) -> Table:
    """Runs' measures with intervals, and differences from the first run with theirs."""
    columns = [curves(one.rows, setting) for one in present]
    frames = len(columns[0]["frame"])
    rows = draws(frames, count, seed)
    shared = [name for name in present[0].settings[setting] if all(name in one.settings[setting] for one in present)]
    table: Table = {one.name: {} for one in present}
    for measure in shared:
        if measure == "lip_correlation":
            resampled = [correlations(own["lip_opening"], own["lip_opening_truth"], rows) for own in columns]
        else:  # a measure of the whole, as steadiness is, has no values of frames
            resampled = [means(own[measure], rows) for own in columns if measure in own]
        known = len(resampled) == len(present)
        for k, one in enumerate(present):
            entry = {"value": one.settings[setting][measure]}
            if known:
                entry["low"], entry["high"] = interval(resampled[k])
            if k:
                entry["difference"] = entry["value"] - present[0].settings[setting][measure]
            if k and known:
                low, high = interval(resampled[k] - resampled[0])
                entry |= {"difference_low": low, "difference_high": high}
            table[one.name][measure] = {name: round(value, 4) for name, value in entry.items() if np.isfinite(value)}
    return table


def _figure(contestants: Sequence[Contestant]) -> list[list[tuple[str, np.ndarray]]]:
    """A few frames, evenly spaced, as the films show them: (whose, uint8 [H, W, 3]); the truth first, if one has it."""
    shown = [one for one in contestants if one.film is not None]
    count = min(len(one.places) for one in contestants)
    chosen = np.unique(np.linspace(0, count - 1, _FIGURE_FRAMES).astype(int))
    rows: list[list[tuple[str, np.ndarray]]] = [[] for _ in chosen]
    width, height = contestants[0].protocol["size"]  # a film of odd sides has a row or a column more
    for one in shown:
        wanted = {int(one.places[i]): k for k, i in enumerate(chosen)}
        every = one.protocol["every"] if one.halved else 1
        for place, image in enumerate(read_frames(one.film, FPS / every)):
            if place not in wanted:
                continue
            row = rows[wanted[place]]
            if one.halved and not any(name == "truth" for name, _ in row):
                row.insert(0, ("truth", image[:height, :width]))
            left = width if one.halved else 0
            row.append((one.name, image[:height, left : left + width]))
    return rows


def _tell(settings: dict[str, Table]) -> None:
    """The table on the console: the measures that most are judged by."""
    for setting, runs in settings.items():
        for name, values in runs.items():
            told = (f"{measure} {cell(values[measure])}" for measure in _TOLD if measure in values)
            say(f"{setting}, {name}: " + ", ".join(told))
