"""Held-out frames to metrics: `evaluate(config, workdir)`."""

import csv
import importlib.metadata
import io
import pathlib
import platform
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax import schema
from adnerf_jax.datasets import SUBJECTS, Dataset, dataset_of, load_frames, tuning_split
from adnerf_jax.errors import UserError
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.parsing import HEAD
from adnerf_jax.face_metrics import Sound
from adnerf_jax.files import write_bytes, write_json
from adnerf_jax.media.image import write_image
from adnerf_jax.openface import read_units, unit_errors
from adnerf_jax.progress import say, track
from adnerf_jax.rendering import Layers
from adnerf_jax.schema import Split
from adnerf_jax.scoring import MEASURES, PROTOCOL, Scorer, as_written, make_scorer
from adnerf_jax.sync import SHORTEST, LipModel
from adnerf_jax.synthesize import attention_windows, driven, encoded
from adnerf_jax.trained import TrainedStage
from adnerf_jax.validation import contact_sheet

_SHEET_FRAMES = 6
_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "opencv-python-headless", "ai-edge-litert")
_TOLD = {  # of a setting's numbers: how they are told
    "psnr": "PSNR {:.2f} dB",
    "psnr_face": "face {:.2f} dB",
    "ssim": "SSIM {:.4f}",
    "ms_ssim": "MS-SSIM {:.4f}",
    "lpips_alex": "LPIPS {:.4f}",
    "lmd_px": "LMD {:.2f} px",
    "lip_correlation": "lips {:.2f}",
    "av_offset_s": "sound late {:.2f} s",
    "jitter_px": "jitter {:.2f} px",
}


def evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Compares renders of the held-out frames with the truth, each setting apart.

    Writes `eval/metrics.json`, `eval/frames.csv`, `eval/timing.json`, `eval/contact.png` (rows: frames; columns: truth,
    then each setting's render) and, if asked, `eval/frames/`. Frames are held one at a time.

    Args:
      config: the stage's configuration.
      workdir: its folder.

    Returns:
      what `metrics.json` holds.

    Raises:
      UserError: no checkpoint, no held-out frames, a dataset that the person cannot be compared with, or other files
        that cannot be used.
    """
    start = time.monotonic()
    folder = pathlib.Path(workdir) / "eval"
    stage = TrainedStage.load(workdir, config)
    dataset = dataset_of(config)
    if dataset.camera != stage.person.camera or dataset.windows.shape[2] != len(stage.scene.audio_mean):
        raise UserError(
            f"{config.data} was filmed by another camera, or has other speech features, than what {workdir} learned "
            f"from: give the dataset of that person with --config.data"
        )
    trained_on, split, described = frames_to_judge(config, dataset)
    units = _action_units(config.eval, len(split))
    smallest = min(dataset.camera.height, dataset.camera.width)
    scorer, left_out = make_scorer(config.eval.lpips, config.eval.faces, smallest)
    sound = None if "faces" in left_out else known_sound(dataset, trained_on)
    cross = None
    if config.eval.cross:
        audio, length = pathlib.Path(config.eval.cross), config.eval.cross_duration
        cross = np.stack(list(encoded(stage, audio, 0.0, length)))

    shutil.rmtree(folder / "frames", ignore_errors=True)
    saved = folder / "frames" if config.eval.save_frames else None
    seconds, sheet = judge_held_out(config, stage, dataset, split, scorer, saved)
    sounds = dict.fromkeys(("head_only", "head", "full"), sound)
    if cross is not None:
        seconds += judge_cross(config, stage, cross, scorer, saved)
        sounds["cross"] = sound and Sound(sound.model, sound.face, cross)
    values, rows = scorer.finish({name: known for name, known in sounds.items() if known is not None})
    if units:
        # The setting in which most is rendered, as one would give it to OpenFace.
        values["full" if "full" in values else "head"] |= {k: round(v, 4) for k, v in unit_errors(*units).items()}
    else:
        left_out["au_error"] = "config.eval.openface_render and openface_truth are not given"
    if sound is None and config.eval.faces:
        left_out["av_offset_s"] = f"it needs landmarks and {SHORTEST} training frames"
    if cross is None:
        left_out["cross"] = "config.eval.cross is not given"

    result = {
        "protocol": {
            "version": PROTOCOL,
            "frames": f"{len(split)} {described}, every {config.eval.every}",
            "size": [dataset.camera.width, dataset.camera.height],
            "truth": "lossless, background replaced by the clean background",
            "smoothing": "none but the audio attention of the model",
            "cross": None if cross is None else f"{len(cross)} frames of other speech, no truth",
            "measures": _measures(values),
            "left_out": left_out,
        },
        "model": {"family": config.family, "stage": config.stage, "subject": config.subject, "step": stage.step},
        "versions": _versions(),
        "settings": values,
    }
    _write_table(folder / "frames.csv", rows)
    write_image(folder / "contact.png", sheet)
    write_json(folder / "metrics.json", result)
    # The first frame includes compilation.
    timing = {"seconds_per_frame": float(np.mean(seconds[1:] or seconds)), "first_frame_seconds": seconds[0]}
    write_json(folder / "timing.json", timing | {"total_seconds": time.monotonic() - start})
    for name, numbers in values.items():
        say(f"{name}: " + ", ".join(text.format(numbers[key]) for key, text in _TOLD.items() if key in numbers))
    say(f"wrote {folder}/metrics.json, frames.csv, timing.json, contact.png{', frames/' if saved else ''}")
    return result


def frames_to_judge(config: ConfigDict, dataset: Dataset) -> tuple[Split, Split, str]:
    """The frames trained on, those to evaluate, and what these are.

    Raises:
      UserError: there are none.
    """
    if config.eval.every < 1:
        raise UserError(f"config.eval.every is {config.eval.every}: take each n-th frame, n = 1 or more")
    trained_on, held_out, described = dataset.train, dataset.val, "held-out frames, the last 1/11 of the clip"
    if config.train.tuning:
        trained_on, held_out = tuning_split(dataset.train)
        described = "frames for tuning, the last tenth of the training frames"
    split = held_out.take(slice(None, None, config.eval.every))
    if not len(split):
        raise UserError(f"{config.data} has no held-out frames to evaluate on: the clip is too short")
    return trained_on, split, described


def known_sound(dataset: Dataset, trained_on: Split) -> Sound | None:
    """What the clip's sound lets expect of the lips, learned from the frames trained on; None where it cannot be."""
    path = dataset.path / schema.LANDMARKS
    if not path.exists():
        return None
    landmarks = Landmarks.load(path)
    rows = trained_on.aud_id[trained_on.aud_id < len(landmarks.valid)]
    model = LipModel.fit(dataset.windows, dataset.lips, rows[landmarks.valid[rows]])
    return model and Sound(model, landmarks.points[0], dataset.windows)


def judge_held_out(
    config: ConfigDict,
    stage: TrainedStage,
    dataset: Dataset,
    split: Split,
    scorer: Scorer,
    saved: pathlib.Path | None,
) -> tuple[list[float], np.ndarray]:
    """Renders and scores frames with a truth; seconds of each render, and the contact sheet uint8 [H, W, 3]."""
    background = dataset.background.astype(np.float32) / 255.0
    shown = set(np.linspace(0, len(split) - 1, _SHEET_FRAMES).astype(int))
    seconds, sheet = [], []
    for i in track(range(len(split)), "evaluation"):
        frames = load_frames(dataset, split.take(slice(i, i + 1)))
        start = time.monotonic()
        conditions = dataset.conditions(split.aud_id[i : i + 1], tracked=config.eval.tracked_expression)
        layers = jax.device_get(stage.layers(split.transforms[i], conditions))
        seconds.append(time.monotonic() - start)
        truth = frames.images[0].astype(np.float32) / 255.0
        head_truth = frames.showing(SUBJECTS["head"], 0, dataset.background).astype(np.float32) / 255.0
        pairs = settings(config, layers, background, truth, head_truth, frames.parts[0] == HEAD)
        for name, (image, against) in pairs.items():
            parts = None if name == "head_only" else frames.parts[0]
            scorer.add(name, int(split.img_id[i]), int(split.aud_id[i]), image, against, split.face_rect[i], parts)
        if i in shown:
            sheet.append([_as_bytes(x) for x in (truth, *(image for image, _ in pairs.values()))])
        if saved is not None:
            for name, image in (("truth", truth), *((name, image) for name, (image, _) in pairs.items())):
                write_image(saved / name / f"{split.img_id[i]:06d}.png", _as_bytes(image))
    return seconds, contact_sheet(sheet)


def judge_cross(
    config: ConfigDict, stage: TrainedStage, windows: np.ndarray, scorer: Scorer, saved: pathlib.Path | None
) -> list[float]:
    """Renders and scores other speech, windows [N, 16, C], in the poses of a talking video; seconds of each render."""
    background = stage.person.background.astype(np.float32) / 255.0
    seconds = []
    spoken = attention_windows(windows, config.compat.zero_padding)
    for i, around in enumerate(track(spoken, "evaluation, other speech", len(windows))):
        start = time.monotonic()
        layers = jax.device_get(stage.layers(*driven(stage.person, i, around)))
        seconds.append(time.monotonic() - start)
        image = layers.person_over(background)
        scorer.add_alone("cross", i, i, image)
        if saved is not None:
            write_image(saved / "cross" / f"{i:06d}.png", _as_bytes(image))
    return seconds


def settings(
    config: ConfigDict,
    layers: Layers,
    background: np.ndarray,
    truth: np.ndarray,
    head_truth: np.ndarray,
    is_head: np.ndarray,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(render, truth) of each setting that a stage can be judged in; float [H, W, 3].

    `head_only`: the rendered head over the clean background against the true head there. `head`: the rendered head with
    the true torso and background pasted. `full`: everything rendered, which a head stage does whose subject is the
    whole person.
    """
    full = {"full": (layers.person_over(background), truth)}
    if config.stage == "head" and config.subject == "person":
        return full
    head = layers.head_over(background)
    pairs = {"head_only": (head, head_truth), "head": (np.where(is_head[..., None], head, truth), truth)}
    return pairs | full if config.stage == "torso" else pairs


def _as_bytes(image: np.ndarray) -> np.ndarray:
    return np.round(as_written(image) * 255.0).astype(np.uint8)


def _action_units(given: ConfigDict, frames: int) -> tuple[np.ndarray, np.ndarray] | None:
    """OpenFace's intensities [N, 9] of render and truth; None where they are not given.

    Raises:
      UserError: only one of the two is given, or a file cannot be used.
    """
    paths = given.openface_render, given.openface_truth
    if not any(paths):
        return None
    if not all(paths):
        raise UserError("give OpenFace's files of both: --config.eval.openface_render and --config.eval.openface_truth")
    render, truth = (read_units(path, frames) for path in paths)
    return render, truth


def _measures(values: dict[str, dict[str, float]]) -> dict[str, str]:
    """What the numbers are that there are."""
    present = {key for numbers in values.values() for key in numbers}
    return {name: text for name, text in MEASURES.items() if {name, f"{name}_truth"} & present}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "backend": jax.default_backend()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # another build of the same package
            continue
    return versions


def _write_table(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """A csv of the rows; what a row lacks, and what is not a number, is empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(names), restval="")
    writer.writeheader()
    writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    write_bytes(path, table.getvalue().encode())
