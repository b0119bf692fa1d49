"""The squares of a frame that a network sees, and its answers laid over the frame.

A parsing network wants a head that fills about half of its picture. Where it does in the frame itself, one view of the
whole frame serves; otherwise two, one around the head and one of the surroundings, whose logits are blended.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

_FACE_SHARE = 0.45  # extent of the landmarks in the side of the view around the head
_ENOUGH_SHARE = 0.38  # from here on one view of the whole frame serves
_FAR_SHARE = 0.2  # in the view of the surroundings; with less the network no longer sees a person
_FACE_HEIGHT = 0.47  # where the middle of the face stands in a view, from above
_SEAM = 0.08  # of the side: how far within the view around the head the other is blended in
_STEADY_FRAMES = 12  # standard deviation of the Gaussian over time by which views follow the face


class View(NamedTuple):
    """A square of the frame: upper left corner and side in px; it may reach beyond the frame."""

    x: float
    y: float
    side: float


def place_views(points: np.ndarray, width: int, height: int) -> list[list[View]]:
    """For each frame the view around the head first, then, where that does not hold the frame, the surroundings.

    Args:
      points: [N, V, 2] px.
    """
    low, high = points.min(1), points.max(1)
    extents = (high - low).max(1)
    longest = max(width, height)
    if np.median(extents) >= _ENOUGH_SHARE * longest:
        return [[View((width - longest) / 2, (height - longest) / 2, longest)]] * len(points)
    centre_x, centre_y, extents = gaussian_filter1d(
        np.c_[(low + high) / 2, extents].astype(np.float64), _STEADY_FRAMES, axis=0, mode="nearest"
    ).T

    def place(x: float, y: float, side: float) -> View:
        return View(_start(x - side / 2, side, width), _start(y - _FACE_HEIGHT * side, side, height), side)

    return [
        [place(x, y, extent / _FACE_SHARE), place(x, y, min(longest, extent / _FAR_SHARE))]
        for x, y, extent in zip(centre_x, centre_y, extents, strict=True)
    ]


def _start(start: float, side: float, length: float) -> float:
    """Moves an interval into [0, length], or centres it where it is the longer one."""
    return float(np.clip(start, 0, length - side)) if side <= length else (length - side) / 2


def cut(rgb: np.ndarray, view: View, side: int) -> np.ndarray:
    """The view as a picture uint8 [side, side, 3]; beyond the frame its edge goes on."""
    scale = side / view.side
    # Shrunk by area first: a warp alone would alias.
    size = [max(1, round(n * scale)) for n in rgb.shape[1::-1]]
    scaled = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    ratio = np.array(size) / rgb.shape[1::-1]  # scale, but for rounding
    start = (0.5 / scale + np.array([view.x, view.y])) * ratio - 0.5
    affine = np.c_[np.diag(ratio / scale), start]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(scaled, affine, (side, side), flags=how, borderMode=cv2.BORDER_REPLICATE)


def assemble(cells: list[np.ndarray], views: list[View], height: int, width: int, cell: int) -> np.ndarray:
    """Logits [H, W, C] of the frame from those of its views' cells [n, n, C], `cell` pixels of the view wide."""
    near, *far = [spread(c, view, height, width, cell) for c, view in zip(cells, views, strict=True)]
    if not far:
        return near
    view = views[0]
    inside = [_ramp(start, view.side, length) for start, length in ((view.y, height), (view.x, width))]
    share = np.minimum(inside[0][:, None], inside[1])[..., None]
    return far[0] + share * (near - far[0])


def spread(cells: np.ndarray, view: View, height: int, width: int, cell: int) -> np.ndarray:
    """Cells [n, n, C] of a view, `cell` of its pixels wide, over the frame by linear interpolation: [H, W, C]."""
    side = cell * len(cells)
    step = (side - 1) / (len(cells) - 1)  # view pixels a cell; corners are aligned
    scale = side / view.side
    # frame pixel -> view pixel -> cell
    affine = np.array([[scale, 0, (0.5 - view.x) * scale - 0.5], [0, scale, (0.5 - view.y) * scale - 0.5]]) / step
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(cells, affine, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)


def _ramp(start: float, side: float, length: int) -> np.ndarray:
    """[length] 1 inside an interval, falling to 0 at its ends where these lie within the frame."""
    at = np.arange(length, dtype=np.float32) + 0.5
    rise = (at - start) / (_SEAM * side) if start > 0 else np.ones_like(at)
    fall = (start + side - at) / (_SEAM * side) if start + side < length else np.ones_like(at)
    return np.clip(np.minimum(rise, fall), 0, 1)
