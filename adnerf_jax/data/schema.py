"""The dataset on disk: names, keys and checks.

The layout is the one AD-NeRF's loaders read (`load_audface.py` of the published code), plus lossless frames (`gt/`),
the silhouette's soft edge (`alpha/`), eye openness (`eyes.npy`) and `manifest.json`. `<i>` is the index of the 25 fps
frame in the clip; it is the `img_id` and the `aud_id` of a frame.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import struct

from adnerf_jax.common.array_files import read_array
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import WINDOW
from adnerf_jax.nerf.cameras import is_rigid

MANIFEST = "manifest.json"
TRANSFORMS = {"train": "transforms_train.json", "val": "transforms_val.json"}
AUDIO_WINDOWS = "aud.npy"
DEEPSPEECH_WINDOWS = "aud_ds.npy"  # what RAD-NeRF's preparation calls them
EYES = "eyes.npy"
MOUTH_COVERED = "mouth_covered.npy"  # bool [N]: something covers the mouth
SOUND = "aud.wav"
BACKGROUND = "bc.jpg"
LOSSLESS_BACKGROUND = "gt/bc.png"
BACKGROUNDS = (LOSSLESS_BACKGROUND, BACKGROUND, "bc.png")  # the first that exists is read
SEEN = "gt/seen.png"  # number of frames in which each pixel of the background was visible, at most 255; 0: inpainted
LANDMARKS = "landmarks.npz"
TRACK = "track.npz"

NEAR_MARGIN, FAR_MARGIN = 0.2, 0.4
_ENDS = ("jpg", "png")


def original_image(i: int) -> str:
    """The frame as filmed."""
    return f"ori_imgs/{i}.jpg"


def landmark_file(i: int) -> str:
    """68 iBUG landmarks, a row `x y` in pixels each."""
    return f"ori_imgs/{i}.lms"


def head_image(i: int) -> str:
    """The head over the clean background: the head stage's target."""
    return f"head_imgs/{i}.jpg"


def composite_image(i: int) -> str:
    """The whole person over the clean background: the torso stage's target."""
    return f"com_imgs/{i}.jpg"


def lossless_image(i: int) -> str:
    """`composite_image` without compression."""
    return f"gt/{i}.png"


def find_composite(data: pathlib.Path, i: int) -> tuple[pathlib.Path, bool]:
    """The best picture of the person in a frame, and whether the clean background is already behind.

    RAD-NeRF's preprocessing calls the composite `gt_imgs`. Without a composite, the original frame is taken.

    Raises:
      UserError: the frame has no picture.
    """
    composites = [lossless_image(i), *(f"{folder}/{i}.{end}" for folder in ("com_imgs", "gt_imgs") for end in _ENDS)]
    originals = [f"ori_imgs/{i}.{end}" for end in _ENDS]
    path = first_of(data, (*composites, *originals))
    return path, path.parent.name != "ori_imgs"


