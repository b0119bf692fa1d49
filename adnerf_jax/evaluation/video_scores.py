"""Scores any video of the held-out frames, also of another program, by the protocol of our renders: `score_video`."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import track
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.data.datasets import SUBJECTS, Dataset, load_frames
from adnerf_jax.data.schema import Split
from adnerf_jax.evaluation.face_metrics import ExpectedLips
from adnerf_jax.evaluation.protocol import clip_samples, describe_protocol, truth_bytes
from adnerf_jax.evaluation.scoring import Row, make_scorer
from adnerf_jax.inference.speech_input import sound_blocks
from adnerf_jax.media.audio import has_sound, read_audio
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.speech import features as speech


@dataclasses.dataclass(frozen=True)
class VideoScores:
    """The scores of a video.

    Attributes:
      protocol, settings, rows: those that an evaluation writes.
      positions: int [N], indices of the scored frames in the video.
      note: remark for the report.
    """

    protocol: dict[str, Any]
    settings: dict[str, dict[str, float]]
    rows: list[Row]
    positions: np.ndarray
    note: str


def score_video(
    path: pathlib.Path,
    dataset: Dataset,
    split: Split,
    frames: str,
    every: int,
    setting: str,
    expected: ExpectedLips | None,
    lpips: str,
    faces: bool,
    syncnet: str | None = None,
) -> VideoScores:
    """Scores a video against the ground truth, in constant memory.

    Args:
      path: video at 25 frames a second in the size of the ground truth. It shows the evaluated frames alone, all frames
        from the first of them to the last, or the whole clip.
      dataset, split: the ground truth.
      frames, every: description of the evaluated frames and their spacing (`protocol.frames_to_evaluate`).
      setting: the setting that the video shows: full, head or head_only.
      expected: lip shapes that the clip's speech predicts.
      lpips, faces, syncnet: what to measure (`scoring.make_scorer`).

    Raises:
      UserError: the video cannot be read, or has another size or number of frames.
    """
    height, width = dataset.camera.height, dataset.camera.width
    shown = probe(path)
    # H.264 needs even sides: a row or column that the encoder added to an odd one is cropped.
    if (shown.width, shown.height) not in ((width, height), (width + width % 2, height + height % 2)):
        raise UserError(
            f"{path} is {shown.width}x{shown.height}, the ground truth {width}x{height}: resize the video, so that you "
            f"see what is scored"
        )
    positions = _positions(path, dataset, split)
    scorer, left_out = make_scorer(lpips, faces, min(height, width), syncnet)
    own_sound = has_sound(path)
    digest, index_at = hashlib.sha256(), {position: i for i, position in enumerate(positions.tolist())}
    images = (item for item in enumerate(read_frames(path, FPS)) if item[0] in index_at)
    for position, image in track(images, f"evaluation of {path.name}", len(split), compiles=True):
        i = index_at[position]
        loaded = load_frames(dataset, split.take(slice(i, i + 1)))
        truth, parts = loaded.images[0], loaded.parts[0]
        digest.update(truth_bytes(truth, parts))
        if setting == "head_only":
            truth = loaded.showing(SUBJECTS["head"], slice(0, 1), dataset.background)[0]
        scorer.add(
            setting,
            int(split.img_id[i]),
            position if own_sound else int(split.aud_id[i]),
            image[:height, :width] / np.float32(255),
            truth.astype(np.float32) / 255.0,
            split.face_rect[i],
            None if setting == "head_only" else parts,
        )
    expected, samples, source = _sound(path, dataset, expected, own_sound)
    values, rows = scorer.finish(
        {setting: expected} if expected is not None else {}, {setting: samples} if syncnet and len(samples) else {}
    )
    smoothing = "as the video has it"
    protocol = describe_protocol(frames, every, dataset, digest.hexdigest(), smoothing, (), {}, None, values, left_out)
    return VideoScores(protocol, values, rows, positions, f"a compressed video; its lips are compared with {source}")


def _positions(path: pathlib.Path, dataset: Dataset, split: Split) -> np.ndarray:
    """Indices of the evaluated frames in a video, int [N]."""
    count = sum(1 for _ in read_frames(path, FPS))
    first, last = int(split.aud_id[0]), int(split.aud_id[-1])
    if count == len(split):
        return np.arange(count)
    if count == last - first + 1:
        return split.aud_id - first
    if count == len(dataset.windows):
        return split.aud_id
    raise UserError(
        f"{path} has {count} frames at {FPS:g} a second: give the {len(split)} that are evaluated, the "
        f"{last - first + 1} from the first of them to the last (frames {first} to {last} of the clip), or all "
        f"{len(dataset.windows)}"
    )


def _sound(
    path: pathlib.Path, dataset: Dataset, expected: ExpectedLips | None, own_sound: bool
) -> tuple[ExpectedLips | None, np.ndarray, str]:
    """The expected lips and the samples to compare the video with, and where they come from.

    The video's own sound is used where it has one; expected lips need features that can be computed from it.
    """
    if not own_sound:
        return expected, clip_samples(dataset), "the clip's sound"
    samples = read_audio(path, SAMPLE_RATE)
    if expected is None or dataset.speech not in speech.ENCODERS:
        return None, samples, "its own sound"
    windows = list(speech.stream_windows(speech.get_encoder(dataset.speech), sound_blocks(path, 0.0, None)))
    return ExpectedLips(expected.model, expected.face, np.stack(windows)), samples, "its own sound"
