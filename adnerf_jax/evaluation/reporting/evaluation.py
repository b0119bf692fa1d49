"""The report of an evaluation, `report.html`: metrics, videos, example frames and charts."""

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
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.configuration.declaration import is_number
from adnerf_jax.data.datasets import Dataset
from adnerf_jax.evaluation.protocol import clip_samples, curves
from adnerf_jax.evaluation.reporting.charts import Line, grid, line_chart
from adnerf_jax.evaluation.reporting.markup import Html, element, join
from adnerf_jax.evaluation.reporting.page import definitions, details, note, page, picture, section, table, video
from adnerf_jax.evaluation.scoring import MEASURES
from adnerf_jax.training.runs import load_config

SETTINGS = {
    "head_only": "rendered head over the clean background, against the ground truth's head over the same",
    "head": "rendered head composited with the ground truth's torso and background",
    "full": "everything rendered",
    "cross": "other speech, without a ground truth",
}
LABELS = {  # labels of the metrics in tables; a metric without a label appears under its name
    "psnr": "PSNR, dB",
    "psnr_face": "PSNR of the face, dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "seam_error": "seam error at the neck, grey levels",
    "faces_found": "faces found",
    "lmd_px": "LMD, px",
    "lmd_percent": "LMD, % of the eye distance",
    "lip_correlation": "lip correlation",
    "lip_lag_frames": "lip lag, frames",
    "lip_correlation_at_lag": "lip correlation at that lag",
    "lip_amplitude": "lip amplitude ratio",
    "av_offset_s": "AV offset, s",
    "av_fit": "AV fit (squared correlation)",
    "av_margin": "AV fit, margin over other lags",
    "sync_confidence": "SyncNet confidence",
    "sync_distance": "SyncNet distance",
    "sync_offset_s": "SyncNet offset, s",
    "au_error": "action unit error",
    "au_error_summed": "action unit error, summed",
    "blendshape_error": "blendshape error",
    "jitter_px": "jitter, px",
    "jitter_deg": "rotation jitter, degrees",
}
_ERROR_GAIN = 4.0
_LARGEST = 1e30  # a logged number beyond it is damage, and would be drawn as such
_PER_FRAME = {  # columns of frames.csv: titles of their charts
    "psnr": "PSNR, dB",
    "psnr_face": "PSNR of the face, dB",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "seam_error": "Seam error at the neck, grey levels",
    "lmd_px": "Mouth landmark distance (LMD), px",
    "blendshape_error": "Blendshape error of jaw and mouth",
}
_TRAINING = {
    "psnr": "PSNR of the training batches, dB",
    "loss": "Loss (logarithm to base 10)",
    "rays_per_s": "Rays per second",
}
_SECONDS_PER_CHART = 6.0  # length of the lip curves in a chart


