"""Accuracy of the preparation against ground truth of the built-in subject, or against another tracker's poses.

    python -m benchmarks.preparation --data runs/quickstart/dataset --truth runs/quickstart/subject/truth
    python -m benchmarks.preparation --data D --reference poses.json
    python -m benchmarks.preparation --data D --parsing

The first two take seconds; the last runs the parsing network on every frame at full size (`parsing.REFERENCE_BISENET`),
compares the part maps and prints its seconds a frame. `poses.json` has `frames[img_id, transform_matrix]`,
camera-to-head. Poses are compared after one constant alignment of the two heads' axes; the row `landmarks` is the
tracking from landmarks alone, recomputed from the dataset's landmarks.
"""

import argparse
import json
import pathlib
import time

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.common.progress import track
from adnerf_jax.data import schema
from adnerf_jax.face import parsing
from adnerf_jax.face.landmarks import Landmarks, eye_openness, mouth_openness
from adnerf_jax.face.tracking import track_head
from adnerf_jax.media.image import read_image
from adnerf_jax.preprocessing.steps import canonical_face


def load_poses(path: pathlib.Path) -> dict[int, np.ndarray]:
    """Camera-to-head [4, 4] of each frame number."""
    return {f["img_id"]: np.array(f["transform_matrix"]) for f in json.loads(path.read_text())["frames"]}


