"""Accuracy of edited renders of a trained person: poses, eyes, mattes, halos and jitter.

    python -m benchmarks.editing --workdir W/torso --audio S.wav --data W/dataset --truth W/subject/truth

prints the lines of a table. Poses and eyes of the rendered frames are measured by the landmark network and compared
with the requested ones. `--data` adds the held-out frames' PSNR with true and with default eyes and the original
video's jitter; `--truth` (of the built-in subject) adds the matte against the true one and the halo. It renders about
eight times `--frames` frames.
"""

import argparse
import collections
import itertools
import pathlib

import jax
import numpy as np
from scipy.ndimage import distance_transform_edt

from adnerf_jax import Avatar
from adnerf_jax.common.curves import read_curves
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import Dataset, load_dataset, load_frames
from adnerf_jax.evaluation.face_metrics import correlation, jitter, rotation_jitter
from adnerf_jax.evaluation.metrics import psnr
from adnerf_jax.face.landmarks import RIGID, Landmarks, detect_video, eye_openness
from adnerf_jax.face.tracking import track_head
from adnerf_jax.inference.code_inputs import DrivenTracks
from adnerf_jax.inference.head_motion import NAMES, MotionRange
from adnerf_jax.inference.pose_sequences import displaced
from adnerf_jax.inference.pose_sources import pose_source
from adnerf_jax.media.image import read_image
from adnerf_jax.preprocessing.steps import canonical_face
from benchmarks.preparation import pose_errors

_OFFSET = 10.0  # degrees in each direction
_BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "magenta": (255, 0, 255)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.editing", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--audio", required=True, type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--truth", type=pathlib.Path)
    parser.add_argument("--frames", type=int, default=100, help="of each rendering")
    arguments = parser.parse_args()
    avatar = Avatar.load(arguments.workdir)
    print_row("measured", "value")
    print_row("---", "---")
    for name in NAMES[:3]:
        error, learned = pose_error(avatar, arguments.audio, name, arguments.frames)
        print_row(
            f"{name} ±{_OFFSET:g}° about the rest pose: tracked against requested, RMS; in the training's range",
            f"{error:.2f}°; {learned:.2f}°",
        )
    for pose, what in (("rest", "at the rest pose"), ("mirror", "while the head moves as in training")):
        found = eyes(avatar, arguments.audio, arguments.frames, pose)
        print_row(f"eye openness {what}: measured against requested, correlation", f"{found:.3f}")
    found = landmarks(avatar.render(arguments.audio, duration=arguments.frames / FPS))
    print_row("jitter of landmarks, rendered", format_jitter(found, np.arange(len(found.valid))))
    if arguments.data is None:
        return
    dataset = load_dataset(arguments.data, codes=tuple(avatar.stage.scene.codes))
    original = Landmarks.load(arguments.data / schema.LANDMARKS)
    print_row("jitter of landmarks, original", format_jitter(original, np.arange(len(original.valid))))
    true, default = held_out(avatar, dataset)
    print_row("PSNR of held-out frames in `full`, true eyes / default blinks", f"{true:.2f} / {default:.2f} dB")
    if arguments.truth is None:
        return
    found = edges(avatar, dataset, arguments.truth, arguments.frames)
    print_row("matte against the true one, mean absolute error", f"{found['matte']:.4f}")
    print_row("halo: colours of the soft edge, mean absolute error, grey levels", f"{found['halo']:.2f}")
    print_row("halo: share of the training background in these colours", f"{100 * found['share']:.1f} %")
    for name in _BACKGROUNDS:
        print_row(f"soft edge over {name}, error from the opacity alone, grey levels", f"{found[name]:.2f}")


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def landmarks(frames) -> Landmarks:
    """Landmarks of rendered frames.

    Raises:
      UserError: frames without a face.
    """
    found = detect_video(frames, len(frames))
    if not found.valid.all():
        raise UserError(f"no face was found in {int((~found.valid).sum())} of {len(frames)} rendered frames")
    return found


def pose_error(avatar: Avatar, audio: pathlib.Path, name: str, frames: int) -> tuple[float, float]:
    """RMS error in degrees of the tracked against the requested poses; one angle swings about the rest pose.

    Returns:
      over all frames, and over those whose requested pose is inside the range of the training poses.
    """
    seconds = frames / FPS
    keys = {name: [[seconds * k / 4, _OFFSET * value] for k, value in enumerate((0, 1, 0, -1, 0))]}
    frames_to_come = avatar.render(audio, duration=seconds, pose="rest", eyes=1, offset=keys)
    found, camera = landmarks(frames_to_come), avatar.stage.person.camera
    head = track_head(found.points, found.valid, camera.focal, camera.cx, camera.cy, canonical_face())
    source = displaced(pose_source("rest", avatar.stage.person), read_curves(keys, NAMES, "offset"))
    seen = MotionRange.of(avatar.stage.person.transforms)
    requested = np.stack([posed.transform for posed in itertools.islice(source.start(), len(found.valid))])
    learned = np.array([not seen.out_of_range(pose[None]) for pose in requested])
    requested = requested.astype(np.float64)
    return tuple(pose_errors(head.transform[some], requested[some])["rotation"] for some in (slice(None), learned))


