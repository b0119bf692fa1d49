"""Any video of the held-out frames, another program's too, judged as our own renders are: `score_video`."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import track
from adnerf_jax.common.timing import FPS
from adnerf_jax.data.datasets import SUBJECTS, Dataset, load_frames
from adnerf_jax.data.schema import Split
from adnerf_jax.evaluation.face_metrics import Sound
from adnerf_jax.evaluation.protocol import clip_samples, described, truth_bytes
from adnerf_jax.evaluation.scoring import make_scorer
from adnerf_jax.evaluation.sync_confidence import SOUND_RATE
from adnerf_jax.inference.speech_input import sound_blocks
from adnerf_jax.media.audio import has_sound, read_audio
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.speech import features as speech


@dataclasses.dataclass(frozen=True)
class VideoScores:
    """A judged video.

    Attributes:
      protocol, settings, rows: as an evaluation writes them.
      places: int [N], which of the video's frames were judged.
      note: what a reader should know.
    """

    protocol: dict[str, Any]
    settings: dict[str, dict[str, float]]
    rows: list[dict[str, Any]]
    places: np.ndarray
    note: str


def score_video(
    path: pathlib.Path,
    dataset: Dataset,
    split: Split,
    judged: str,
    every: int,
    setting: str,
    known: Sound | None,
    lpips: str,
    faces: bool,
    syncnet: str | None = None,
) -> VideoScores:
    """Scores a video against the truth, in constant memory.

    Args:
      path: at 25 frames a second, in the truth's size; it shows each judged frame, all frames from the first of them
        to the last, or the whole clip.
      dataset, split: the truth.
      judged, every: which frames these are (`protocol.frames_to_judge`).
      setting: which one the video shows.
      known: what the clip's sound lets expect of the lips.
      lpips, faces, syncnet: what to measure (`scoring.make_scorer`).

    Raises:
      UserError: it cannot be read, or shows another size or number of frames.
    """
    height, width = dataset.camera.height, dataset.camera.width
    shown = probe(path)
    # H.264 has even sides: what a writer added to an odd one is cut off.
    if (shown.width, shown.height) not in ((width, height), (width + width % 2, height + height % 2)):
        raise UserError(
            f"{path} is {shown.width}x{shown.height}, the truth {width}x{height}: bring it to that size, so that what "
            f"is judged is what you see"
        )
    places = _places(path, dataset, split)
    scorer, left_out = make_scorer(lpips, faces, min(height, width), syncnet)
    own = has_sound(path)
    digest, numbers = hashlib.sha256(), {place: k for k, place in enumerate(places.tolist())}
    frames = (image for image in enumerate(read_frames(path, FPS)) if image[0] in numbers)
    for place, image in track(frames, f"evaluation of {path.name}", len(split), compiles=True):
        i = numbers[place]
        loaded = load_frames(dataset, split.take(slice(i, i + 1)))
        truth, parts = loaded.images[0], loaded.parts[0]
        digest.update(truth_bytes(truth, parts))
        if setting == "head_only":
            truth = loaded.showing(SUBJECTS["head"], 0, dataset.background)
        time = place if own else int(split.aud_id[i])
        against = truth.astype(np.float32) / 255.0
        seam = None if setting == "head_only" else parts
        scorer.add(
            setting,
            int(split.img_id[i]),
            time,
            image[:height, :width] / np.float32(255),
            against,
            split.face_rect[i],
            seam,
        )
    sound, samples, heard = _sound(path, dataset, known, own)
    values, rows = scorer.finish(
        {setting: sound} if sound is not None else {}, {setting: samples} if syncnet and len(samples) else {}
    )
    smoothing = "as the video has it"
    protocol = described(judged, every, dataset, digest.hexdigest(), smoothing, None, values, left_out)
    return VideoScores(protocol, values, rows, places, f"a compressed video; its lips are held against {heard}")


def _places(path: pathlib.Path, dataset: Dataset, split: Split) -> np.ndarray:
    """Which frames of a video are the judged ones, int [N]."""
    count = sum(1 for _ in read_frames(path, FPS))
    first, last = int(split.aud_id[0]), int(split.aud_id[-1])
    if count == len(split):
        return np.arange(count)
    if count == last - first + 1:
        return split.aud_id - first
    if count == len(dataset.windows):
        return split.aud_id
    raise UserError(
        f"{path} has {count} frames at {FPS:g} a second: give the {len(split)} that are judged, the {last - first + 1} "
        f"from the first of them to the last (frames {first} to {last} of the clip), or all {len(dataset.windows)}"
    )


def _sound(
    path: pathlib.Path, dataset: Dataset, known: Sound | None, own: bool
) -> tuple[Sound | None, np.ndarray, str]:
    """What the lips are held against: the video's own sound where it has one that can be encoded."""
    if not own:
        return known, clip_samples(dataset), "the clip's sound"
    samples = read_audio(path, SOUND_RATE)
    if known is None or dataset.speech not in speech.ENCODERS:
        return None, samples, "its own sound"
    windows = list(speech.stream_windows(speech.get_encoder(dataset.speech), sound_blocks(path, 0.0, None)))
    return Sound(known.model, known.face, np.stack(windows)), samples, "its own sound"
