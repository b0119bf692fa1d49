"""Face landmarks of a video, and measurements on them: eyelids, lips, the 68 iBUG points, the face rectangle."""

import pathlib
from collections.abc import Iterable

import cv2
import numpy as np
from flax import struct

from adnerf_jax.common.array_files import read_archive
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import track
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.face_landmarker import BLENDSHAPE_NAMES, LANDMARKS, Face, FaceLandmarker

# Vertices that do not move with jaw, lips, lids or cheeks: forehead, bridge and tip of the nose, inner brow, eye
# sockets.
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

# MediaPipe's index of each iBUG point. iBUG counts the jaw from the person's right ear over the chin to the left ear.
_IBUG68 = np.array(
    [127, 234, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 454, 356]  # 0-16 jaw; 8 is the chin
    + [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]  # 17-26 brows
    + [168, 197, 5, 4, 98, 97, 2, 326, 327]  # 27-35 nose; 27 lies between the eyes
    + [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]  # 36-47 eyes
    + [61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91]  # 48-59 outer lips
    + [78, 81, 13, 311, 308, 402, 14, 178]  # 60-67 inner lips
)

# A face smaller than this fraction of the lost face's size is taken for another person's, until the lost face has been
# missing for `_PATIENCE` frames.
_OTHER_PERSON, _PATIENCE = 0.6, 50
_DETECTION_INTERVAL = 12  # frames between detections of a larger face than the tracked one
_SURE_SCORE = 0.99  # of a counted face beside the first; patterns in the background score up to 0.97


@struct.dataclass
class Landmarks:
    """The face in each frame of a video.

    Attributes:
      points: float32 [N, 478, 3] px (x right, y down, z away from the camera in the same scale); interpolated linearly
        in time in frames without a face (zeros in a video without any face).
      valid: bool [N], whether a face was found in the frame.
      blendshapes: float32 [N, 52] in [0, 1], interpolated likewise.
    """

    points: np.ndarray
    valid: np.ndarray
    blendshapes: np.ndarray

    def save(self, path: str | pathlib.Path) -> None:
        """Writes an `.npz`."""
        np.savez_compressed(path, points=self.points, valid=self.valid, blendshapes=self.blendshapes)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Landmarks":
        """Reads a file written by `save`.

        Raises:
          UserError: the file is missing, damaged or holds something else.
        """
        data = read_archive(path, ("points", "valid", "blendshapes"))
        shapes = {"points": (478, 3), "valid": (), "blendshapes": (52,)}
        count = data["valid"].shape[:1]
        fits = all(data[name].shape == (*count, *shape) for name, shape in shapes.items()) and count
        if not fits or not all(a.dtype.kind in "fib" and np.isfinite(a).all() for a in data.values()):
            raise UserError(f"{path} does not hold landmarks: run the preparation again")
        return cls(data["points"], data["valid"].astype(bool), data["blendshapes"])


class FaceTracker:
    """Landmarks of frames in sequence; the face is tracked from frame to frame and detected again after it was lost.

    Of several faces the largest is tracked. After a loss, a much smaller face is taken for another person's. If a much
    larger face appears beside the tracked one, the latter was another person's: its frames count as without a face.

    Args:
      landmarker: detects and tracks the face; several trackers can share it.
    """

    def __init__(self, landmarker: FaceLandmarker):
        self._landmarker = landmarker
        self._faces: list[Face | None] = []
        self._previous: np.ndarray | None = None
        self._size, self._lost = 0.0, 0

    def add(self, rgb: np.ndarray) -> None:
        """Processes the next frame, uint8 RGB [H, W, 3]."""
        face = self._landmarker(rgb, self._previous) if self._previous is not None else None
        if face is not None and len(self._faces) % _DETECTION_INTERVAL == 0:
            larger = self._landmarker(rgb)
            if larger is not None and _size(face.landmarks) < _OTHER_PERSON * _size(larger.landmarks):
                face, minimum = larger, _OTHER_PERSON * _size(larger.landmarks)
                self._faces = [None if f is None or _size(f.landmarks) < minimum else f for f in self._faces]
        if face is None:
            face = self._landmarker(rgb)
            if face is not None and self._lost < _PATIENCE and _size(face.landmarks) < _OTHER_PERSON * self._size:
                face = None
        if face is None:
            self._previous, self._lost = None, self._lost + 1
        else:
            self._previous, self._size, self._lost = face.landmarks, _size(face.landmarks), 0
        self._faces.append(face)

    @property
    def latest(self) -> np.ndarray | None:
        """Landmarks [478, 3] px of the last frame; None if it has no face."""
        return self._previous

    def landmarks(self) -> Landmarks:
        """The landmarks of all frames so far."""
        valid = np.array([face is not None for face in self._faces], bool)
        found = [face for face in self._faces if face is not None]
        points = np.array([f.landmarks for f in found], np.float32).reshape(-1, LANDMARKS, 3)
        blendshapes = np.array([f.blendshapes for f in found], np.float32).reshape(-1, len(BLENDSHAPE_NAMES))
        return Landmarks(fill_gaps(points, valid), valid, fill_gaps(blendshapes, valid))


