"""Ablation of the pose estimation: landmarks alone, with bundle adjustment, and with optical flow as well.

    python -m benchmarks.pose_ablation --data runs/quickstart/dataset --truth runs/quickstart/subject/truth --workdir W
    python -m benchmarks.pose_ablation --data D --reference poses.json --workdir W

prints the error of the poses against the reference and the PSNR of a head and torso trained with them; frames, part
maps and background are the same. It takes three trainings of both stages of the `fast` family and their evaluations;
a rerun skips finished ones.
"""

import argparse
import json
import os
import pathlib
import shutil

import numpy as np

import run
from adnerf_jax.data import schema
from adnerf_jax.face import bundle_adjustment as bundle
from adnerf_jax.face import optical_flow as flow
from adnerf_jax.face.landmarks import RIGID, Landmarks, to_ibug68
from adnerf_jax.face.rigid import Pinhole
from adnerf_jax.face.tracking import UNITS_PER_CM, HeadTrack, camera_to_head, head_to_camera, track_head
from adnerf_jax.preprocessing import transforms
from adnerf_jax.preprocessing.steps import canonical_face
from benchmarks.preparation import load_poses, pose_errors


def adjust_landmarks(head: HeadTrack, found: Landmarks, camera: Pinhole) -> np.ndarray:
    """Camera-to-head [N, 4, 4] after a bundle adjustment of the rigid landmarks alone, smoothed over time."""
    frames = np.flatnonzero(head.valid)
    poses, points = head_to_camera(head.transform[frames]), head.shape[RIGID] / UNITS_PER_CM
    seen = bundle.Observations.join(
        flow.Matches(
            np.repeat(np.arange(len(frames)), len(RIGID)),
            np.tile(np.arange(len(RIGID)), len(frames)),
            found.points[frames][:, RIGID, :2].reshape(-1, 2).astype(np.float64),
        )
    )
    # As in `adnerf_jax.preprocessing.poses`: landmarks are accurate to 0.5 % of the face's extent.
    floor = np.array([0.005 * np.median([flow.extent_of(found.points[i]) for i in frames])])
    keys = np.unique(np.linspace(0, len(frames) - 1, min(120, len(frames))).round().astype(int))
    _, points = bundle.adjust(
        seen.of_frames(keys, len(frames)), poses.take(keys), points, np.full(len(RIGID), 0.3), camera, floor
    )
    poses = bundle.track_poses(seen, poses, points, camera, floor, 4 * floor, bundle.acceleration(poses))
    adjusted = head.transform.copy()
    adjusted[frames] = camera_to_head(poses)
    return adjusted


def train_and_evaluate(data: pathlib.Path, poses: np.ndarray, folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Metrics of each setting on the held-out frames after training on the dataset with other poses [N, 4, 4]."""
    copy, metrics = folder / "dataset", folder / "torso" / "eval" / "metrics.json"
    if not metrics.exists():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(data, copy, copy_function=os.link)
        index, found = schema.load_index(data), Landmarks.load(data / schema.LANDMARKS)
        ids = np.concatenate([index.train.img_id, index.val.img_id])
        lms = to_ibug68(found.points[ids])
        transforms.write_index(copy, ids, poses[ids], lms, index.focal, round(2 * index.cx), round(2 * index.cy))
        for stage in ("head", "torso"):
            _run(f"--config=configs/{stage}.py:fast", f"--config.data={copy}", f"--workdir={folder / stage}")
        _run("--mode=eval", "--config=configs/torso.py", f"--workdir={folder / 'torso'}")
    return json.loads(metrics.read_text())["settings"]


def _run(*options: str) -> None:
    if run.main(["run.py", *options]):
        raise SystemExit("a run failed")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pose_ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    known = parser.add_mutually_exclusive_group(required=True)
    known.add_argument("--truth", type=pathlib.Path, help="ground truth of the built-in subject")
    known.add_argument("--reference", type=pathlib.Path, help="poses.json of another tracker")
    options = parser.parse_args()
    true = load_poses(options.reference or options.truth / "poses.json")
    found, index = Landmarks.load(options.data / schema.LANDMARKS), schema.load_index(options.data)
    with np.load(options.data / schema.TRACK) as track:
        refined, valid = track["transform"], track["valid"]
    camera = Pinhole(index.focal, index.cx, index.cy)
    head = track_head(found.points, found.valid, *camera, canonical_face())
    variants = {
        "landmarks": head.transform,
        "bundle adjusted": adjust_landmarks(head, found, camera),
        "flow, bundle adjusted": refined,
    }
    ids = np.array([i for i in np.flatnonzero(valid) if i in true])
    truth, lines = np.stack([true[i] for i in ids]), []
    for number, (name, poses) in enumerate(variants.items()):
        e = pose_errors(poses[ids], truth)
        metrics = train_and_evaluate(options.data, poses, options.workdir / str(number))
        psnr = " ".join(f"{metrics[setting]['psnr']:9.2f}" for setting in ("head_only", "head", "full"))
        lines.append(f"{name:>22} {e['rotation']:8.2f}° {e['worst']:5.2f}° {e['jitter']:6.3f}° {psnr}")
    print(f"\n{'poses':>22}  rotation  worst  jitter head_only      head      full")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
