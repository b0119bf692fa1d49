"""Correspondences across a whole clip by optical flow in the head's near-rigid regions: forehead, nose, ears, hair.

Flow from frame to frame drifts. Here every frame is compared directly with a few anchors, frames that show the head
in poses far apart: an anchor is brought into the frame's pose by an affine map, and Lucas and Kanade's method finds
what is left. Whenever the head comes back to a pose, it meets the same points again.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.face.landmarks import INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from adnerf_jax.face.rigid import Pinhole, Poses

ANCHORS = 16
ANCHORS_PER_FRAME = 4
POINTS_PER_ANCHOR = 160
_WIDEST_TURN = math.radians(25.0)  # between a frame and an anchor: more changes what is seen
_QUALITY = 0.01  # of the best corner's smaller eigenvalue
# In parts of the face's extent (the larger side of its landmarks' box):
_SPACING, _WINDOW, _CONTRAST, _INSET = 0.025, 0.11, 0.08, 0.04
_SIGMA_LEFT = 4.0  # pixels of a wide blur's σ in the shrunk picture: finer, it costs more; coarser, pixels show
_LEVELS = 1  # of the pyramid above full size: the poses already bring a point to within a few pixels
_ROUND_TRIP = 0.35  # pixels by which the flow back may miss where it came from
# Jaw and cheeks below the nose: the chin's contour from ear to ear and the nose's wings.
_JAW = np.array([132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 323, 425, 326, 97, 205, 93])
_MOBILE = (_JAW, np.concatenate([OUTER_LIPS, INNER_LIPS]), RIGHT_EYE, LEFT_EYE)


class Anchor(NamedTuple):
    """A frame that others are compared with.

    Attributes:
      frame: its number.
      picture: uint8 [H, W], contrast evened out.
      pixels: float32 [K, 2], points on rigid parts of the head.
      depth: float64 [K] cm, z in the camera's frame to start from: the nearest vertex's of the mesh.
    """

    frame: int
    picture: np.ndarray
    pixels: np.ndarray
    depth: np.ndarray


class Matches(NamedTuple):
    """Where points were seen.

    Attributes:
      frame: int [M], row of the frame.
      point: int [M], number of the point.
      pixels: float32 [M, 2].
    """

    frame: np.ndarray
    point: np.ndarray
    pixels: np.ndarray

    @classmethod
    def join(cls, *matches: "Matches") -> "Matches":
        """Those of several, one after the other."""
        return cls(*(np.concatenate(column) for column in zip(*matches, strict=True)))


def choose_anchors(rotation: np.ndarray, count: int = ANCHORS) -> np.ndarray:
    """Frames whose poses lie far apart: each next one is the farthest from those before.

    Args:
      rotation: [N, 3, 3].

    Returns:
      int [≤ count], in order of time; the first chosen is nearest to the mean pose.
    """
    mean = Rotation.from_matrix(rotation).mean().as_matrix()
    chosen = [int(turn_between(mean[None], rotation)[0].argmin())]
    nearest = turn_between(rotation[chosen], rotation)[0]
    while len(chosen) < min(count, len(rotation)) and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, turn_between(rotation[chosen[-1:]], rotation)[0])
    return np.sort(chosen)


def turn_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles [A, B] in radians between rotations [A, 3, 3] and [B, 3, 3]."""
    trace = np.einsum("aij,bij->ab", a, b)
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


