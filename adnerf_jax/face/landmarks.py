"""Face landmarks of a video, and what is measured on them: lids, lips, the 68 iBUG points, the face rectangle."""

import pathlib
from collections.abc import Iterable

import cv2
import numpy as np
from flax import struct

from adnerf_jax.common.array_files import read_archive
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import track
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.face_mesh import BLENDSHAPE_NAMES, LANDMARKS, Face, FaceLandmarker

# Vertices that neither jaw, lips, lids nor cheeks move: forehead, bridge and top of the nose, inner brow, eye sockets.
RIGID = np.array(
    "1 2 4 5 6 8 9 10 19 33 46 53 55 65 67 69 94 104 107 109 122 133 151 168 193 195 197 245 263 276 283 285 295 297 "
    "299 333 336 338 351 362 417 465".split(),
    dtype=np.int64,
)

# Right and left are the person's. A ring runs outer corner, lower lid, inner corner, upper lid.
RIGHT_EYE = np.array([33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246])
LEFT_EYE = np.array([263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466])
# A ring runs right corner, lower lip, left corner, upper lip.
OUTER_LIPS = np.array([61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185])
INNER_LIPS = np.array([78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191])

_LIDS = np.array([[(160, 144), (159, 145), (158, 153)], [(387, 373), (386, 374), (385, 380)]])  # eye, pair, upper/lower
_EYE_CORNERS = np.array([(33, 133), (263, 362)])
_INNER_LIP_PAIRS = np.array([(82, 87), (13, 14), (312, 317)])

# iBUG number -> MediaPipe number. iBUG counts the jaw from the person's right ear over the chin to the left one.
_IBUG68 = np.array(
    [127, 234, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 454, 356]  # 0-16 jaw; 8 is the chin
    + [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]  # 17-26 brows
    + [168, 197, 5, 4, 98, 97, 2, 326, 327]  # 27-35 nose; 27 lies between the eyes
    + [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]  # 36-47 eyes
    + [61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91]  # 48-59 outer lips
    + [78, 81, 13, 311, 308, 402, 14, 178]  # 60-67 inner lips
)


# A face so much smaller than the one lost is another person's, unless that one stays away for so many frames.
_ANOTHER, _PATIENCE = 0.6, 50
_LOOK_AGAIN = 12  # frames after which a larger face is looked for beside the one followed


@struct.dataclass
class Landmarks:
    """The face in each frame of a video.

    Attributes:
      points: float32 [N, 478, 3] px (x right, y down, z away from the camera in the same scale); where there is no
        face, in a straight line in time between the neighbours that have one (zeros in a video without any).
      valid: bool [N], whether a face was found in the frame.
      blendshapes: float32 [N, 52] in [0, 1], filled in likewise.
    """

    points: np.ndarray
    valid: np.ndarray
    blendshapes: np.ndarray

    def save(self, path: str | pathlib.Path) -> None:
        """Writes an `.npz`."""
        np.savez_compressed(path, points=self.points, valid=self.valid, blendshapes=self.blendshapes)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Landmarks":
        """Reads what `save` wrote.

        Raises:
          UserError: it is not that.
        """
        data = read_archive(path, ("points", "valid", "blendshapes"))
        shapes = {"points": (478, 3), "valid": (), "blendshapes": (52,)}
        count = data["valid"].shape[:1]
        fits = all(data[name].shape == (*count, *shape) for name, shape in shapes.items()) and count
        if not fits or not all(a.dtype.kind in "fib" and np.isfinite(a).all() for a in data.values()):
            raise UserError(f"{path} holds no landmarks: run the preparation again")
        return cls(data["points"], data["valid"].astype(bool), data["blendshapes"])


class FaceFollower:
    """Landmarks of frames as they come, one face followed from frame to frame and looked for again where it was lost.

    Of several faces the largest is followed. One that is much smaller than the face just lost is somebody else; and so
    was the face followed until then where a much larger one appears beside it: its frames count as without a face.

    Args:
      landmarker: finds the face; several followers can share it.
    """

    def __init__(self, landmarker: FaceLandmarker):
        self._landmarker = landmarker
        self._faces: list[Face | None] = []
        self._previous: np.ndarray | None = None
        self._size, self._lost = 0.0, 0

    def add(self, rgb: np.ndarray) -> None:
        """The next frame, uint8 RGB [H, W, 3]."""
        face = self._landmarker(rgb, self._previous) if self._previous is not None else None
        if face is not None and len(self._faces) % _LOOK_AGAIN == 0:
            larger = self._landmarker(rgb)
            if larger is not None and _size(face.landmarks) < _ANOTHER * _size(larger.landmarks):
                face, least = larger, _ANOTHER * _size(larger.landmarks)
                self._faces = [None if f is None or _size(f.landmarks) < least else f for f in self._faces]
        if face is None:
            face = self._landmarker(rgb)
            if face is not None and self._lost < _PATIENCE and _size(face.landmarks) < _ANOTHER * self._size:
                face = None
        if face is None:
            self._previous, self._lost = None, self._lost + 1
        else:
            self._previous, self._size, self._lost = face.landmarks, _size(face.landmarks), 0
        self._faces.append(face)

    @property
    def latest(self) -> np.ndarray | None:
        """Landmarks [478, 3] of the last frame; None where there is no face."""
        return self._previous

    def landmarks(self) -> Landmarks:
        """Those of all frames so far."""
        valid = np.array([face is not None for face in self._faces], bool)
        found = [face for face in self._faces if face is not None]
        points = np.array([f.landmarks for f in found], np.float32).reshape(-1, LANDMARKS, 3)
        blendshapes = np.array([f.blendshapes for f in found], np.float32).reshape(-1, len(BLENDSHAPE_NAMES))
        return Landmarks(fill_gaps(points, valid), valid, fill_gaps(blendshapes, valid))