def first_of(data: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """The first of some files of a dataset that exists.

    Raises:
      UserError: none exists.
    """
    for name in names:
        if (data / name).exists():
            return data / name
    raise UserError(f"{data} lacks {names[0]} (or {', '.join(names[1:])}): prepare it again, or leave that frame out")


def alpha_image(i: int) -> str:
    """The person's share of each pixel, 255 for the person alone."""
    return f"alpha/{i}.png"


def parsing_image(i: int) -> str:
    """Part map in the reference's colours (`face.parsing.write_parts`)."""
    return f"parsing/{i}.png"


def parsings(i: int) -> tuple[str, ...]:
    """Names that the file of a part map may have."""
    return parsing_image(i), f"parsing/{i}.jpg"


@struct.dataclass
class Split:
    """The frames of one split, in order of time.

    Attributes:
      img_id: int32 [N], frame index in the clip: names the images.
      aud_id: int32 [N], row of the audio windows.
      transforms: float32 [N, 4, 4], camera-to-head.
      face_rect: int32 [N, 4], x, y, width, height in pixels; −1 where the index has none (RAD-NeRF's).
    """

    img_id: np.ndarray
    aud_id: np.ndarray
    transforms: np.ndarray
    face_rect: np.ndarray

    def __len__(self) -> int:
        return len(self.img_id)

    def take(self, rows: np.ndarray | slice) -> "Split":
        """The given rows, as a split."""
        return Split(self.img_id[rows], self.aud_id[rows], self.transforms[rows], self.face_rect[rows])


@struct.dataclass
class Index:
    """A dataset's intrinsics and splits, without pixels and sound.

    Attributes:
      focal, cx, cy: intrinsics in pixels.
      train, val: the splits.
    """

    focal: float
    cx: float
    cy: float
    train: Split
    val: Split

    @property
    def near_far(self) -> tuple[float, float]:
        """Mean depth of all valid frames − 0.2 and + 0.4 (the published `process_data.py`, step 7)."""
        transforms = np.concatenate([self.train.transforms, self.val.transforms])
        depth = float(mean_depth(transforms))
        return depth - NEAR_MARGIN, depth + FAR_MARGIN


def mean_depth(transforms: np.ndarray) -> np.ndarray:
    """Mean distance of the head's origin along the camera's axis.

    Args:
      transforms: [N, 4, 4] camera-to-head.

    Returns:
      scalar: the mean of −z of the head-to-camera translation −Rᵀt.
    """
    return np.einsum("nj,nj->n", transforms[:, :3, 2], transforms[:, :3, 3]).mean()


def _split(path: pathlib.Path) -> tuple[Split, dict[str, float]]:
    meta = read_json(path, "dataset index")
    try:
        frames = meta["frames"]
        split = Split(
            img_id=np.array([f["img_id"] for f in frames], np.int32),
            aud_id=np.array([f["aud_id"] for f in frames], np.int32),
            transforms=_as_float32([f["transform_matrix"] for f in frames]).reshape(-1, 4, 4),
            face_rect=np.array([f.get("face_rect", [-1] * 4) for f in frames], np.int32).reshape(-1, 4),
        )
        camera = {key: float(meta[key]) for key in ("focal_len", "cx", "cy")}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is not an AD-NeRF dataset index (missing or malformed: {error})") from None
    if not np.isfinite(list(camera.values())).all() or camera["focal_len"] <= 0:
        raise UserError(f"{path}: focal_len, cx and cy are not a valid camera ({camera}): run the preparation again")
    _check_poses(split, path)
    if (split.img_id < 0).any() or (split.aud_id < 0).any():
        raise UserError(f"{path} names frames by negative numbers: prepare the dataset again")
    order = np.argsort(split.img_id, kind="stable")
    if (np.diff(split.img_id[order]) == 0).any():
        raise UserError(f"{path} lists a frame twice: prepare the dataset again")
    if (order != np.arange(len(order))).any():
        say(f"{path}: the frames are not in order of time; they are sorted")
    return split.take(order), camera


def _as_float32(numbers: Any) -> np.ndarray:
    """The numbers as float32; those that are too large become infinite, without a warning."""
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float32)


def _check_poses(split: Split, path: pathlib.Path) -> None:
    """Raises UserError for transforms that are not finite or not rigid."""
    if not np.isfinite(split.transforms).all():
        raise UserError(f"{path} holds poses that are not finite numbers: run the preparation again")
    rigid = is_rigid(split.transforms)
    if not rigid.all():
        i = split.img_id[np.flatnonzero(~rigid)[0]]
        raise UserError(
            f"{path}: the transform_matrix of frame {i} is not a rotation and a translation; run the preparation again"
        )


