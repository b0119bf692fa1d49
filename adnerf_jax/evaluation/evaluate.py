"""Held-out frames to metrics: `evaluate(config, workdir)`."""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import time
from collections.abc import Sequence, Set
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import sha256_of, write_json
from adnerf_jax.common.progress import say, track
from adnerf_jax.common.timing import FRAMES_BEFORE
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import SUBJECTS, Dataset, dataset_of, load_frames
from adnerf_jax.data.schema import Split
from adnerf_jax.evaluation.face_metrics import Sound
from adnerf_jax.evaluation.openface import read_units, unit_errors
from adnerf_jax.evaluation.protocol import (
    clip_samples,
    described,
    frames_to_judge,
    known_sound,
    truth_bytes,
    versions,
    write_table,
)
from adnerf_jax.evaluation.reporting.evaluation import Evidence, Strip, write_report
from adnerf_jax.evaluation.reporting.films import Film
from adnerf_jax.evaluation.scoring import Scorer, as_written, make_scorer
from adnerf_jax.evaluation.sync_confidence import SOUND_RATE
from adnerf_jax.face.parsing import HEAD
from adnerf_jax.inference.shards import discard_frames, finished_frames, frame_path, parse_shard, read_frame, stage_job
from adnerf_jax.inference.speech_input import SpeechInput, speech_input
from adnerf_jax.inference.synthesize import training_pose_and_conditions
from adnerf_jax.inference.trained import TrainedStage
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.rendering.renderer import Layers
from adnerf_jax.training.validation import contact_sheet