@dataclasses.dataclass(frozen=True)
class ExampleFrame:
    """A frame shown in the report.

    Attributes:
      rank: best, median or worst.
      frame: its number in the clip.
      setting: the setting that ranks the frames.
      psnr: PSNR of the frame in that setting.
      pairs: render and ground truth in each setting, uint8 [H, W, 3].
    """

    rank: str
    frame: int
    setting: str
    psnr: float
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The content of a report.

    Attributes:
      workdir, config: folder and configuration of the stage.
      result: the content of `metrics.json`.
      rows: the rows of `frames.csv`.
      timing: the content of `timing.json`.
      parameters: number of parameters of all networks.
      examples: example frames.
      videos: mp4 files by content: `held out`, `cross`.
      dataset: the dataset of the evaluation.
    """

    workdir: pathlib.Path
    config: ConfigDict
    result: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    timing: Mapping[str, float]
    parameters: int
    examples: Sequence[ExampleFrame]
    videos: Mapping[str, pathlib.Path]
    dataset: Dataset


def write_report(data: ReportData) -> pathlib.Path:
    """Writes `eval/report.html` and returns its path."""
    protocol, model = data.result["protocol"], data.result["model"]
    title = f"{data.workdir}: {model['family']} {model['stage']} after {model['step']} steps"
    sections = [
        section("Metrics", *_metrics(data.result)),
        section("Video", *_videos(data)),
        section("Best, median and worst frame", *_examples(data.examples)),
        section("Lip opening", *_lip_charts(data)),
        section("Metrics of each frame", *_per_frame(data.rows)),
        section("Training", *_training(data)),
        section("Sizes and timing", _sizes(data)),
        section("Protocol", *_protocol(protocol, data.result["versions"])),
    ]
    path = data.workdir / "eval" / "report.html"
    write_bytes(path, page(title, *sections).encode())
    return path


def number(value: float) -> str:
    """A value with about four significant digits; whole numbers without decimals."""
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) >= 1 else f"{value:.4f}"


def summary_rows(settings: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Rows of metrics with a cell for each setting; the ground truth's own score is in brackets."""
    present = {name for values in settings.values() for name in values}
    rows = []
    for name in (name for name in MEASURES if name in present):
        cells = []
        for values in settings.values():
            truth = f" ({number(values[f'{name}_truth'])})" if f"{name}_truth" in values else ""
            cells.append(number(values[name]) + truth if name in values else "")
        rows.append([LABELS.get(name, name), *cells])
    return rows


def labelled(measures: Mapping[str, str]) -> dict[str, str]:
    """Definitions of metrics by their labels."""
    return {LABELS.get(name, name): text for name, text in measures.items()}


def _metrics(result: Mapping[str, Any]) -> Iterator[Html]:
    settings = result["settings"]
    yield note(f"{result['protocol']['frames']}; {' × '.join(map(str, result['protocol']['size']))} pixels.")
    yield table(["", *settings], summary_rows(settings))
    if any(name.endswith("_truth") for values in settings.values() for name in values):
        yield note("In brackets: the same metric of the ground truth.")
    yield details(
        "Definitions of settings and metrics",
        definitions({name: SETTINGS[name] for name in settings} | labelled(result["protocol"]["measures"])),
    )


def _videos(data: ReportData) -> Iterator[Html]:
    captions = {"held out": "Held-out frames: ground truth | render.", "cross": "Other speech."}
    for name, path in data.videos.items():
        yield video(path, captions[name])


def _examples(examples: Sequence[ExampleFrame]) -> Iterator[Html]:
    yield note(f"Ground truth | render | absolute error, scaled by {_ERROR_GAIN:g}.")
    for one in examples:
        yield element("h3", f"{one.rank}: frame {one.frame}, {one.psnr:.2f} dB in {one.setting}")
        yield _strip(*one.pairs[one.setting], one.setting)
        others = [_strip(*pair, name) for name, pair in one.pairs.items() if name != one.setting]
        if others:
            yield details("Other settings", *others)


def _strip(image: np.ndarray, truth: np.ndarray, setting: str) -> Html:
    return picture(np.concatenate([truth, image, error_map(image, truth)], axis=1), SETTINGS[setting])


