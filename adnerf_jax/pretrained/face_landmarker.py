"""478 face landmarks, 52 blendshapes and the canonical face mesh from MediaPipe's `face_landmarker.task` (Apache-2.0).

The task file is a zip of three LiteRT networks (BlazeFace short range detector, face mesh with irises, blendshapes) and
the geometry of the canonical face. Crops are made as in MediaPipe: the bounding box of the detection or of the
landmarks × 1.5, rotated so that the eyes are level.
"""

import contextlib
import os
import pathlib
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from adnerf_jax.common.errors import UserError

LANDMARKS = 478  # 468 mesh vertices, then 5 for each iris
MIN_SCORE = 0.5  # MediaPipe's default for detection and presence
_RELATIVE_SCORE = 0.7  # share of the best score: the largest face that scores at least this is chosen
_DETECTOR_SIDE, _MESH_SIDE = 128, 256
_CROP_MARGIN = 1.5
_RIGHT_EYE_OUTER, _LEFT_EYE_OUTER = 33, 263

BLENDSHAPE_NAMES = tuple(
    """_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft
    cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight
    eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight
    jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight
    mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker mouthRight
    mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft mouthSmileRight mouthStretchLeft
    mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft noseSneerRight""".split()
)

# The landmarks that the blendshape network reads (MediaPipe's face_blendshapes_graph.cc).
_BLENDSHAPE_INPUTS = np.array(
    """0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 103
    105 107 109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 173 176
    178 181 185 191 195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 300 308
    310 311 312 314 317 318 321 323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 382 384
    385 386 387 388 389 390 397 398 400 402 405 409 415 454 466 468 469 470 471 472 473 474 475 476 477""".split(),
    dtype=np.int64,
)


class Crop(NamedTuple):
    """A rotated square in the picture: centre [2] px, side px, angle of its x axis in radians."""

    centre: np.ndarray
    side: float
    angle: float

    def to_picture(self, pixels: int) -> np.ndarray:
        """The affine map [2, 3] from the pixels of the crop, resized to `pixels`², to those of the picture."""
        scale = self.side / pixels
        cos, sin = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        linear = np.array([[cos, -sin], [sin, cos]])
        return np.c_[linear, self.centre - linear @ (pixels / 2, pixels / 2)]


class Face(NamedTuple):
    """A detected face.

    Attributes:
      landmarks: float32 [478, 3] px (x right, y down, z away from the camera).
      score: probability that there is a face, in [0, 1].
      blendshapes: float32 [52] in [0, 1], in the order of BLENDSHAPE_NAMES.
    """

    landmarks: np.ndarray
    score: float
    blendshapes: np.ndarray


class FaceLandmarker:
    """Finds one face and its landmarks; 6 ms per frame on one core when tracking.

    Attributes:
      canonical: float64 [468, 3], MediaPipe's mean face in cm (x to the left eye, y up, z towards the camera).
      triangles: int [898, 3], vertex numbers, counter-clockwise seen from outside.

    Raises:
      UserError: the file is not a face landmarker task.
    """

    def __init__(self, task_path: str | pathlib.Path):
        try:
            with zipfile.ZipFile(task_path) as task:
                models = [
                    task.read(f"{name}.tflite")
                    for name in ("face_detector", "face_landmarks_detector", "face_blendshapes")
                ]
                geometry = task.read("geometry_pipeline_metadata_landmarks.binarypb")
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{task_path} is not MediaPipe's face_landmarker.task: {error}") from None
        with _quiet_runtime():
            self._detector, self._mesh, self._blendshapes = map(_network, models)
        self.canonical, self.triangles = _read_geometry(geometry)
        self._anchors = _detector_anchors()

    def __call__(self, rgb: np.ndarray, previous: np.ndarray | None = None) -> Face | None:
        """Finds the face in a picture.

        Args:
          rgb: uint8 [H, W, 3].
          previous: landmarks [478, 3] px of the previous frame, to track; None: detect in the whole picture.

        Returns:
          the face; None if there is none, or if the tracked face is lost.
        """
        crop = self.detect(rgb) if previous is None else _crop_around(previous)
        if crop is None:
            return None
        points, score = self.landmarks(rgb, crop)
        if score < MIN_SCORE:
            return None
        return Face(points.astype(np.float32), score, self.blendshapes(points))

    def detect(self, rgb: np.ndarray) -> Crop | None:
        """The crop around the largest face, or None.

        The detector's input has 128² pixels, of which a face must fill about a tenth. If it finds none in the whole
        picture, it runs on squares of the short side, then of half the short side.
        """
        height, width = rgb.shape[:2]
        for side in (max(height, width), min(height, width), min(height, width) / 2):
            found = [self._detect_in(rgb, corner, side) for corner in _windows(width, height, side)]
            largest = max((crop for crop in found if crop is not None), key=lambda crop: crop.side, default=None)
            if largest is not None:
                return largest
        return None

    def _detect_in(self, rgb: np.ndarray, corner: np.ndarray, side: float) -> Crop | None:
        """Crop of the largest face in a square with this upper left corner [2] px; it may extend beyond the picture."""
        scale = _DETECTOR_SIDE / side
        affine = np.c_[np.eye(2) * scale, -corner * scale]
        flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = _warp(rgb, affine, _DETECTOR_SIDE, flags, cv2.BORDER_CONSTANT)
        out = self._detector(picture[None] / 127.5 - 1)
        scores = 1 / (1 + np.exp(-np.clip(out["classificators"][0, :, 0], -80, 80)))
        if scores.max() < MIN_SCORE:
            return None
        heights = out["regressors"][0].reshape(-1, 8, 2)[:, 1, 1]
        # The largest of the faces with a high score: the subject is usually in front of other people.
        best = np.where(scores > max(MIN_SCORE, _RELATIVE_SCORE * scores.max()), heights, 0).argmax()
        # Candidates near it are averaged by score, as in MediaPipe's weighted non-maximum suppression.
        near = (scores > MIN_SCORE) & (np.abs(self._anchors - self._anchors[best]).max(1) < 0.15)
        pairs = out["regressors"][0, near].reshape(-1, 8, 2) / _DETECTOR_SIDE  # centre, size, six key points
        pairs[:, [0, 2, 3, 4, 5, 6, 7]] += self._anchors[near, None]
        pairs = np.average(pairs, axis=0, weights=scores[near]) * side
        across = pairs[3] - pairs[2]  # from the right eye to the left
        return Crop(pairs[0] + corner, float(max(pairs[1])) * _CROP_MARGIN, float(np.arctan2(across[1], across[0])))

    def landmarks(self, rgb: np.ndarray, crop: Crop) -> tuple[np.ndarray, float]:
        """Landmarks float64 [478, 3] px, and the probability that the crop holds a face."""
        affine = crop.to_picture(_MESH_SIDE)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = self._mesh(_warp(rgb, affine, _MESH_SIDE, flags, cv2.BORDER_REPLICATE)[None] / 255)
        points = out["Identity"].reshape(LANDMARKS, 3).astype(np.float64)
        xy = points[:, :2] @ affine[:, :2].T + affine[:, 2]
        score = 1 / (1 + np.exp(-float(out["Identity_1"].item())))
        return np.c_[xy, points[:, 2] * (crop.side / _MESH_SIDE)], score

    def blendshapes(self, landmarks: np.ndarray) -> np.ndarray:
        """Blendshapes float32 [52] in [0, 1], in the order of BLENDSHAPE_NAMES, from landmarks [478, 2 or 3] px."""
        return self._blendshapes(landmarks[_BLENDSHAPE_INPUTS, :2][None])["StatefulPartitionedCall:0"].copy()