def _after(train: Split, val: Split, data: pathlib.Path) -> Split:
    """The validation split with frame numbers of the whole clip.

    Some tools count it from 0 again.

    Raises:
      UserError: frames are in both splits.
    """
    common = np.intersect1d(train.img_id, val.img_id)
    if not len(common):
        return val
    shift = int(train.img_id.max()) + 1
    if val.img_id[0] == 0 and len(common) == len(val) and find_any(data, shift):
        say(f"{data}: the held-out frames are numbered from 0 again; they are taken for frames {shift} and on")
        return dataclasses.replace(val, img_id=val.img_id + shift, aud_id=val.aud_id + shift)
    raise UserError(f"{data}: frame {common[0]} is in both splits, so nothing is held out; prepare it again")


def find_any(data: pathlib.Path, i: int) -> bool:
    """Whether there is a picture of a frame."""
    try:
        find_composite(data, i)
    except UserError:
        return False
    return True


def load_index(data: str | pathlib.Path) -> Index:
    """Reads `transforms_{train,val}.json`.

    Args:
      data: the dataset's folder.

    Raises:
      UserError: the folder is no dataset, or is not finished.
    """
    data = pathlib.Path(data)
    if not data.is_dir():
        raise UserError(f"no dataset at {data}: make one of a video with `python -m adnerf_jax.preprocessing`")
    missing = [path.name for path in (*(data / name for name in TRANSFORMS.values()), windows_file(data))]
    missing = [name for name in missing if not (data / name).exists()]
    missing += [] if any((data / name).exists() for name in BACKGROUNDS) else [BACKGROUND]
    if missing:
        raise UserError(
            f"{data} is not a finished dataset ({', '.join(missing)} missing): run the same "
            f"`python -m adnerf_jax.preprocessing` again; it continues where it stopped"
        )
    (train, camera), (val, _) = (_split(data / TRANSFORMS[name]) for name in ("train", "val"))
    if not len(train):
        raise UserError(f"{data} has no training frames")
    val = _after(train, val, data)
    index = Index(focal=camera["focal_len"], cx=camera["cx"], cy=camera["cy"], train=train, val=val)
    if index.near_far[0] <= 0:
        raise UserError(
            f"{data}: the head is {index.near_far[0] + NEAR_MARGIN:.2f} in front of the camera, and must be more than "
            f"{NEAR_MARGIN:g}: poses are camera-to-head, the camera looks along -z; run the preparation again"
        )
    return index


def windows_file(data: str | pathlib.Path) -> pathlib.Path:
    """The file of the speech windows: `aud.npy`, or RAD-NeRF's of DeepSpeech features where there is only that."""
    named = pathlib.Path(data) / AUDIO_WINDOWS
    other = pathlib.Path(data) / DEEPSPEECH_WINDOWS
    return other if other.exists() and not named.exists() else named


def load_audio_windows(data: str | pathlib.Path) -> np.ndarray:
    """Reads `aud.npy`: float32 [N, 16, C], a row for each 25 fps frame of the clip.

    Raises:
      UserError: another shape, or a file that would need unpickling.
    """
    windows = read_array(windows_file(data), (None, WINDOW, None))
    if not windows.shape[-1]:
        raise UserError(f"{windows_file(data)} holds windows without features: make it again")
    return windows.astype(np.float32, copy=False)


def load_manifest(data: str | pathlib.Path) -> dict[str, Any]:
    """Reads `manifest.json`; an empty dict for datasets made by other programs."""
    path = pathlib.Path(data) / MANIFEST
    manifest = read_json(path, "dataset manifest") if path.exists() else {}
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is no dataset manifest: run the preparation again, or delete that file")
    return manifest


def speech_encoder(data: str | pathlib.Path) -> str:
    """Name of the speech encoder of a dataset; DeepSpeech for those made by other programs."""
    speech = load_manifest(data).get("speech", {})
    name = speech.get("encoder", "deepspeech") if isinstance(speech, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{pathlib.Path(data) / MANIFEST} does not name its speech encoder: run the preparation again")
    return name
