"""Padding of a video: black bars, or a blurred copy of the picture beside it. It is found by its straight edges."""

import numpy as np

_SMOOTH = 0.2  # detail of padding, as a share of the detail in the middle of the picture, at most
_LEAST = 0.03  # of the side; narrower padding is left
_LEAST_BLURRED, _MOST_UNEQUAL = 0.08, 0.03  # a blurred copy is wide, and as wide on either side
_MOST = 0.45  # of the side, on one side
_STEP = 6.0  # grey levels across the edge
_STRAIGHT = 0.6  # share of the edge's length that has such a step
_BLACK = 14.0  # mean grey level of bars, at most
_LEAST_SIDE = 64  # pixels of the pictures; in fewer, an edge is as long as a face is wide
_INSIDE = 1  # pixels of the small pictures by which the crop lies inside the edges that were found


class PaddingFinder:
    """Finds padding in some small grey pictures of a video, uint8 [H, W], which are added one by one."""

    def __init__(self) -> None:
        self._count = 0
        # By axis (columns, rows): mean detail of a line, and share of its pixels with a step to the line after next.
        self._detail = [np.zeros(0), np.zeros(0)]
        self._steps = [np.zeros(0), np.zeros(0)]
        self._level = [np.zeros(0), np.zeros(0)]

    def add(self, grey: np.ndarray) -> None:
        """Adds a picture; a black or a tiny one shows no padding."""
        if grey.max() < 2 * _BLACK or min(grey.shape) < _LEAST_SIDE:
            return
        for axis in (0, 1):
            lines = (grey.T if axis == 0 else grey).astype(np.float32)  # [L, P]: a line is a column or a row
            # Second differences along the line: the edges of padding are straight and leave none.
            detail = np.abs(np.diff(lines, 2, axis=1)).mean(1)
            steps = np.zeros(len(lines))
            steps[:-2] = (np.abs(lines[2:] - lines[:-2]) > _STEP).mean(1)
            new = (detail, steps, lines.mean(1))
            for kept, value in zip((self._detail, self._steps, self._level), new, strict=True):
                kept[axis] = kept[axis] + value if self._count else value
        self._count += 1

    def content(self) -> tuple[float, float, float, float] | None:
        """What is inside the padding: left, top, right and bottom as shares of the picture; None without padding."""
        if not self._count:
            return None
        spans = [self._span(axis) for axis in (0, 1)]
        if spans == [(0.0, 1.0)] * 2:
            return None
        (left, right), (top, bottom) = spans
        return left, top, right, bottom

    def _span(self, axis: int) -> tuple[float, float]:
        detail, steps, level = (kept[axis] / self._count for kept in (self._detail, self._steps, self._level))
        low = self._edge(detail, steps, level)
        # The step of line k is that between k and k + 2: mirrored, it is that of line k + 2.
        high = self._edge(detail[::-1], np.r_[steps[::-1][2:], 0.0, 0.0], level[::-1])
        length = len(detail)
        # On one side, or narrow, what is smooth may be a wall, and the edge that of a door.
        equal = abs(low[0] - high[0]) <= _MOST_UNEQUAL * length
        if not (equal and min(low[0], high[0]) >= _LEAST_BLURRED * length):
            low, high = (edge if edge[1] else (0, True) for edge in (low, high))
        return (
            (low[0] + _INSIDE) / length if low[0] else 0.0,
            1.0 - (high[0] + _INSIDE) / length if high[0] else 1.0,
        )

    def _edge(self, detail: np.ndarray, steps: np.ndarray, level: np.ndarray) -> tuple[int, bool]:
        """Lines of padding before the first line of content, 0 without any, and whether they are black."""
        length = len(detail)
        middle = float(np.median(detail[length // 3 : length - length // 3]))
        smooth = detail < _SMOOTH * middle
        first = int(np.argmin(smooth)) if not smooth.all() else 0
        near = range(max(first - 4, 1), min(first + 4, length))
        at = max(near, key=lambda k: steps[k - 1], default=0)
        if not _LEAST * length <= at <= _MOST * length or steps[at - 1] < _STRAIGHT:
            return 0, True
        return at + 1, bool(level[: max(at - 1, 1)].max() < _BLACK)