def _crop_around(landmarks: np.ndarray) -> Crop:
    xy = landmarks[:, :2].astype(np.float64)
    low, high = xy.min(0), xy.max(0)
    across = xy[_LEFT_EYE_OUTER] - xy[_RIGHT_EYE_OUTER]
    return Crop((low + high) / 2, float(max(high - low)) * _CROP_MARGIN, float(np.arctan2(across[1], across[0])))


def _warp(rgb: np.ndarray, affine: np.ndarray, side: int, flags: int, border: int) -> np.ndarray:
    return cv2.warpAffine(rgb, affine, (side, side), flags=flags, borderMode=border).astype(np.float32)


def _windows(width: int, height: int, side: float) -> list[np.ndarray]:
    """Upper left corners of squares that cover the picture and overlap by half; a single one is centred."""

    def starts(length: int) -> np.ndarray:
        if length <= side:
            return np.array([(length - side) / 2])
        return np.linspace(0, length - side, 1 + int(np.ceil(2 * (length - side) / side)))

    return [np.array([x, y]) for y in starts(height) for x in starts(width)]


def _detector_anchors() -> np.ndarray:
    """Centres [896, 2] in [0, 1] of the detector's anchors: two per cell of 8 px, six per cell of 16 px."""
    grids = []
    for stride, copies in ((8, 2), (16, 6)):
        centres = (np.arange(_DETECTOR_SIDE // stride) + 0.5) * stride / _DETECTOR_SIDE
        grids.append(np.repeat(np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2), copies, axis=0))
    return np.concatenate(grids)


def _network(model: bytes) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from a network's input to its outputs by name. It runs on one thread: these are too small for more."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    outputs = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.set_tensor(source, np.ascontiguousarray(x, np.float32))
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in outputs.items()}

    return run


@contextlib.contextmanager
def _quiet_runtime() -> Iterator[None]:
    """Filters INFO lines of the LiteRT runtime, which writes them to file descriptor 2 and has no option for them."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            os.write(2, b"".join(line for line in captured if not line.startswith(b"INFO:")))


def _read_geometry(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float64 [468, 3] in cm and triangles int [898, 3] of the face geometry metadata (a protocol buffer).

    Message: 1 = mesh {3 = vertex buffer, float32 x y z u v; 4 = index buffer, packed or repeated varints}.
    """
    mesh = next(value for field, value in _fields(data) if field == 1 and isinstance(value, bytes))
    buffers: list[bytes] = []
    indices: list[int] = []
    for field, value in _fields(mesh):
        if field == 3 and isinstance(value, bytes):
            buffers.append(value)
        elif field == 4:
            indices.extend(_varints(value) if isinstance(value, bytes) else [value])
    vertices = np.frombuffer(b"".join(buffers), "<f4").reshape(-1, 5)
    return vertices[:, :3].astype(np.float64), np.array(indices).reshape(-1, 3)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at offset `at`, and the offset after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _varints(data: bytes) -> Iterator[int]:
    """The variable-length integers of a packed field."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protocol buffer message; values of other wire types than varint are bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire_type == 2:
            length, at = _varint(data, at)
        else:
            length = struct.calcsize({1: "d", 5: "f"}[wire_type])
        yield tag >> 3, data[at : at + length]
        at += length