def pose_errors(transforms: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Errors of poses against reference poses of the same frames, both camera-to-head [N, 4, 4].

    Returns:
      `rotation` RMS and `worst` in degrees; `translation`, the mean error of the head's place in the camera's space in
      per cent of its distance; `jitter` and `jitter_truth`, RMS second differences of the rotation in degrees.
    """
    turn = Rotation.from_matrix(truth[:, :3, :3] @ transforms[:, :3, :3].transpose(0, 2, 1)).mean().as_matrix()
    aligned = np.tile(np.eye(4), (len(transforms), 1, 1))
    aligned[:, :3, :3] = turn @ transforms[:, :3, :3]
    own, true = _places(transforms), _places(truth)
    # A constant offset of the head's origin and a scale that align the positions best.
    columns = np.concatenate([own[..., None], aligned[:, :3, :3].transpose(0, 2, 1)], -1).reshape(-1, 4)
    fit, *_ = np.linalg.lstsq(columns, true.ravel(), rcond=None)
    left = np.linalg.norm((columns @ fit).reshape(-1, 3) - true, axis=-1)
    angle = Rotation.from_matrix(aligned[:, :3, :3].transpose(0, 2, 1) @ truth[:, :3, :3]).magnitude()
    return {
        "rotation": float(np.degrees(np.sqrt((angle**2).mean()))),
        "worst": float(np.degrees(angle.max())),
        "translation": float(100 * (left / np.linalg.norm(true, axis=-1)).mean()),
        "jitter": _jitter(transforms),
        "jitter_truth": _jitter(truth),
    }


def _places(transforms: np.ndarray) -> np.ndarray:
    """The head's origin in camera space, [N, 3]."""
    return -np.einsum("nji,nj->ni", transforms[:, :3, :3], transforms[:, :3, 3])


def _jitter(transforms: np.ndarray) -> float:
    turns = Rotation.from_matrix(transforms[1:, :3, :3] @ transforms[:-1, :3, :3].transpose(0, 2, 1)).as_rotvec()
    return float(np.degrees(np.sqrt((np.diff(turns, axis=0) ** 2).sum(1).mean())))


def against_truth(data: pathlib.Path, truth: pathlib.Path) -> dict[str, float]:
    """IoU of the masks, PSNR of the background, and correlation of mouth and eyes with the built-in subject's."""
    index = schema.load_index(data)
    ids = np.concatenate([index.train.img_id, index.val.img_id])
    found = Landmarks.load(data / schema.LANDMARKS)
    overlap, total = np.zeros(2), np.zeros(2)
    seen = np.zeros(parsing.read_parts(data / schema.parsing_image(ids[0])).shape, bool)
    for i in ids:
        parts = parsing.read_parts(data / schema.parsing_image(i))
        cover = np.stack([cv2.imread(str(truth / f"alpha/{i}_{name}.png"), 0) for name in ("head", "torso")])
        own = np.stack([parts == parsing.HEAD, (parts == parsing.NECK) | (parts == parsing.TORSO)])
        true = cover > 127
        overlap, total = overlap + (own & true).sum((1, 2)), total + (own | true).sum((1, 2))
        if i in index.train.img_id:
            seen |= (cover == 0).all(0)
    error = np.square(
        read_image(data / schema.LOSSLESS_BACKGROUND).astype(float) - read_image(truth / "background.png")
    ).mean(-1)
    mouth = np.corrcoef(mouth_openness(found.points[ids]), np.load(truth / "mouth.npy")[ids])[0, 1]
    eyes = np.corrcoef(eye_openness(found.points[ids]).mean(-1), np.load(truth / "eyes.npy")[ids].mean(-1))[0, 1]
    return {
        "head mask IoU": overlap[0] / total[0],
        "torso mask IoU": overlap[1] / total[1],
        "background seen, dB": 10 * np.log10(255**2 / error[seen].mean()),
        "background never seen, dB": 10 * np.log10(255**2 / error[~seen].mean()),
        "mouth openness": mouth,
        "eye openness": eyes,
    }


def against_slow_parsing(data: pathlib.Path) -> tuple[dict[str, float], float]:
    """Part maps against those of the parsing network run on every frame at full size (`parsing.REFERENCE_BISENET`).

    Returns:
      intersection over union of head, torso (with neck) and background over all frames, and the slow network's seconds
      a frame.
    """
    found, index = Landmarks.load(data / schema.LANDMARKS), schema.load_index(data)
    ids = np.sort(np.concatenate([index.train.img_id, index.val.img_id]))
    # Parsing averages over neighbouring frames, so that it needs consecutive ones.
    ids = ids[: np.append(np.flatnonzero(np.diff(ids) > 1), len(ids) - 1)[0] + 1]
    landmarks = Landmarks(found.points[ids], found.valid[ids], found.blendshapes[ids])
    slow = parsing.parse_video(
        lambda numbers: ((i, read_image(data / schema.lossless_image(ids[i]))) for i in numbers),
        landmarks,
        parser=parsing.REFERENCE_BISENET,
    )
    overlap, total, start = np.zeros(3), np.zeros(3), time.monotonic()
    for i, there in zip(ids, track(slow, "slow parsing", len(ids)), strict=True):
        here = parsing.read_parts(data / schema.parsing_image(i))
        one, other = (
            np.stack([parts == parsing.HEAD, parts > parsing.HEAD, parts == parsing.BACKGROUND])
            for parts in (here, there)
        )
        overlap, total = overlap + (one & other).sum((1, 2)), total + (one | other).sum((1, 2))
    names = ("head", "torso", "background")
    return dict(zip(names, (overlap / total).tolist(), strict=True)), (time.monotonic() - start) / len(ids)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--truth", type=pathlib.Path, help="ground truth of the built-in subject")
    parser.add_argument("--reference", type=pathlib.Path, help="poses.json of another tracker")
    parser.add_argument("--parsing", action="store_true", help="compare part maps with those at full size")
    options = parser.parse_args()
    if options.parsing:
        overlaps, seconds = against_slow_parsing(options.data)
        print(f"part maps against parsing at full size ({seconds:.2f} s a frame), intersection over union:")
        print(", ".join(f"{name} {value:.3f}" for name, value in overlaps.items()))
        return
    reference = options.truth / "poses.json" if options.truth else options.reference
    if reference is None:
        parser.error("give --truth or --reference")
    true = load_poses(reference)
    with np.load(options.data / schema.TRACK) as track:
        transforms, valid, focal = track["transform"], track["valid"], float(track["focal"])
    ids = np.array([i for i in np.flatnonzero(valid) if i in true])
    truth = np.stack([true[i] for i in ids])
    found, index = Landmarks.load(options.data / schema.LANDMARKS), schema.load_index(options.data)
    start = track_head(found.points, found.valid, focal, index.cx, index.cy, canonical_face())
    print(f"{'poses':>22}  rotation  worst  translation  jitter (reference)")
    for name, poses in (("landmarks", start.transform), ("flow, bundle adjusted", transforms)):
        e = pose_errors(poses[ids], truth)
        print(
            f"{name:>22}  {e['rotation']:7.2f}° {e['worst']:5.2f}° {e['translation']:11.2f}% {e['jitter']:6.3f}° "
            f"({e['jitter_truth']:.3f}°)"
        )
    facts = schema.load_manifest(options.data)["steps"]["pose"]
    print(", ".join(f"{key} {value}" for key, value in facts.items() if key.endswith(("_px", "_points"))))
    if options.truth:
        for name, value in against_truth(options.data, options.truth).items():
            print(f"{name:>26}  {value:.3f}")


if __name__ == "__main__":
    main()
