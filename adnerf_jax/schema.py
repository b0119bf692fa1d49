"""The dataset on disk: names, keys and checks.

The layout is the one AD-NeRF's loaders read (`load_audface.py` of the published code), plus lossless truth (`gt/`),
the silhouette's soft edge (`alpha/`), eye openness (`eyes.npy`) and `manifest.json`. `<i>` is the index of the 25 fps
frame in the clip; it is the `img_id` and the `aud_id` of a frame.
"""

import pathlib
from typing import Any

import numpy as np
from flax import struct

from adnerf_jax.errors import UserError
from adnerf_jax.files import read_json

FPS = 25.0  # of the frames; speech features come twice as often
WINDOW = 16  # speech features that a frame sees

MANIFEST = "manifest.json"
TRANSFORMS = {"train": "transforms_train.json", "val": "transforms_val.json"}
AUDIO_WINDOWS = "aud.npy"
EYES = "eyes.npy"
SOUND = "aud.wav"
BACKGROUND = "bc.jpg"
LOSSLESS_BACKGROUND = "gt/bc.png"
SEEN = "gt/seen.png"  # in how many of the frames it is made of the background was seen, 255 for more; 0: filled in
LANDMARKS = "landmarks.npz"
TRACK = "track.npz"

NEAR_MARGIN, FAR_MARGIN = 0.2, 0.4


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


def alpha_image(i: int) -> str:
    """The person's share of each pixel, 255 for the person alone."""
    return f"alpha/{i}.png"


def parsing_image(i: int) -> str:
    """Part map in the reference's colours (`face.parsing.write_parts`)."""
    return f"parsing/{i}.png"


@struct.dataclass
class Split:
    """The frames of one split, in order of time.

    Attributes:
      img_id: int32 [N], frame index in the clip: names the images.
      aud_id: int32 [N], row of the audio windows.
      transforms: float32 [N, 4, 4], camera-to-head.
      face_rect: int32 [N, 4], x, y, width, height in pixels.
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
    """Everything about a dataset but its pixels and sounds.

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
            transforms=np.array([f["transform_matrix"] for f in frames], np.float32).reshape(-1, 4, 4),
            face_rect=np.array([f["face_rect"] for f in frames], np.int32).reshape(-1, 4),
        )
        camera = {key: float(meta[key]) for key in ("focal_len", "cx", "cy")}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not an AD-NeRF dataset index (missing or malformed: {error})") from None
    if not np.isfinite(split.transforms).all():
        raise UserError(f"{path} holds poses that are not finite numbers: run the preparation again")
    return split, camera


def load_index(data: str | pathlib.Path) -> Index:
    """Reads `transforms_{train,val}.json`.

    Args:
      data: the dataset's folder.

    Raises:
      UserError: the folder is no dataset, or is not finished.
    """
    data = pathlib.Path(data)
    if not data.is_dir():
        raise UserError(f"no dataset at {data}: make one with `python -m preprocessing --video V.mp4 --out {data}`")
    missing = [name for name in (*TRANSFORMS.values(), AUDIO_WINDOWS, BACKGROUND) if not (data / name).exists()]
    if missing:
        raise UserError(
            f"{data} is not a finished dataset ({', '.join(missing)} missing): run `python -m preprocessing "
            f"--video V.mp4 --out {data}`; it continues where it stopped"
        )
    (train, camera), (val, _) = (_split(data / TRANSFORMS[name]) for name in ("train", "val"))
    if not len(train):
        raise UserError(f"{data} has no training frames")
    return Index(focal=camera["focal_len"], cx=camera["cx"], cy=camera["cy"], train=train, val=val)


def load_audio_windows(data: str | pathlib.Path) -> np.ndarray:
    """Reads `aud.npy`: float32 [N, 16, C], a row for each 25 fps frame of the clip.

    Raises:
      UserError: another shape, or a file that would need unpickling.
    """
    path = pathlib.Path(data) / AUDIO_WINDOWS
    try:
        windows = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an array: {error}") from None
    shape = getattr(windows, "shape", "an archive of arrays")
    if len(shape) != 3 or shape[1] != WINDOW:
        raise UserError(f"{path} holds {shape}; expected an array [frames, {WINDOW}, features]")
    return windows.astype(np.float32, copy=False)


def load_manifest(data: str | pathlib.Path) -> dict[str, Any]:
    """Reads `manifest.json`; an empty dict for datasets made by other programs."""
    path = pathlib.Path(data) / MANIFEST
    return read_json(path, "dataset manifest") if path.exists() else {}