def eyes(avatar: Avatar, audio: pathlib.Path, frames: int, pose: str) -> float:
    """Correlation of a requested openness, which rises and falls once a second, with the measured one."""
    seconds = frames / FPS
    keys = {"eyes": [[k / 2, float(k % 2 == 0)] for k in range(int(2 * seconds) + 2)]}
    found = landmarks(avatar.render(audio, duration=seconds, pose=pose, eyes=keys))
    curve = read_curves(keys, ("eyes",), "eyes")["eyes"]
    requested = np.array([curve(i / FPS) for i in range(len(found.valid))])
    return correlation(eye_openness(found.points).mean(1), requested)


def format_jitter(found: Landmarks, frames: np.ndarray) -> str:
    points, at = found.points[found.valid], frames[found.valid]
    return f"{jitter(points[:, RIGID, :2], at):.3f} px, {rotation_jitter(points, at):.3f}°"


def held_out(avatar: Avatar, dataset: Dataset) -> tuple[float, float]:
    """Mean PSNR of the held-out frames with the true eyes and with the default eyes (`blinks`).

    Likewise for other driven codes that the person was trained with.
    """
    person, split = avatar.stage.person, dataset.val
    driven = DrivenTracks({}, person.tracks, seed=0)
    defaults = driven.start()
    background = person.background.astype(np.float32) / 255.0
    values = []
    for i in range(len(split)):
        truth = load_frames(dataset, split.take(slice(i, i + 1))).images[0].astype(np.float32) / 255.0
        conditions = dataset.conditions(split.aud_id[i : i + 1])
        row = []
        measured = {name: track[0] for name, track in conditions.tracks.items()}
        for tracks in (conditions.tracks, driven.fill(next(defaults), measured)):
            layers = avatar.stage.layers(split.transforms[i], conditions.replace(tracks=tracks))
            row.append(float(psnr(np.asarray(layers.person_over(background)), truth)))
        values.append(row)
    true, default = np.mean(values, axis=0)
    return float(true), float(default)


def edges(avatar: Avatar, dataset: Dataset, truth: pathlib.Path, frames: int) -> dict[str, float]:
    """Mean absolute errors against the built-in subject's true mattes, in some training frames.

    Let s be the true opacity and F the true colour, taken from the nearest fully opaque pixel (edges of a compressed
    video mix colours), α our opacity and C our premultiplied colour. The error over a background B is
    (C − αF) + (α − s)(F − B): the first term is the halo, equal over every background, the second is the opacity's.

    Returns:
      `matte`: error of the opacity over all pixels. Over the pixels with a true opacity between 0.02 and 0.98: `halo`;
      `share`, the fraction of the training background in the halo by least squares; and for each colour of
      `_BACKGROUNDS` the error that is due to the opacity.
    """
    background = read_image(truth / "background.png").astype(np.float32)
    rows = np.unique(np.linspace(0, len(dataset.train) - 1, frames).astype(int))
    found = collections.defaultdict(list)
    for row in rows:
        split = dataset.train.take(slice(row, row + 1))
        i = int(split.img_id[0])
        head, torso = (
            read_image(truth / f"alpha/{i}_{name}.png")[..., 0].astype(np.float32) / 255.0 for name in ("head", "torso")
        )
        share = np.minimum(head + torso, 1.0)
        layers = jax.device_get(avatar.stage.layers(split.transforms[0], dataset.conditions(split.aud_id)))
        opacity = np.asarray(layers.straight())[..., 3]
        found["matte"].append(np.abs(opacity - share).mean())
        soft = (share > 0.02) & (share < 0.98)
        filmed = read_image(dataset.path / schema.original_image(i)).astype(np.float32)
        nearest = distance_transform_edt(share < 1, return_distances=False, return_indices=True)
        person, ours = filmed[tuple(nearest)][soft], opacity[soft][:, None]
        added = np.asarray(layers.person_over(np.zeros_like(filmed)))[soft] * 255.0 - ours * person
        towards = ours * (background[soft] - person)
        found["halo"].append(np.abs(added).mean())
        found["share"].append((added * towards).sum() / np.square(towards).sum())
        for name, colour in _BACKGROUNDS.items():
            found[name].append(np.abs((ours - share[soft][:, None]) * (person - np.float32(colour))).mean())
    return {name: float(np.mean(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
