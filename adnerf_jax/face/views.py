"""Square views of a frame as inputs of a network, and the network's logits resampled to the frame.

A parsing network works best if the head fills about half of its input. If it does so in the whole frame, one view of
the frame is used; otherwise two, one around the head and one of the surroundings, and their logits are blended.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

# Extent of the landmarks as a fraction of the side of a view:
_NEAR_FRACTION = 0.45  # in the view around the head
_WHOLE_FRACTION = 0.38  # from this value in the whole frame on, one view is used
_FAR_FRACTION = 0.2  # in the view of the surroundings; with less the network no longer detects a person
_FACE_HEIGHT = 0.47  # vertical position of the face's centre in a view, from the top, as a fraction of the side
_SEAM = 0.08  # width of the blending zone inside the view around the head, as a fraction of its side
_SMOOTHING = 12  # frames, standard deviation of the Gaussian over time that smooths the views


class View(NamedTuple):
    """A square of the frame: upper left corner and side in px; it may extend beyond the frame."""

    x: float
    y: float
    side: float


def place_views(points: np.ndarray, width: int, height: int) -> list[list[View]]:
    """The views of each frame.

    Args:
      points: [N, V, 2] px, landmarks.
      width, height: frame size in px.

    Returns:
      for each frame [whole frame] or [around the head, surroundings]; of the same kind for all frames.
    """
    low, high = points.min(1), points.max(1)
    extents = (high - low).max(1)
    longest = max(width, height)
    if np.median(extents) >= _WHOLE_FRACTION * longest:
        return [[whole_frame(width, height)]] * len(points)
    centre_x, centre_y, extents = gaussian_filter1d(
        np.c_[(low + high) / 2, extents].astype(np.float64), _SMOOTHING, axis=0, mode="nearest"
    ).T

    def place(x: float, y: float, side: float) -> View:
        return View(_start(x - side / 2, side, width), _start(y - _FACE_HEIGHT * side, side, height), side)

    return [
        [place(x, y, extent / _NEAR_FRACTION), place(x, y, min(longest, extent / _FAR_FRACTION))]
        for x, y, extent in zip(centre_x, centre_y, extents, strict=True)
    ]


def whole_frame(width: int, height: int) -> View:
    """The smallest view that shows the whole frame."""
    longest = max(width, height)
    return View((width - longest) / 2, (height - longest) / 2, longest)


def _start(start: float, side: float, length: float) -> float:
    """The start of an interval moved into [0, length], or centred on it if it is longer."""
    return float(np.clip(start, 0, length - side)) if side <= length else (length - side) / 2


def crop(rgb: np.ndarray, view: View, side: int) -> np.ndarray:
    """The view of a frame, resized to uint8 [side, side, 3]; the frame's edge pixels are repeated beyond it."""
    scale = side / view.side
    # Shrunk by area averaging first, because a warp alone would alias.
    size = [max(1, round(n * scale)) for n in rgb.shape[1::-1]]
    scaled = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    ratio = np.array(size) / rgb.shape[1::-1]  # scale, but for rounding
    start = (0.5 / scale + np.array([view.x, view.y])) * ratio - 0.5
    affine = np.c_[np.diag(ratio / scale), start]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(scaled, affine, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def assemble(cells: list[np.ndarray], views: list[View], height: int, width: int, cell: int) -> np.ndarray:
    """Combines the logits of a frame's views.

    Args:
      cells: logits [n, n, C] of each view.
      views: the frame's views, from `place_views`.
      height, width: frame size in px.
      cell: pixels of the network's input per cell.

    Returns:
      [H, W, C].
    """
    near, *far = [to_frame(c, view, height, width, cell) for c, view in zip(cells, views, strict=True)]
    if not far:
        return near
    view = views[0]
    inside = [_ramp(start, view.side, length) for start, length in ((view.y, height), (view.x, width))]
    weight = np.minimum(inside[0][:, None], inside[1])[..., None]
    return far[0] + weight * (near - far[0])


def to_frame(cells: np.ndarray, view: View, height: int, width: int, cell: int) -> np.ndarray:
    """Resamples the logits [n, n, C] of a view linearly to the pixels of the frame: [H, W, C]; see `assemble`."""
    side = cell * len(cells)
    step = (side - 1) / (len(cells) - 1)  # input pixels per cell, with aligned corners
    scale = side / view.side
    # Frame pixel to input pixel to cell.
    affine = np.array([[scale, 0, (0.5 - view.x) * scale - 0.5], [0, scale, (0.5 - view.y) * scale - 0.5]]) / step
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    # OpenCV is slow beyond four channels, and drops the axis of a lone one.
    resampled = [
        cv2.warpAffine(
            np.ascontiguousarray(cells[..., start : start + 4]),
            affine,
            (width, height),
            flags=flags,
            borderMode=cv2.BORDER_REPLICATE,
        ).reshape(height, width, -1)
        for start in range(0, cells.shape[-1], 4)
    ]
    return np.concatenate(resampled, -1) if len(resampled) > 1 else resampled[0]


def _ramp(start: float, side: float, length: int) -> np.ndarray:
    """Weights [length]: 1 inside an interval, falling linearly to 0 at those of its ends that lie in the frame."""
    at = np.arange(length, dtype=np.float32) + 0.5
    rise = (at - start) / (_SEAM * side) if start > 0 else np.ones_like(at)
    fall = (start + side - at) / (_SEAM * side) if start + side < length else np.ones_like(at)
    return np.clip(np.minimum(rise, fall), 0, 1)
