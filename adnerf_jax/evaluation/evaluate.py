"""Renders the held-out frames of a trained stage and computes its metrics: `evaluate(config, workdir)`."""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import sha256_of, write_json
from adnerf_jax.common.own_folders import check_no_links
from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.progress import say, track
from adnerf_jax.common.timing import FRAMES_BEFORE, SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import Dataset, dataset_of
from adnerf_jax.evaluation.face_metrics import ExpectedLips
from adnerf_jax.evaluation.held_out import HeldOutFrames, describe_inputs, describe_smoothing, tracked_codes_of
from adnerf_jax.evaluation.openface import read_units, unit_errors
from adnerf_jax.evaluation.protocol import (
    TRUTH_SETTINGS,
    clip_samples,
    describe_protocol,
    fit_expected_lips,
    frames_to_evaluate,
    truth_bytes,
    versions,
    write_table,
)
from adnerf_jax.evaluation.reporting.evaluation import ReportData, write_report
from adnerf_jax.evaluation.reporting.videos import FrameVideo
from adnerf_jax.evaluation.scoring import Scorer, make_scorer
from adnerf_jax.inference.shards import discard_frames, finished_frames, parse_shard, stage_job
from adnerf_jax.inference.speech_input import SpeechInput, speech_input
from adnerf_jax.inference.synthesize import training_pose_and_conditions
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.image import write_image
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.models.codes.registry import tracked_codes
from adnerf_jax.training.validation import contact_sheet

_SHEET_FRAMES = 6
_SUMMARY = {  # format of each metric in the summary on the console
    "psnr": "PSNR {:.2f} dB",
    "psnr_face": "face {:.2f} dB",
    "ssim": "SSIM {:.4f}",
    "ms_ssim": "MS-SSIM {:.4f}",
    "lpips_alex": "LPIPS {:.4f}",
    "lmd_px": "LMD {:.2f} px",
    "lip_correlation": "lip correlation {:.2f}",
    "av_offset_s": "sound late by {:.2f} s",
    "jitter_px": "jitter {:.2f} px",
}


def evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Compares renders of the held-out frames with the ground truth, separately for each setting.

    Writes `eval/metrics.json`, `eval/frames.csv`, `eval/timing.json`, `eval/contact.png` (rows: frames; columns: ground
    truth, then the render of each setting) and, if configured, `eval/frames/` and `eval/report.html` with its videos.
    One frame is in memory at a time. Renders are kept in `eval.frames/` until everything is written, so that an
    interrupted evaluation continues, and several processes can render a shard each (`config.eval.shard`), which write
    nothing else.

    Args:
      config: the stage's configuration.
      workdir: the stage's folder.

    Returns:
      the content of `metrics.json`; {} for a shard.

    Raises:
      UserError: there is no checkpoint or no held-out frame, the dataset is not one of this person, a folder of
        results is a link, or another file cannot be used.
    """
    start = time.monotonic()
    workdir = pathlib.Path(workdir)
    cache = workdir / "eval.frames"
    check_no_links(workdir / "eval", workdir / "eval" / "frames", cache)
    shard, shards = parse_shard(config.eval.shard, "eval.shard")
    stage = TrainedStage.load(workdir, config, config.eval.attention)
    dataset = _dataset_of_person(config, stage, workdir)
    _check_tracked(config, dataset)
    train, split, frames = frames_to_evaluate(config, dataset)
    job = evaluation_job(config, workdir, stage, dataset)
    held_out = HeldOutFrames(config, stage, dataset, split, cache, finished_frames(cache, job))
    if shards > 1:
        _render_shard(held_out, shard, shards, cache)
        return {}
    units = _action_units(config.eval, len(split))
    smallest = min(dataset.camera.height, dataset.camera.width)
    scorer, left_out = make_scorer(config.eval.lpips, config.eval.faces, smallest, config.eval.syncnet)
    expected = None if "faces" in left_out else fit_expected_lips(dataset, train)
    speech = _cross_speech(config, stage)

    files = _Files.prepare(workdir / "eval", config.eval)
    sheet = score_held_out(held_out, scorer, files.frames, files.videos.get("held out"))
    seconds, windows = list(held_out.seconds), None
    if speech is not None:
        cross_seconds, windows = score_cross(
            stage, speech, scorer, files.frames, files.videos.get("cross"), held_out.provenance
        )
        seconds += cross_seconds
    values, rows = scorer.finish(_expected_lips(expected, windows), _samples(config.eval, dataset))
    if units is None:
        left_out["au_error"] = "config.eval.openface_render and openface_truth are not given"
    else:
        # OpenFace is run on the renders of the setting in which most is rendered.
        values["full" if "full" in values else "head"] |= {k: round(v, 4) for k, v in unit_errors(*units).items()}
    if speech is None:
        left_out["cross"] = "config.eval.cross is not given"

    result = {
        "protocol": describe_protocol(
            frames,
            config.eval.every,
            dataset,
            held_out.digest.hexdigest(),
            describe_smoothing(config),
            tracked_codes_of(config),
            describe_inputs(config),
            None if speech is None else _describe_cross(config.eval, speech),
            values,
            left_out,
        ),
        "model": {"family": config.family, "stage": config.stage, "subject": config.subject, "step": stage.step},
        "versions": versions(),
        "settings": values,
    }
    write_table(files.folder / "frames.csv", rows)
    write_image(files.folder / "contact.png", sheet, provenance=held_out.provenance)
    write_json(files.folder / "metrics.json", result)
    timing = _timing(seconds, start)
    write_json(files.folder / "timing.json", timing)
    if config.eval.report:
        examples, videos = held_out.examples(rows), files.videos
        write_report(ReportData(workdir, config, result, rows, timing, stage.parameters, examples, videos, dataset))
    discard_frames(cache)
    _print_summary(values, files)
    return result


@dataclasses.dataclass(frozen=True)
class _Files:
    """Where an evaluation writes.

    Attributes:
      folder: parent of all files.
      frames: folder for renders and ground truth as PNG; None writes none.
      videos: mp4 files of the report by content: `held out`, `cross`; empty without a report.
    """

    folder: pathlib.Path
    frames: pathlib.Path | None
    videos: dict[str, pathlib.Path]

    @classmethod
    def prepare(cls, folder: pathlib.Path, settings: ConfigDict) -> "_Files":
        """Deletes the optional files of an earlier evaluation, which this one may not write again."""
        shutil.rmtree(folder / "frames", ignore_errors=True)
        for name in ("report.html", "held_out.mp4", "cross.mp4"):
            (folder / name).unlink(missing_ok=True)
        videos = {}
        if settings.report:
            videos["held out"] = folder / "held_out.mp4"
            if settings.cross:
                videos["cross"] = folder / "cross.mp4"
        return cls(folder, folder / "frames" if settings.save_frames else None, videos)


def _dataset_of_person(config: ConfigDict, stage: TrainedStage, workdir: pathlib.Path) -> Dataset:
    """The configured dataset.

    Raises:
      UserError: its camera or its speech features are not those that the stage was trained with.
    """
    dataset = dataset_of(config)
    if dataset.camera != stage.person.camera or dataset.windows.shape[2] != stage.person.channels:
        raise UserError(
            f"{config.data} was filmed by another camera, or has other speech features, than the dataset that "
            f"{workdir} was trained on: give a dataset of that person with ",
            Option("data"),
        )
    return dataset


def _check_tracked(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError where `config.eval.tracked_codes` names a code that the dataset has no measurement for."""
    for name in tracked_codes_of(config):
        missing = tracked_codes()[name].check(dataset.tracks_of(name), len(dataset.windows))
        if missing:
            raise UserError(
                f"{config.data} has no {missing}: leave {name!r} out of config.eval.tracked_codes, or prepare the "
                f"video with `python -m adnerf_jax.preprocessing`"
            )


def _render_shard(held_out: HeldOutFrames, shard: int, shards: int, cache: pathlib.Path) -> None:
    """Renders every `shards`-th frame from `shard` on into the cache."""
    for i in track(range(shard, len(held_out), shards), "evaluation", compiles=True):
        held_out.renders(i)
    say(
        f"rendered shard {shard + 1} of {shards} into {cache}: run the same command without ",
        Option("eval.shard"),
        " to compute the metrics",
    )