def detect_video(frames: Iterable[np.ndarray], total: int | None = None) -> Landmarks:
    """Landmarks of each frame of a video (`FaceFollower`).

    Args:
      frames: uint8 RGB [H, W, 3] pictures.
      total: how many will come, for the progress bar.
    """
    follower = FaceFollower(FaceLandmarker(weights.path("face_landmarker")))
    for rgb in track(frames, "Landmarks", total):
        follower.add(rgb)
    return follower.landmarks()


def count_faces(rgb: np.ndarray, most: int = 4) -> int:
    """How many faces the detector finds in a picture, uint8 [H, W, 3], each painted over before the next; at most 4."""
    landmarker = FaceLandmarker(weights.path("face_landmarker"))
    left = rgb.copy()
    for count in range(most):
        face = landmarker(left)
        if face is None:
            return count
        low, high = face.landmarks[:, :2].min(0), face.landmarks[:, :2].max(0)
        corners = np.rint([low - (high - low) / 4, high + (high - low) / 4]).astype(int)
        cv2.rectangle(left, corners[0].tolist(), corners[1].tolist(), (127, 127, 127), cv2.FILLED)
    return most


def _size(points: np.ndarray) -> float:
    return float(np.ptp(points[:, :2], axis=0).max())


def fill_gaps(known: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Values for every frame from those of the valid ones: linear in time between them, held before and after.

    Args:
      known: float [V, ...], one for each true entry of `valid`.
      valid: bool [N].

    Returns:
      float [N, ...]; zeros where nothing is valid.
    """
    at, gaps = np.flatnonzero(valid), np.flatnonzero(~valid)
    filled = np.zeros((len(valid), *known.shape[1:]), known.dtype)
    if len(at):
        place = np.interp(gaps, at, np.arange(len(at)))
        low = place.astype(int)
        high = np.minimum(low + 1, len(at) - 1)
        share = (place - low).astype(known.dtype).reshape(-1, *[1] * (known.ndim - 1))
        filled[at] = known
        filled[gaps] = known[low] * (1 - share) + known[high] * share
    return filled


def _distance(points: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[..., *pairs.shape[:-1]]: lengths in three dimensions, which turning the head does not shorten."""
    return np.linalg.norm(points[..., pairs[..., 0], :] - points[..., pairs[..., 1], :], axis=-1)


def eye_openness(points: np.ndarray) -> np.ndarray:
    """Lid gap over eye width, from landmarks [..., 478, 3] px: [..., 2] right, left; 0.3 open, < 0.1 closed."""
    return _distance(points, _LIDS).mean(-1) / _distance(points, _EYE_CORNERS)


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Between the eyes' outer corners in px, in three dimensions, of landmarks [..., 478, 3]: [...]."""
    return _distance(points, _EYE_CORNERS[:, 0])


def mouth_openness(points: np.ndarray) -> np.ndarray:
    """Gap between the inner lips over the size of the face, from landmarks [..., 478, 3] px: [...].

    The size is the RMS distance of the rigid vertices from their centre, about 3.9 cm: it does not depend on the
    expression, hardly on the pose, and not on the distance to the camera.
    """
    rigid = points[..., RIGID, :]
    size = np.sqrt(((rigid - rigid.mean(-2, keepdims=True)) ** 2).sum(-1).mean(-1))
    return _distance(points, _INNER_LIP_PAIRS).mean(-1) / size


def to_ibug68(points: np.ndarray) -> np.ndarray:
    """The 68 iBUG points [..., 68, 2] px that stand nearest to landmarks [..., 478, 3]."""
    return points[..., _IBUG68, :2]


def face_rect(lms68: np.ndarray, width: int, height: int) -> np.ndarray:
    """The rectangle in which most rays are taken, as the published `process_data.py` (step 7) draws it.

    Args:
      lms68: [..., 68, 2] iBUG landmarks in px.
      width, height: of the picture; the rectangle is cut at its border.

    Returns:
      int32 [..., 4]: x, y, width, height.
    """
    x, y = lms68[..., 0], lms68[..., 1]
    centre_x, centre_y = (x.min(-1) + x.max(-1)) / 2, y[..., 27]
    half_width = 1.5 * (x.max(-1) - centre_x)
    half_height = 1.15 * (y[..., 8] - centre_y)
    left, right = (np.clip(centre_x + s * half_width, 0, width).astype(np.int32) for s in (-1, 1))
    top, bottom = (np.clip(centre_y + s * half_height, 0, height).astype(np.int32) for s in (-1, 1))
    return np.stack([left, top, right - left, bottom - top], -1)
