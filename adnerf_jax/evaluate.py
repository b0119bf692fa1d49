"""Held-out frames to metrics: `evaluate(config, workdir)`."""

import csv
import io
import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.datasets import SUBJECTS, dataset_of, load_frames, tuning_split
from adnerf_jax.errors import UserError
from adnerf_jax.face.parsing import HEAD
from adnerf_jax.files import write_bytes, write_json
from adnerf_jax.media.image import write_image
from adnerf_jax.metrics import crop, psnr, ssim
from adnerf_jax.progress import say, track
from adnerf_jax.rendering import Layers
from adnerf_jax.trained import TrainedStage
from adnerf_jax.validation import contact_sheet

_SHEET_FRAMES = 6


def evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Compares renders of the held-out frames with the truth, each setting apart.

    Writes `eval/metrics.json`, `eval/frames.csv`, `eval/timing.json` and `eval/contact.png` (rows: frames; columns:
    truth, then each setting's render).

    Args:
      config: the stage's configuration.
      workdir: its folder.

    Returns:
      what `metrics.json` holds.

    Raises:
      UserError: no checkpoint, no held-out frames, or a dataset that the person cannot be compared with.
    """
    if config.eval.every < 1:
        raise UserError(f"config.eval.every is {config.eval.every}: take each n-th frame, n = 1 or more")
    folder = pathlib.Path(workdir) / "eval"
    stage = TrainedStage.load(workdir, config)
    dataset = dataset_of(config)
    if dataset.camera != stage.person.camera or dataset.windows.shape[2] != len(stage.scene.audio_mean):
        raise UserError(
            f"{config.data} was filmed by another camera, or has other speech features, than what {workdir} learned "
            f"from: give the dataset of that person with --config.data"
        )
    held_out, described = dataset.val, "held-out frames, the last 1/11 of the clip"
    if config.train.tuning:
        held_out, described = tuning_split(dataset.train)[1], "frames for tuning, the last tenth of the training frames"
    split = held_out.take(slice(None, None, config.eval.every))
    if not len(split):
        raise UserError(f"{config.data} has no held-out frames to evaluate on: the clip is too short")
    background = dataset.background.astype(np.float32) / 255.0

    rows: list[dict] = []
    sheet = []
    shown = set(np.linspace(0, len(split) - 1, _SHEET_FRAMES).astype(int))
    seconds = []
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
            rows.append({"frame": int(split.img_id[i]), "setting": name} | measure(image, against, split.face_rect[i]))
        if i in shown:
            sheet.append([truth, *(np.clip(image, 0, 1) for image, _ in pairs.values())])

    names = list(dict.fromkeys(row["setting"] for row in rows))
    result = {
        "protocol": {
            "frames": f"{len(split)} {described}, every {config.eval.every}",
            "truth": "lossless, background replaced by the clean background",
            "psnr": "per frame, whole frame, values in [0, 1], capped at 100 dB, mean over frames; psnr_face: inside "
            "the face rectangle",
            "ssim": "Gaussian window 11, sigma 1.5, population covariance, RGB, mean over frames",
            "smoothing": "none but the audio attention of the model",
            "step": stage.step,
            "family": config.family,
        },
        "settings": {
            name: {
                key: round(float(np.mean([row[key] for row in rows if row["setting"] == name])), 4)
                for key in ("psnr", "psnr_face", "ssim")
            }
            for name in names
        },
    }
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(folder / "frames.csv", table.getvalue().encode())
    # The first frame includes compilation.
    mean = float(np.mean(seconds[1:] or seconds))
    write_json(folder / "timing.json", {"seconds_per_frame": mean, "first_frame_seconds": seconds[0]})
    write_image(folder / "contact.png", (contact_sheet(sheet) * 255.0).round().astype(np.uint8))
    write_json(folder / "metrics.json", result)
    for name, values in result["settings"].items():
        say(f"{name}: PSNR {values['psnr']:.2f} dB (face {values['psnr_face']:.2f}), SSIM {values['ssim']:.4f}")
    say(f"wrote {folder}/metrics.json, frames.csv, timing.json, contact.png")
    return result


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


def measure(image: np.ndarray, truth: np.ndarray, face_rect: np.ndarray) -> dict[str, float]:
    """PSNR, PSNR inside the face rectangle, SSIM; the render is rounded to 8 bits first, as a written picture is."""
    image = np.round(np.clip(image, 0.0, 1.0) * 255.0) / 255.0
    return {
        "psnr": psnr(image, truth),
        "psnr_face": psnr(crop(image, face_rect), crop(truth, face_rect)),
        "ssim": ssim(image, truth),
    }