def even_contrast(rgb: np.ndarray, extent: float) -> np.ndarray:
    """Grey uint8 [H, W] in which light and shade on a face of this extent in px no longer matter."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    sigma = max(_CONTRAST * extent, 2.0)
    detail = grey - _wide_blur(grey, sigma)
    spread = np.sqrt(_wide_blur(detail * detail, 2 * sigma)) + 4.0  # + noise of the camera
    return np.clip(128 + 48 * detail / spread, 0, 255).astype(np.uint8)


def _wide_blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of a picture [H, W], of its shrunk copy where that loses nothing: ten times as fast."""
    height, width = picture.shape
    shrink = max(int(sigma / _SIGMA_LEFT), 1)
    small = cv2.resize(picture, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def rigid_region(head: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The head without its silhouette, mouth, jaw, cheeks and eyes.

    Args:
      head: bool [H, W], the head's part.
      points: [V, 2] px landmarks.

    Returns:
      bool [H, W].
    """
    region = head.astype(np.uint8)
    for vertices in _MOBILE:
        cv2.fillConvexPoly(region, cv2.convexHull(np.rint(points[vertices]).astype(np.int32)), 0)
    inset = max(_INSET * extent_of(points), 2.0)
    return cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] > inset


def extent_of(points: np.ndarray) -> float:
    """The larger side of the box of landmarks [V, 2], in px."""
    return float(np.ptp(points[:, :2], axis=0).max())


def make_anchor(frame: int, rgb: np.ndarray, head: np.ndarray, points: np.ndarray, mesh: np.ndarray) -> Anchor:
    """Picks an anchor's points.

    Args:
      frame: its number.
      rgb: uint8 [H, W, 3].
      head: bool [H, W], the head's part.
      points: [478, 2] px landmarks.
      mesh: [468, 3] cm, the face's vertices in the camera's frame.
    """
    extent = extent_of(points)
    picture = even_contrast(rgb, extent)
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
    """Finds the anchors' points in frames, one frame after the other.

    Args:
      frames: (row of the pose, uint8 RGB [H, W, 3]).
      anchors: with frame numbers that are rows of the poses too.
      points: [P, 3] cm in the head's frame, the anchors' points one after the other.
      poses: of all frames, good to a few pixels.
      camera: intrinsics.
      extents: [N] px, of the face in each frame.
    """
    turns = turn_between(poses.rotation, poses.rotation[[a.frame for a in anchors]])
    starts = np.cumsum([0, *(len(a.pixels) for a in anchors)])
    none = Matches(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2), np.float32))
    for row, rgb in frames:
        picture = even_contrast(rgb, extents[row])
        found = [none]
        for k in np.argsort(turns[row])[:ANCHORS_PER_FRAME]:
            anchor = anchors[k]
            if turns[row, k] > _WIDEST_TURN or len(anchor.pixels) < 3:
                continue
            numbers = np.arange(starts[k], starts[k + 1])
            if anchor.frame == row:
                found.append(Matches(np.full(len(numbers), row), numbers, anchor.pixels))
                continue
            expected = camera.project(poses.take([row]).move(points[numbers])[0])
            seen, good = _flow(anchor, picture, expected, extents[row])
            found.append(Matches(np.full(good.sum(), row), numbers[good], seen[good]))
        yield Matches.join(*found)


def _flow(anchor: Anchor, picture: np.ndarray, expected: np.ndarray, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions [K, 2] of the anchor's points in a picture near those expected, and which of them are good."""
    ones = np.ones((len(expected), 1))
    affine, *_ = np.linalg.lstsq(np.hstack([anchor.pixels, ones]), expected, rcond=None)
    height, width = picture.shape
    brought = cv2.warpAffine(
        anchor.picture, affine.T, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    start = (np.hstack([anchor.pixels, ones]) @ affine).astype(np.float32)
    window = max(2 * round(_WINDOW * extent / 2) + 1, 9)
    settings = {
        "winSize": (window, window),
        "maxLevel": _LEVELS,
        "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.01),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
    }
    there, found, _ = cv2.calcOpticalFlowPyrLK(brought, picture, start, expected.astype(np.float32), **settings)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(picture, brought, there, start.copy(), **settings)
    inside = (there >= 0).all(1) & (there < (width, height)).all(1)
    good = found[:, 0].astype(bool) & returned[:, 0].astype(bool) & inside
    return there, good & (np.linalg.norm(back - start, axis=1) < _ROUND_TRIP)