def detect_video(frames: Iterable[np.ndarray], total: int | None = None) -> Landmarks:
    """Landmarks of each frame of a video (`FaceTracker`).

    Args:
      frames: uint8 RGB [H, W, 3].
      total: number of frames, for the progress bar.
    """
    tracker = FaceTracker(FaceLandmarker(weights.path("face_landmarker")))
    for rgb in track(frames, "Landmarks", total):
        tracker.add(rgb)
    return tracker.landmarks()


def count_faces(rgb: np.ndarray, most: int = 4) -> int:
    """The number of faces in a picture, at most `most`; each face is painted over before the next is detected.

    Args:
      rgb: uint8 [H, W, 3].
      most: upper limit of the count.
    """
    landmarker = FaceLandmarker(weights.path("face_landmarker"))
    left = rgb.copy()
    for count in range(most):
        face = landmarker(left)
        if face is None or (count and face.score < _SURE_SCORE):
            return count
        low, high = face.landmarks[:, :2].min(0), face.landmarks[:, :2].max(0)
        corners = np.rint([low - (high - low) / 4, high + (high - low) / 4]).astype(int)
        cv2.rectangle(left, corners[0].tolist(), corners[1].tolist(), (127, 127, 127), cv2.FILLED)
    return most


def _size(points: np.ndarray) -> float:
    return float(np.ptp(points[:, :2], axis=0).max())


def fill_gaps(known: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Interpolates values linearly in time; the first and last valid value are held at the ends.

    Args:
      known: float [V, ...], one for each true entry of `valid`.
      valid: bool [N].

    Returns:
      float [N, ...]; zeros if no entry is valid.
    """
    at, gaps = np.flatnonzero(valid), np.flatnonzero(~valid)
    filled = np.zeros((len(valid), *known.shape[1:]), known.dtype)
    if len(at):
        position = np.interp(gaps, at, np.arange(len(at)))
        low = position.astype(int)
        high = np.minimum(low + 1, len(at) - 1)
        weight = (position - low).astype(known.dtype).reshape(-1, *[1] * (known.ndim - 1))
        filled[at] = known
        filled[gaps] = known[low] * (1 - weight) + known[high] * weight
    return filled


def _distance(points: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Distances [..., *pairs.shape[:-1]] in three dimensions, which do not depend on the head's rotation."""
    return np.linalg.norm(points[..., pairs[..., 0], :] - points[..., pairs[..., 1], :], axis=-1)


def eye_openness(points: np.ndarray) -> np.ndarray:
    """Ratio of lid gap to eye width [..., 2] (right, left) of landmarks [..., 478, 3]; 0.3 open, below 0.1 closed."""
    return _distance(points, _LIDS).mean(-1) / _distance(points, _EYE_CORNERS)


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Distance [...] in px, in three dimensions, between the outer corners of the eyes of landmarks [..., 478, 3]."""
    return _distance(points, _EYE_CORNERS[:, 0])


def mouth_openness(points: np.ndarray) -> np.ndarray:
    """Ratio [...] of the gap between the inner lips to the size of the face, of landmarks [..., 478, 3] px.

    The size is the RMS distance of the rigid vertices from their centre, about 3.9 cm. It depends neither on the
    expression nor on the distance to the camera, and hardly on the pose.
    """
    rigid = points[..., RIGID, :]
    size = np.sqrt(((rigid - rigid.mean(-2, keepdims=True)) ** 2).sum(-1).mean(-1))
    return _distance(points, _INNER_LIP_PAIRS).mean(-1) / size


def to_ibug68(points: np.ndarray) -> np.ndarray:
    """Approximates the 68 iBUG points [..., 68, 2] px by the nearest of the landmarks [..., 478, 3]."""
    return points[..., _IBUG68, :2]


def face_rect(lms68: np.ndarray, width: int, height: int) -> np.ndarray:
    """The rectangle in which most rays are sampled, as in the published `process_data.py` (step 7).

    Args:
      lms68: [..., 68, 2] iBUG landmarks in px.
      width, height: size of the picture, to which the rectangle is clipped.

    Returns:
      int32 [..., 4]: x, y, width, height in px.
    """
    x, y = lms68[..., 0], lms68[..., 1]
    centre_x, centre_y = (x.min(-1) + x.max(-1)) / 2, y[..., 27]
    half_width = 1.5 * (x.max(-1) - centre_x)
    half_height = 1.15 * (y[..., 8] - centre_y)
    left, right = (np.clip(centre_x + s * half_width, 0, width).astype(np.int32) for s in (-1, 1))
    top, bottom = (np.clip(centre_y + s * half_height, 0, height).astype(np.int32) for s in (-1, 1))
    return np.stack([left, top, right - left, bottom - top], -1)
