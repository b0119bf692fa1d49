"""The report of an evaluation: `report.html`, to be looked at rather than read."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.files import write_bytes
from adnerf_jax.common.progress import duration
from adnerf_jax.common.timing import FPS
from adnerf_jax.data.datasets import Dataset
from adnerf_jax.evaluation.protocol import clip_samples, curves
from adnerf_jax.evaluation.reporting.charts import Line, grid, line_chart
from adnerf_jax.evaluation.reporting.markup import Html, element, join
from adnerf_jax.evaluation.reporting.page import definitions, details, film, note, page, picture, section, table
from adnerf_jax.evaluation.scoring import MEASURES
from adnerf_jax.evaluation.sync_confidence import SOUND_RATE
from adnerf_jax.training.runs import load_config

SETTINGS = {
    "head_only": "the rendered head over the clean background, against the true head there",
    "head": "the rendered head, true torso and background pasted",
    "full": "everything rendered",
    "cross": "other speech, without a truth",
}
LABELS = {  # of the numbers, for tables; the rest stand under their own names
    "psnr": "PSNR, dB",
    "psnr_face": "PSNR in the face, dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "seam_error": "error at the neck, grey levels",
    "faces_found": "faces found",
    "lmd_px": "LMD, px",
    "lmd_percent": "LMD, % of the eyes' distance",
    "lip_correlation": "lips: correlation",
    "lip_lag_frames": "lips: lag, frames",
    "lip_correlation_at_lag": "lips: correlation there",
    "lip_amplitude": "lips: amplitude",
    "av_offset_s": "sound late by, s",
    "av_fit": "sound: fit",
    "av_margin": "sound: margin of that",
    "sync_confidence": "SyncNet confidence",
    "sync_distance": "SyncNet distance",
    "sync_offset_s": "sound late by SyncNet, s",
    "au_error": "action units, error",
    "au_error_summed": "action units, summed",
    "blendshape_error": "blendshapes, error",
    "jitter_px": "jitter, px",
    "jitter_deg": "jitter, degrees",
}
_ERROR_GAIN = 4.0
_PER_FRAME = {  # columns of frames.csv: titles of their charts
    "psnr": "PSNR, dB",
    "psnr_face": "PSNR inside the face, dB",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "seam_error": "Error at the neck, grey levels",
    "lmd_px": "Mouth landmarks, distance in px",
    "blendshape_error": "Blendshapes of jaw and mouth, error",
}
_TRAINING = {"psnr": "PSNR of the batches, dB", "loss": "Loss (logarithm to base 10)", "rays_per_s": "Rays per second"}
_SECONDS_A_ROW = 6.0  # of the lips' curves


@dataclasses.dataclass(frozen=True)
class Strip:
    """A frame to show.

    Attributes:
      what: why this one.
      frame: its number in the clip.
      setting: by which it was chosen, psnr: its value there.
      pairs: render and truth of each setting, uint8 [H, W, 3].
    """

    what: str
    frame: int
    setting: str
    psnr: float
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the report is made of.

    Attributes:
      workdir, config: of the stage.
      result: what `metrics.json` holds, rows: of `frames.csv`, timing: of `timing.json`.
      parameters: of all its networks.
      strips: frames to show.
      films: mp4 files by what they show: `held out`, `cross`.
      dataset: that it was evaluated on.
    """

    workdir: pathlib.Path
    config: ConfigDict
    result: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    timing: Mapping[str, float]
    parameters: int
    strips: Sequence[Strip]
    films: Mapping[str, pathlib.Path]
    dataset: Dataset


def write_report(evidence: Evidence) -> pathlib.Path:
    """Writes `eval/report.html` and returns its path."""
    protocol, model = evidence.result["protocol"], evidence.result["model"]
    title = f"{evidence.workdir}: {model['family']} {model['stage']} after {model['step']} steps"
    sections = [
        section("Numbers", *_numbers(evidence.result)),
        section("Film", *_films(evidence)),
        section("Best, median and worst frame", *_strips(evidence.strips)),
        section("Lips", *_lips(evidence)),
        section("Frame by frame", *_per_frame(evidence.rows)),
        section("Training", *_training(evidence)),
        section("Sizes and times", _sizes(evidence)),
        section("How it was measured", *_protocol(protocol, evidence.result["versions"])),
    ]
    path = evidence.workdir / "eval" / "report.html"
    write_bytes(path, page(title, *sections).encode())
    return path