_SHEET_FRAMES = 6
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
    then each setting's render) and, if asked, `eval/frames/` and `eval/report.html` with its films. Frames are held one
    at a time. Renders are kept in `eval.frames/` until all is written: an interrupted evaluation goes on, and several
    processes can render parts of it (`config.eval.shard`), which write nothing else.

    Args:
      config: the stage's configuration.
      workdir: its folder.

    Returns:
      what `metrics.json` holds; nothing for a part.

    Raises:
      UserError: no checkpoint, no held-out frames, a dataset that the person cannot be compared with, or other files
        that cannot be used.
    """
    start = time.monotonic()
    workdir = pathlib.Path(workdir)
    folder, kept = workdir / "eval", workdir / "eval.frames"
    part, parts = parse_shard(config.eval.shard, "eval.shard")
    stage = TrainedStage.load(workdir, config, config.eval.attention)
    dataset = dataset_of(config)
    if dataset.camera != stage.person.camera or dataset.windows.shape[2] != len(stage.scene.audio_mean):
        raise UserError(
            f"{config.data} was filmed by another camera, or has other speech features, than what {workdir} learned "
            f"from: give the dataset of that person with --config.data"
        )
    trained_on, split, judged = frames_to_judge(config, dataset)
    job = evaluation_job(config, workdir, stage, dataset)
    held_out = HeldOut(config, stage, dataset, split, kept, finished_frames(kept, job))
    if parts > 1:
        for i in track(range(part, len(split), parts), "evaluation", compiles=True):
            held_out.written(i)
        say(f"rendered part {part + 1} of {parts} into {kept}; the same command without --config.eval.shard judges all")
        return {}
    units = _action_units(config.eval, len(split))
    smallest = min(dataset.camera.height, dataset.camera.width)
    scorer, left_out = make_scorer(config.eval.lpips, config.eval.faces, smallest, config.eval.syncnet)
    sound = None if "faces" in left_out else known_sound(dataset, trained_on)
    cross = None
    if config.eval.cross:
        audio, length = pathlib.Path(config.eval.cross), config.eval.cross_duration
        features, zero_padded = config.render.features, config.compat.zero_padding
        cross = speech_input(stage, audio, duration=length, features=features, zero_padded=zero_padded)

    shutil.rmtree(folder / "frames", ignore_errors=True)
    for name in ("report.html", "held_out.mp4", "cross.mp4"):  # of an evaluation of other things
        (folder / name).unlink(missing_ok=True)
    saved = folder / "frames" if config.eval.save_frames else None
    films = {"held out": folder / "held_out.mp4"} if config.eval.report else {}
    sheet = judge_held_out(held_out, scorer, saved, films.get("held out"))
    seconds = list(held_out.seconds)
    sounds = dict.fromkeys(("head_only", "head", "full"), sound)
    if cross is not None:
        films |= {"cross": folder / "cross.mp4"} if config.eval.report else {}
        more, windows = judge_cross(stage, cross, scorer, saved, films.get("cross"), held_out.provenance)
        seconds += more
        sounds["cross"] = sound and Sound(sound.model, sound.face, windows)
    samples = {}
    if config.eval.syncnet:
        clip = clip_samples(dataset)
        samples = dict.fromkeys(sounds, clip)
        if cross is not None:
            samples["cross"] = read_audio(config.eval.cross, SOUND_RATE, duration=config.eval.cross_duration)
    values, rows = scorer.finish(
        {name: known for name, known in sounds.items() if known is not None},
        {name: heard for name, heard in samples.items() if len(heard)},
    )
    if units:
        # The setting in which most is rendered, as one would give it to OpenFace.
        values["full" if "full" in values else "head"] |= {k: round(v, 4) for k, v in unit_errors(*units).items()}
    else:
        left_out["au_error"] = "config.eval.openface_render and openface_truth are not given"
    if cross is None:
        left_out["cross"] = "config.eval.cross is not given"

    result = {
        "protocol": described(
            judged,
            config.eval.every,
            dataset,
            held_out.digest.hexdigest(),
            ("none but the audio attention of the model" if config.eval.attention else "none")
            + ("; the expression as tracked in the truth" if config.eval.tracked_expression else ""),
            None if cross is None else f"{cross.frames} frames of sound {sha256_of(audio)[:16]} (SHA-256), no truth",
            values,
            left_out,
        ),
        "model": {"family": config.family, "stage": config.stage, "subject": config.subject, "step": stage.step},
        "versions": versions(),
        "settings": values,
    }
    write_table(folder / "frames.csv", rows)
    write_image(folder / "contact.png", sheet, provenance=held_out.provenance)
    write_json(folder / "metrics.json", result)
    timing = {"total_seconds": time.monotonic() - start}
    if seconds:  # not all frames had been rendered before; the first one here includes compilation
        timing |= {"seconds_per_frame": float(np.mean(seconds[1:] or seconds)), "first_frame_seconds": seconds[0]}
    write_json(folder / "timing.json", timing)
    if config.eval.report:
        strips = held_out.strips(rows)
        write_report(Evidence(workdir, config, result, rows, timing, stage.parameters, strips, films, dataset))
    discard_frames(kept)
    for name, numbers in values.items():
        told = [text.format(numbers[key]) for key, text in _TOLD.items() if key in numbers]
        say(f"{name}: {', '.join(told) or 'nothing could be measured'}")
    more = (", report.html" if config.eval.report else "") + (", frames/" if saved else "")
    say(f"wrote {folder}/metrics.json, frames.csv, timing.json, contact.png{more}")
    return result


@dataclasses.dataclass(frozen=True)
class Judged:
    """A held-out frame.

    Attributes:
      truth: float [H, W, 3].
      parts: uint8 [H, W], of the truth.
      pairs: render and truth of each setting (`settings`).
    """

    truth: np.ndarray
    parts: np.ndarray
    pairs: dict[str, tuple[np.ndarray, np.ndarray]]


class HeldOut:
    """The held-out frames of a clip, rendered one at a time.

    Args:
      config, stage, dataset, split: what is rendered.
      kept: folder of the renders; None keeps none.
      done: numbers of the frames that are there already.

    Attributes:
      digest: of every truth that was judged.
      provenance: what pictures and films of the renders say of their origin; None: nothing (`config.render.label`).
      seconds: that each render took.
    """

    def __init__(
        self,
        config: ConfigDict,
        stage: TrainedStage,
        dataset: Dataset,
        split: Split,
        kept: pathlib.Path | None = None,
        done: Set[int] = frozenset(),
    ):
        self.config, self.stage, self.dataset, self.split = config, stage, dataset, split
        self.digest, self.seconds = hashlib.sha256(), []
        self.provenance = stage.provenance if config.render.label else None
        self._kept, self._done = kept, set(done)
        self._background = dataset.background.astype(np.float32) / 255.0

    def __len__(self) -> int:
        return len(self.split)

    def written(self, i: int) -> dict[str, np.ndarray]:
        """Renders of frame `i` as `rendered` names them, uint8 [H, W, 3]; read where they were made before."""
        names = rendered_names(self.config)
        if i not in self._done:
            start = time.monotonic()
            tracked = self.config.eval.tracked_expression
            conditions = self.dataset.conditions(self.split.aud_id[i : i + 1], tracked=tracked)
            layers = jax.device_get(self.stage.layers(self.split.transforms[i], conditions))
            self.seconds.append(time.monotonic() - start)
            images = [_as_bytes(image) for image in rendered(names, layers, self._background)]
            if self._kept is not None:
                write_image(frame_path(self._kept, i), np.concatenate(images))
                self._done.add(i)
            return dict(zip(names, images, strict=True))
        return dict(zip(names, np.split(read_frame(self._kept, i, read_image), len(names)), strict=True))

    def render(self, i: int) -> Judged:
        """Frame `i` of the split."""
        frames = load_frames(self.dataset, self.split.take(slice(i, i + 1)))
        truth, parts = frames.images[0].astype(np.float32) / 255.0, frames.parts[0]
        head_truth = frames.showing(SUBJECTS["head"], 0, self.dataset.background).astype(np.float32) / 255.0
        images = {name: image.astype(np.float32) / 255.0 for name, image in self.written(i).items()}
        return Judged(truth, parts, settings(images, truth, head_truth, parts == HEAD))

    def strips(self, rows: list[dict[str, Any]]) -> list[Strip]:
        """The best, the median and the worst frame by the PSNR of the setting in which most is rendered."""
        last = next(row["setting"] for row in reversed(rows) if row["setting"] != "cross")
        psnr = np.array([row["psnr"] for row in rows if row["setting"] == last])
        order = np.argsort(-psnr, kind="stable")
        chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
        strips = []
        for what, i in chosen.items():
            pairs = {name: tuple(map(_as_bytes, pair)) for name, pair in self.render(int(i)).pairs.items()}
            strips.append(Strip(what, int(self.split.img_id[i]), last, float(psnr[i]), pairs))
        return strips


def judge_held_out(
    held_out: HeldOut, scorer: Scorer, saved: pathlib.Path | None, film: pathlib.Path | None
) -> np.ndarray:
    """Renders and scores frames with a truth.

    Args:
      held_out: the frames.
      scorer: takes them.
      saved: folder for renders and truth as PNG.
      film: mp4 of truth | render to write.

    Returns:
      the contact sheet, uint8 [H, W, 3].
    """
    split, dataset = held_out.split, held_out.dataset
    shown = set(np.linspace(0, len(split) - 1, _SHEET_FRAMES).astype(int))
    sheet = []
    with contextlib.ExitStack() as open_files:
        if film is not None:
            every, sound = held_out.config.eval.every, dataset.path / schema.SOUND
            size = 2 * dataset.camera.width, dataset.camera.height
            film = open_files.enter_context(Film(film, *size, split.aud_id, every, sound, held_out.provenance))
        for i in track(range(len(split)), "evaluation", compiles=True):
            frame = held_out.render(i)
            held_out.digest.update(truth_bytes(_as_bytes(frame.truth), frame.parts))
            for name, (image, against) in frame.pairs.items():
                parts = None if name == "head_only" else frame.parts
                scorer.add(name, int(split.img_id[i]), int(split.aud_id[i]), image, against, split.face_rect[i], parts)
            if not (i in shown or saved or film):
                continue
            pictures = {"truth": _as_bytes(frame.truth)}
            pictures |= {name: _as_bytes(image) for name, (image, _) in frame.pairs.items()}
            if i in shown:
                sheet.append(list(pictures.values()))
            for name, image in pictures.items() if saved else ():
                origin = None if name == "truth" else held_out.provenance
                write_image(saved / name / f"{split.img_id[i]:06d}.png", image, provenance=origin)
            if film:
                film.add(pictures["truth"], list(pictures.values())[-1])
    return contact_sheet(sheet)


def judge_cross(
    stage: TrainedStage,
    speech: SpeechInput,
    scorer: Scorer,
    saved: pathlib.Path | None,
    film: pathlib.Path | None,
    provenance: Provenance | None,
) -> tuple[list[float], np.ndarray]:
    """Renders and scores other speech, a file's, in the poses of a talking video.

    Returns:
      seconds of each render, and the speech windows [N, 16, C] that were rendered.
    """
    background = stage.person.background.astype(np.float32) / 255.0
    seconds, windows = [], []
    with contextlib.ExitStack() as open_files:
        if film is not None:
            size = background.shape[1::-1]
            film = open_files.enter_context(Film(film, *size, range(speech.frames), 1, speech.sound, provenance))
        for i, around in enumerate(track(speech.windows(), "evaluation, other speech", speech.frames)):
            windows.append(around[FRAMES_BEFORE].copy())  # a view would keep its neighbours
            start = time.monotonic()
            layers = jax.device_get(stage.layers(*training_pose_and_conditions(stage.person, i, around)))
            seconds.append(time.monotonic() - start)
            image = layers.person_over(background)
            scorer.add_alone("cross", i, i, image)
            if saved is not None:
                write_image(saved / "cross" / f"{i:06d}.png", _as_bytes(image), provenance=provenance)
            if film is not None:
                film.add(_as_bytes(image))
    return seconds, np.stack(windows)


def rendered_names(config: ConfigDict) -> tuple[str, ...]:
    """What a stage renders: its head, everything, or both."""
    if config.stage == "torso":
        return "head", "full"
    return ("full",) if config.subject == "person" else ("head",)


def rendered(names: Sequence[str], layers: Layers, background: np.ndarray) -> list[np.ndarray]:
    """The head alone or everything over a background, float [H, W, 3] each."""
    over = {"head": layers.head_over, "full": layers.person_over}
    return [over[name](background) for name in names]


def settings(
    images: dict[str, np.ndarray], truth: np.ndarray, head_truth: np.ndarray, is_head: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(render, truth) of each setting that renders can be judged in; float [H, W, 3].

    `head_only`: the rendered head over the clean background against the true head there. `head`: the rendered head with
    the true torso and background pasted. `full`: everything rendered, which a head stage does whose subject is the
    whole person.

    Args:
      images: by the names of `rendered_names`.
      truth: the frame.
      head_truth: its head over the clean background.
      is_head: bool [H, W].
    """
    pairs = {}
    if "head" in images:
        pasted = np.where(is_head[..., None], images["head"], truth)
        pairs = {"head_only": (images["head"], head_truth), "head": (pasted, truth)}
    return pairs | ({"full": (images["full"], truth)} if "full" in images else {})


def evaluation_job(config: ConfigDict, workdir: pathlib.Path, stage: TrainedStage, dataset: Dataset) -> dict:
    """What decides every render; those of another job are not reused."""
    data = pathlib.Path(config.data)
    files = (schema.TRANSFORMS["train"], schema.TRANSFORMS["val"], schema.AUDIO_WINDOWS, schema.LANDMARKS)
    return stage_job(stage, workdir, config) | {
        "background": hashlib.sha256(dataset.background.tobytes()).hexdigest(),
        "data": {name: sha256_of(data / name) for name in files if (data / name).exists()},
        "size": config.size,
        "tuning": config.train.tuning,
        **{name: config.eval[name] for name in ("every", "tracked_expression", "attention")},
    }


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