def _cross_speech(config: ConfigDict, stage: TrainedStage) -> SpeechInput | None:
    """The other speech to evaluate without a ground truth (`config.eval.cross`)."""
    if not config.eval.cross:
        return None
    return speech_input(
        stage,
        pathlib.Path(config.eval.cross),
        duration=config.eval.cross_duration,
        features=config.render.features,
        zero_padded=config.compat.zero_padding,
    )


def score_held_out(
    held_out: HeldOutFrames, scorer: Scorer, frames_folder: pathlib.Path | None, video: pathlib.Path | None
) -> np.ndarray:
    """Renders and scores the held-out frames.

    Args:
      held_out: the frames.
      scorer: scores them.
      frames_folder: folder for renders and ground truth as PNG; None writes none.
      video: mp4 to write with the ground truth beside the render; None writes none.

    Returns:
      the contact sheet, uint8 [H, W, 3].
    """
    split, dataset = held_out.split, held_out.dataset
    in_sheet = set(np.linspace(0, len(split) - 1, _SHEET_FRAMES).astype(int))
    sheet = []
    with contextlib.ExitStack() as open_files:
        writer = None
        if video is not None:
            every, sound = held_out.config.eval.every, dataset.path / schema.SOUND
            size = 2 * dataset.camera.width, dataset.camera.height
            writer = open_files.enter_context(FrameVideo(video, *size, split.aud_id, every, sound, held_out.provenance))
        for i in track(range(len(split)), "evaluation", compiles=True):
            frame = held_out.frame(i)
            held_out.digest.update(truth_bytes(to_uint8(frame.truth), frame.parts))
            for name, (image, truth) in frame.pairs.items():
                parts = None if name == "head_only" else frame.parts
                scorer.add(name, int(split.img_id[i]), int(split.aud_id[i]), image, truth, split.face_rect[i], parts)
            if not (i in in_sheet or frames_folder or writer):
                continue
            images = {"truth": to_uint8(frame.truth)}
            images |= {name: to_uint8(image) for name, (image, _) in frame.pairs.items()}
            if i in in_sheet:
                sheet.append(list(images.values()))
            if frames_folder is not None:
                for name, picture in images.items():
                    origin = None if name == "truth" else held_out.provenance
                    write_image(frames_folder / name / f"{split.img_id[i]:06d}.png", picture, provenance=origin)
            if writer is not None:
                writer.add(images["truth"], list(images.values())[-1])
    return contact_sheet(sheet)


def score_cross(
    stage: TrainedStage,
    speech: SpeechInput,
    scorer: Scorer,
    frames_folder: pathlib.Path | None,
    video: pathlib.Path | None,
    provenance: Provenance | None,
) -> tuple[list[float], np.ndarray]:
    """Renders other speech in the poses of the training video and scores it without a ground truth.

    Args:
      stage: the person.
      speech: speech from a file, so that its number of frames is known.
      scorer: scores the frames, in the setting `cross`.
      frames_folder: folder for the renders as PNG; None writes none.
      video: mp4 to write; None writes none.
      provenance: origin to write into these files; None: none.

    Returns:
      seconds of each render, and the speech windows [N, 16, C] of the frames.
    """
    assert speech.frames is not None, "only live speech has an unknown number of frames"
    background = stage.person.background.astype(np.float32) / 255.0
    seconds, windows = [], []
    with contextlib.ExitStack() as open_files:
        writer = None
        if video is not None:
            height, width = background.shape[:2]
            times = np.arange(speech.frames)
            writer = open_files.enter_context(FrameVideo(video, width, height, times, 1, speech.sound, provenance))
        for i, around in enumerate(track(speech.windows(), "evaluation, other speech", speech.frames)):
            windows.append(around[FRAMES_BEFORE].copy())  # a view would keep the neighbouring windows in memory
            start = time.monotonic()
            layers = jax.device_get(stage.layers(*training_pose_and_conditions(stage.person, i, around)))
            seconds.append(time.monotonic() - start)
            image = np.asarray(layers.person_over(background))
            scorer.add_without_truth("cross", i, i, image)
            if frames_folder is not None:
                write_image(frames_folder / "cross" / f"{i:06d}.png", to_uint8(image), provenance=provenance)
            if writer is not None:
                writer.add(to_uint8(image))
    return seconds, np.stack(windows)