def number(value: float) -> str:
    """Four digits that count, at least; whole numbers as such."""
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) >= 1 else f"{value:.4f}"


def summary_rows(settings: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Rows of measures with a cell for each setting; what the truth itself scores stands in brackets."""
    present = {name for values in settings.values() for name in values}
    rows = []
    for name in (name for name in MEASURES if name in present):
        cells = []
        for values in settings.values():
            true = f" ({number(values[f'{name}_truth'])})" if f"{name}_truth" in values else ""
            cells.append(number(values[name]) + true if name in values else "")
        rows.append([LABELS.get(name, name), *cells])
    return rows


def explained(measures: Mapping[str, str]) -> dict[str, str]:
    """What measures are, under their labels."""
    return {LABELS.get(name, name): text for name, text in measures.items()}


def _numbers(result: Mapping[str, Any]) -> Iterator[Html]:
    settings = result["settings"]
    yield note(f"{result['protocol']['frames']}; {' × '.join(map(str, result['protocol']['size']))} pixels.")
    yield table(["", *settings], summary_rows(settings))
    if any(name.endswith("_truth") for values in settings.values() for name in values):
        yield note("In brackets: what the true frames score.")
    yield details(
        "What these are",
        definitions({name: SETTINGS[name] for name in settings} | explained(result["protocol"]["measures"])),
    )


def _films(evidence: Evidence) -> Iterator[Html]:
    captions = {"held out": "Held-out frames: truth | render.", "cross": "Other speech."}
    for name, path in evidence.films.items():
        yield film(path, captions[name])


def _strips(strips: Sequence[Strip]) -> Iterator[Html]:
    yield note(f"Truth | render | error, {_ERROR_GAIN:g} times as bright as it is.")
    for strip in strips:
        yield element("h3", f"{strip.what}: frame {strip.frame}, {strip.psnr:.2f} dB in {strip.setting}")
        yield _strip(*strip.pairs[strip.setting], strip.setting)
        others = [_strip(*pair, name) for name, pair in strip.pairs.items() if name != strip.setting]
        if others:
            yield details("other settings", *others)


def _strip(image: np.ndarray, truth: np.ndarray, setting: str) -> Html:
    return picture(np.concatenate([truth, image, error_map(image, truth)], axis=1), SETTINGS[setting])


def error_map(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute difference over channels as colours, four times as bright; uint8 [H, W, 3] all."""
    error = np.abs(image.astype(np.float32) - truth.astype(np.float32)).mean(-1)
    bright = np.clip(_ERROR_GAIN * error, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(bright, cv2.COLORMAP_INFERNO)[..., ::-1])


def _lips(evidence: Evidence) -> Iterator[Html]:
    shown = [name for name in ("full", "head", "head_only") if name in evidence.result["settings"]][0]
    own = curves(evidence.rows, shown)
    if "lip_opening" not in own:
        yield note("Faces were not measured (left out, below).")
        return
    yield note("Opening of the inner lips over the size of the face; behind it the sound.")
    times, sound = own["time"] / FPS, clip_samples(evidence.dataset)
    for first in np.arange(times[0], times[-1] + 1e-6, _SECONDS_A_ROW):
        inside = (times >= first) & (times < first + _SECONDS_A_ROW)
        if inside.any():
            span = times[inside]
            heard = sound[round(span[0] * SOUND_RATE) : round(span[-1] * SOUND_RATE)]
            lines = [
                Line("truth", span, own["lip_opening_truth"][inside]),
                Line(f"render ({shown})", span, own["lip_opening"][inside]),
            ]
            yield line_chart("Lips' opening", lines, "seconds of the clip", sound=heard)


def _per_frame(rows: Sequence[Mapping[str, Any]]) -> Iterator[Html]:
    settings = list(dict.fromkeys(row["setting"] for row in rows if row["setting"] != "cross"))
    own = {name: curves(rows, name) for name in settings}
    charts = []
    for measure, title in _PER_FRAME.items():
        known = [name for name in settings if np.isfinite(own[name].get(measure, np.nan)).any()]
        lines = [Line(name, own[name]["frame"], own[name][measure]) for name in known]
        if lines:
            charts.append(line_chart(title, lines, "frame"))
    yield grid(*charts)


def stage_folders(workdir: pathlib.Path, config: ConfigDict) -> dict[str, pathlib.Path]:
    """The stages that a workdir stands on, by name, the head first."""
    before = {"head": pathlib.Path(config.head_checkpoint)} if config.get("head_checkpoint") else {}
    return before | {config.stage: workdir}


def training_log(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Columns of `metrics.jsonl`, NaN where a line lacks one; empty without the file."""
    path = workdir / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the last line of a killed run may be cut
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: np.array([line.get(name, np.nan) for line in lines], float) for name in names}


def _training(evidence: Evidence) -> Iterator[Html]:
    charts = []
    for name, workdir in stage_folders(evidence.workdir, evidence.config).items():
        log = training_log(workdir)
        for key, title in _TRAINING.items():
            if key in log:
                values = np.log10(np.maximum(log[key], 1e-12)) if key == "loss" else log[key]
                charts.append(line_chart(title, [Line(name, log["step"], values)], "step"))
    yield grid(*charts) if charts else note("No metrics.jsonl was found beside the checkpoints.")


def _sizes(evidence: Evidence) -> Html:
    result, timing = evidence.result, evidence.timing
    rows = [["parameters", f"{evidence.parameters:,}"]]
    for name, workdir in stage_folders(evidence.workdir, evidence.config).items():
        rows += _stage_sizes(name, workdir)
    rows += [
        ["training frames", str(len(evidence.dataset.train))],
        *_frame_times(timing),
        ["the evaluation", duration(timing["total_seconds"])],
        ["backend", result["versions"]["backend"]],
    ]
    rows += [[path.name, _megabytes(path.stat().st_size)] for path in evidence.films.values()]
    return table(["", ""], rows)


def _frame_times(timing: Mapping[str, float]) -> list[list[str]]:
    """Of the renders, unless all of them were made before."""
    if "seconds_per_frame" not in timing:
        return []
    each = timing["seconds_per_frame"]
    return [
        ["a rendered frame", f"{each:.3f} s ({1 / each:.1f} a second)"],
        ["the first one, compilation included", f"{timing['first_frame_seconds']:.1f} s"],
    ]


def _stage_sizes(name: str, workdir: pathlib.Path) -> Iterator[list[str]]:
    steps = [path for path in (workdir / "checkpoints").glob("[0-9]*") if path.is_dir()]
    if steps:
        newest = max(steps, key=lambda path: int(path.name))
        bytes_ = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
        yield [f"checkpoint of the {name}", _megabytes(bytes_)]
    if seconds := training_seconds(workdir):
        yield [f"training of the {name}, by its rays per second", duration(seconds)]


def training_seconds(workdir: pathlib.Path) -> float:
    """What a stage's steps took, interruptions and compilation left out, by the rays per second that it logged.

    0 without a log.
    """
    log = training_log(workdir)
    if not {"step", "rays_per_s"} <= log.keys() or not (workdir / "config.json").exists():
        return 0.0
    rays = np.diff(log["step"], prepend=0.0) * load_config(workdir).train.rays
    return float(np.nansum(rays / np.where(log["rays_per_s"] > 0, log["rays_per_s"], np.nan)))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _protocol(protocol: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[Html]:
    facts = {name: protocol[name] for name in ("frames", "truth", "smoothing", "cross", "truth_sha256")}
    yield definitions({name: str(value) for name, value in facts.items() if value is not None})
    if protocol["left_out"]:
        yield join(element("h3", "Left out"), definitions(dict(protocol["left_out"])))
    yield note(
        f"Protocol {protocol['version']}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    )