def error_map(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute difference over the channels, scaled by 4, as a colour map; all are uint8 [H, W, 3]."""
    error = np.abs(image.astype(np.float32) - truth.astype(np.float32)).mean(-1)
    bright = np.clip(_ERROR_GAIN * error, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(bright, cv2.COLORMAP_INFERNO)[..., ::-1])


def _lip_charts(data: ReportData) -> Iterator[Html]:
    shown = [name for name in ("full", "head", "head_only") if name in data.result["settings"]][0]
    own = curves(data.rows, shown)
    if "lip_opening" not in own:
        yield note("Faces were not measured: see the metrics left out in Protocol below.")
        return
    yield note("Opening of the inner lips relative to the size of the face, over the waveform of the sound.")
    times, sound = own["time"] / FPS, clip_samples(data.dataset)
    for first in np.arange(times[0], times[-1] + 1e-6, _SECONDS_PER_CHART):
        inside = (times >= first) & (times < first + _SECONDS_PER_CHART)
        if inside.any():
            span = times[inside]
            samples = sound[round(span[0] * SAMPLE_RATE) : round(span[-1] * SAMPLE_RATE)]
            lines = [
                Line("ground truth", span, own["lip_opening_truth"][inside]),
                Line(f"render ({shown})", span, own["lip_opening"][inside]),
            ]
            yield line_chart("Lip opening", lines, "time in the clip, s", sound=samples)


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
    """Folders of the stages that a workdir builds on and its own, by name, the head first."""
    before = {"head": pathlib.Path(config.head_checkpoint)} if config.get("head_checkpoint") else {}
    return before | {config.stage: workdir}


def training_log(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Columns of `metrics.jsonl`, NaN where a line lacks the column; {} without the file."""
    path = workdir / "metrics.jsonl"
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # a killed run may leave its last line incomplete
        if isinstance(line, dict) and is_number(line.get("step")):
            lines.append({name: value for name, value in line.items() if is_number(value) and abs(value) < _LARGEST})
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: np.array([line.get(name, np.nan) for line in lines], float) for name in names}


def _training(data: ReportData) -> Iterator[Html]:
    charts = []
    for name, workdir in stage_folders(data.workdir, data.config).items():
        log = training_log(workdir)
        for key, title in _TRAINING.items():
            if key in log:
                values = np.log10(np.maximum(log[key], 1e-12)) if key == "loss" else log[key]
                charts.append(line_chart(title, [Line(name, log["step"], values)], "step"))
    yield grid(*charts) if charts else note("No training log (metrics.jsonl) was found beside the checkpoints.")


def _sizes(data: ReportData) -> Html:
    result, timing = data.result, data.timing
    rows = [["parameters", f"{data.parameters:,}"]]
    for name, workdir in stage_folders(data.workdir, data.config).items():
        rows += _stage_sizes(name, workdir)
    rows += [
        ["training frames", str(len(data.dataset.train))],
        *_frame_times(timing),
        ["evaluation", duration(timing["total_seconds"])],
        ["backend", result["versions"]["backend"]],
    ]
    rows += [[path.name, _megabytes(path.stat().st_size)] for path in data.videos.values()]
    return table(["", ""], rows)


def _frame_times(timing: Mapping[str, float]) -> list[list[str]]:
    """Time of a rendered frame; empty where an interrupted evaluation had rendered all frames."""
    if "seconds_per_frame" not in timing:
        return []
    each = timing["seconds_per_frame"]
    return [
        ["rendering a frame", f"{each:.3f} s ({1 / each:.1f} frames/s)"],
        ["first frame, including compilation", f"{timing['first_frame_seconds']:.1f} s"],
    ]


def _stage_sizes(name: str, workdir: pathlib.Path) -> Iterator[list[str]]:
    steps = [path for path in (workdir / "checkpoints").glob("[0-9]*") if path.is_dir()]
    if steps:
        newest = max(steps, key=lambda path: int(path.name))
        bytes_ = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
        yield [f"checkpoint of the {name}", _megabytes(bytes_)]
    if seconds := training_seconds(workdir):
        yield [f"training of the {name}, from its logged rays per second", duration(seconds)]


def training_seconds(workdir: pathlib.Path) -> float:
    """Seconds that the steps of a stage took, from the rays per second that it logged; 0 without a log.

    Interruptions and compilation are not counted.
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
    facts["tracked_codes"] = ", ".join(protocol["tracked_codes"]) or None
    facts["inputs"] = "; ".join(f"{name}: {source}" for name, source in protocol["inputs"].items()) or None
    yield definitions({name: str(value) for name, value in facts.items() if value is not None})
    if protocol["left_out"]:
        yield join(element("h3", "Metrics left out"), definitions(dict(protocol["left_out"])))
    yield note(
        f"Protocol {protocol['version']}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    )