def _expected_lips(expected: ExpectedLips | None, cross_windows: np.ndarray | None) -> dict[str, ExpectedLips]:
    """Expected lips by setting; the clip's, and those of the other speech from its windows [N, 16, C]."""
    if expected is None:
        return {}
    by_setting = dict.fromkeys(TRUTH_SETTINGS, expected)
    if cross_windows is not None:
        by_setting["cross"] = ExpectedLips(expected.model, expected.face, cross_windows)
    return by_setting


def _samples(settings: ConfigDict, dataset: Dataset) -> dict[str, np.ndarray]:
    """The sound of each setting at 16 kHz, float32 [T], for SyncNet; {} without SyncNet."""
    if not settings.syncnet:
        return {}
    by_setting = dict.fromkeys(TRUTH_SETTINGS, clip_samples(dataset))
    if settings.cross:
        by_setting["cross"] = read_audio(settings.cross, SAMPLE_RATE, duration=settings.cross_duration)
    return {name: samples for name, samples in by_setting.items() if len(samples)}


def _describe_cross(settings: ConfigDict, speech: SpeechInput) -> str:
    """The other speech, for the protocol."""
    digest = sha256_of(pathlib.Path(settings.cross))
    return f"{speech.frames} frames of sound {digest[:16]} (SHA-256), no ground truth"


def _timing(seconds: list[float], start: float) -> dict[str, float]:
    """The content of `timing.json`.

    Args:
      seconds: time of each render in this process; the first one includes compilation. Empty where an interrupted
        evaluation had rendered all frames.
      start: `time.monotonic()` when the evaluation started.
    """
    timing = {"total_seconds": time.monotonic() - start}
    if seconds:
        timing |= {"seconds_per_frame": float(np.mean(seconds[1:] or seconds)), "first_frame_seconds": seconds[0]}
    return timing


def _print_summary(values: dict[str, dict[str, float]], files: _Files) -> None:
    """Prints the main metrics of each setting, and the files that were written."""
    for name, metrics in values.items():
        cells = [text.format(metrics[key]) for key, text in _SUMMARY.items() if key in metrics]
        say(f"{name}: {', '.join(cells) or 'nothing could be measured'}")
    optional = (", report.html" if files.videos else "") + (", frames/" if files.frames else "")
    say(f"wrote {files.folder}/metrics.json, frames.csv, timing.json, contact.png{optional}")


def evaluation_job(config: ConfigDict, workdir: pathlib.Path, stage: TrainedStage, dataset: Dataset) -> dict[str, Any]:
    """Everything that decides how the renders look, as JSON values; renders of another job are not reused."""
    data = pathlib.Path(config.data)
    files = (schema.TRANSFORMS["train"], schema.TRANSFORMS["val"], schema.AUDIO_WINDOWS, schema.LANDMARKS)
    return stage_job(stage, workdir, config) | {
        "background": hashlib.sha256(dataset.background.tobytes()).hexdigest(),
        "data": {name: sha256_of(data / name) for name in files if (data / name).exists()},
        "size": config.size,
        "tuning": config.train.tuning,
        **{name: config.eval[name] for name in ("every", "tracked_codes", "attention")},
    }


def _action_units(settings: ConfigDict, frames: int) -> tuple[np.ndarray, np.ndarray] | None:
    """OpenFace's intensities [N, 9] of render and ground truth; None where they are not given.

    Raises:
      UserError: only one of the two is given, or a file cannot be used.
    """
    paths = settings.openface_render, settings.openface_truth
    if not any(paths):
        return None
    if not all(paths):
        raise UserError(
            "give OpenFace's files of both renders and ground truth: ",
            Option("eval.openface_render", "FILE.csv"),
            " and ",
            Option("eval.openface_truth", "FILE.csv"),
        )
    render, truth = (read_units(path, frames) for path in paths)
    return render, truth
