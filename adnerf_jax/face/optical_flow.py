"""Correspondences across a clip by optical flow in the near-rigid regions of the head: forehead, nose, ears, hair.

Flow from frame to frame drifts. Instead, every frame is matched directly to a few anchors, frames whose head poses lie
far apart: an anchor is warped to the frame's pose by an affine map, and the Lucas-Kanade method finds the remaining
displacement. Whenever the head returns to a pose, the same points are matched again.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.face.jaw import CHIN
from adnerf_jax.face.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from adnerf_jax.face.rigid import Pinhole, Poses

ANCHORS = 16
ANCHORS_PER_FRAME = 4
POINTS_PER_ANCHOR = 160
_MAX_ANGLE = math.radians(25.0)  # between a frame and an anchor: beyond it, too much of what is visible changes
_QUALITY = 0.01  # threshold of corners' smaller eigenvalues, relative to the best one
# As fractions of the face's extent (the larger side of its landmarks' bounding box):
_SPACING, _WINDOW, _CONTRAST, _INSET = 0.025, 0.11, 0.08, 0.04
_SMALL_SIGMA = 4.0  # pixels: σ of a wide blur in the shrunk picture; larger is slower, smaller shows the pixels
_LEVELS = 1  # pyramid levels above full size: the poses predict a point to within a few pixels
_MAX_ROUND_TRIP = 0.35  # pixels: forward-backward error of a match
# Jaw and cheeks below the nose: the chin's contour from ear to ear and the nose's wings.
_JAW = np.array([132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 323, 425, 326, 97, 205, 93])
_EARS = (132, 361)  # below the line between the lower ends of the ears hangs hair
_MOBILE = (_JAW, np.concatenate([OUTER_LIPS, INNER_LIPS]), RIGHT_EYE, LEFT_EYE)


class Anchor(NamedTuple):
    """A frame that other frames are matched to.

    Attributes:
      frame: its index.
      picture: uint8 [H, W], grey, local contrast normalised.
      pixels: float32 [K, 2], points on rigid parts of the head.
      depth: float64 [K] cm, initial z of the points in the camera's frame: that of the nearest mesh vertex.
    """

    frame: int
    picture: np.ndarray
    pixels: np.ndarray
    depth: np.ndarray


class Matches(NamedTuple):
    """Observations of points in frames.

    Attributes:
      frame: int [M], index of the frame.
      point: int [M], index of the point.
      pixels: float32 [M, 2], (x, y).
    """

    frame: np.ndarray
    point: np.ndarray
    pixels: np.ndarray

    @classmethod
    def join(cls, *matches: "Matches") -> "Matches":
        """Concatenates matches."""
        return cls(*(np.concatenate(column) for column in zip(*matches, strict=True)))


def choose_anchors(rotation: np.ndarray, count: int = ANCHORS) -> np.ndarray:
    """Frames whose poses lie far apart, by farthest-point sampling that starts nearest to the mean pose.

    Args:
      rotation: [N, 3, 3].
      count: maximum number of anchors.

    Returns:
      int [≤ count], indices of frames in order of time.
    """
    mean = Rotation.from_matrix(rotation).mean().as_matrix()
    chosen = [int(angles_between(mean[None], rotation)[0].argmin())]
    nearest = angles_between(rotation[chosen], rotation)[0]
    while len(chosen) < min(count, len(rotation)) and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, angles_between(rotation[chosen[-1:]], rotation)[0])
    return np.sort(chosen)


def angles_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles [A, B] in radians between rotations [A, 3, 3] and [B, 3, 3]."""
    trace = np.einsum("aij,bij->ab", a, b)
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


def normalise_contrast(rgb: np.ndarray, extent: float) -> np.ndarray:
    """Removes shading by normalising local mean and contrast.

    Args:
      rgb: uint8 [H, W, 3].
      extent: extent of the face in px.

    Returns:
      uint8 [H, W], grey.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    sigma = max(_CONTRAST * extent, 2.0)
    detail = grey - _wide_blur(grey, sigma)
    spread = np.sqrt(_wide_blur(detail * detail, 2 * sigma)) + 4.0  # + noise of the camera
    return np.clip(128 + 48 * detail / spread, 0, 255).astype(np.uint8)


def _wide_blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of a picture [H, W]; a wide one is computed on a shrunk copy, ten times as fast."""
    height, width = picture.shape
    shrink = max(int(sigma / _SMALL_SIGMA), 1)
    small = cv2.resize(picture, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def rigid_region(head: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The mask of the head without its silhouette, mouth, jaw, cheeks and eyes, and without hair below the ears.

    Args:
      head: bool [H, W], mask of the head.
      points: [V, 2] px landmarks.

    Returns:
      bool [H, W].
    """
    region = head.astype(np.uint8)
    for vertices in _MOBILE:
        cv2.fillConvexPoly(region, cv2.convexHull(np.rint(points[vertices]).astype(np.int32)), 0)
    right, left = points[list(_EARS)]
    (across, down), (x, y) = left - right, right
    rows, columns = np.arange(head.shape[0])[:, None], np.arange(head.shape[1])
    # Positive on the chin's side, wherever the picture's upper edge is.
    side = np.sign(across * (points[CHIN, 1] - y) - down * (points[CHIN, 0] - x))
    region[side * (across * (rows - y) - down * (columns - x)) > 0] = 0
    inset = max(_INSET * extent_of(points), 2.0)
    return cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] > inset


def extent_of(points: np.ndarray) -> float:
    """The larger side of the bounding box of landmarks [V, 2], in px."""
    return float(np.ptp(points[:, :2], axis=0).max())


def make_anchor(frame: int, rgb: np.ndarray, head: np.ndarray, points: np.ndarray, mesh: np.ndarray) -> Anchor:
    """Makes an anchor of a frame: detects corners in the rigid region.

    Args:
      frame: its index.
      rgb: uint8 [H, W, 3].
      head: bool [H, W], mask of the head.
      points: [478, 2] px landmarks.
      mesh: [468, 3] cm, the face's vertices in the camera's frame.
    """
    extent = extent_of(points)
    picture = normalise_contrast(rgb, extent)
    region = rigid_region(head, points).astype(np.uint8)
    spacing = max(_SPACING * extent, 3.0)
    found = cv2.goodFeaturesToTrack(picture, POINTS_PER_ANCHOR, _QUALITY, spacing, mask=region, blockSize=5)
    pixels = np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)
    nearest = np.linalg.norm(pixels[:, None] - points[None, : len(mesh)], axis=-1).argmin(1)
    return Anchor(frame, picture, pixels, mesh[nearest, 2])


def match(
    frames: Iterable[tuple[int, np.ndarray]],
    anchors: list[Anchor],
    points: np.ndarray,
    poses: Poses,
    camera: Pinhole,
    extents: np.ndarray,
) -> Iterator[Matches]:
    """Matches the anchors' points to frames.

    Args:
      frames: pairs (index of the frame, uint8 RGB [H, W, 3]).
      anchors: anchors in some of the frames.
      points: [P, 3] cm in the head's frame, the points of all anchors concatenated.
      poses: poses of all N frames, accurate to a few pixels.
      camera: intrinsics.
      extents: [N] px, of the face in each frame.

    Yields:
      the matches of each of `frames`.
    """
    angles = angles_between(poses.rotation, poses.rotation[[a.frame for a in anchors]])
    starts = np.cumsum([0, *(len(a.pixels) for a in anchors)])
    none = Matches(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2), np.float32))
    for row, rgb in frames:
        picture = normalise_contrast(rgb, extents[row])
        found = [none]
        for k in np.argsort(angles[row])[:ANCHORS_PER_FRAME]:
            anchor = anchors[k]
            if angles[row, k] > _MAX_ANGLE or len(anchor.pixels) < 3:
                continue
            indices = np.arange(starts[k], starts[k + 1])
            if anchor.frame == row:
                found.append(Matches(np.full(len(indices), row), indices, anchor.pixels))
                continue
            expected = camera.project(poses.take(slice(row, row + 1)).move(points[indices])[0])
            pixels, good = _flow(anchor, picture, expected, extents[row])
            found.append(Matches(np.full(good.sum(), row), indices[good], pixels[good]))
        yield Matches.join(*found)


def _flow(anchor: Anchor, picture: np.ndarray, expected: np.ndarray, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Matches an anchor's points to a picture.

    Args:
      anchor: an anchor with K points.
      picture: uint8 [H, W], from `normalise_contrast`.
      expected: [K, 2] px, predicted positions of the points.
      extent: extent of the face in px.

    Returns:
      positions [K, 2] px, and bool [K], which of them are good.
    """
    ones = np.ones((len(expected), 1))
    affine, *_ = np.linalg.lstsq(np.hstack([anchor.pixels, ones]), expected, rcond=None)
    height, width = picture.shape
    warped = cv2.warpAffine(
        anchor.picture, affine.T, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    start = (np.hstack([anchor.pixels, ones]) @ affine).astype(np.float32)
    window = max(2 * round(_WINDOW * extent / 2) + 1, 9)
    lucas_kanade = functools.partial(
        cv2.calcOpticalFlowPyrLK,
        winSize=(window, window),
        maxLevel=_LEVELS,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.01),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    there, found, _ = lucas_kanade(warped, picture, start, expected.astype(np.float32))
    back, returned, _ = lucas_kanade(picture, warped, there, start.copy())
    inside = (there >= 0).all(1) & (there < (width, height)).all(1)
    good = found[:, 0].astype(bool) & returned[:, 0].astype(bool) & inside
    return there, good & (np.linalg.norm(back - start, axis=1) < _MAX_ROUND_TRIP)
