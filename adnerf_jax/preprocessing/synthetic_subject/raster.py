"""A small vectorised software rasteriser: Loop subdivision, vertex normals, triangles with a depth buffer."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Coverage:
    """The visible surface at each covered pixel.

    Attributes:
      pixels: `[P]`, row * width + column.
      triangle: `[P]`, index of the frontmost triangle.
      weights: `[P, 3]`, barycentric weights of its corners, affine in the picture (the triangles are small).
    """

    pixels: np.ndarray
    triangle: np.ndarray
    weights: np.ndarray


def _expand(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates the ranges first..last (inclusive, possibly empty): each member's range, and the members."""
    count = np.maximum(last - first + 1, 0)
    owner = np.repeat(np.arange(len(count), dtype=np.int32), count)
    start = np.cumsum(count) - count
    member = np.arange(len(owner), dtype=np.int32) + np.repeat((first - start).astype(np.int32), count)
    return owner, member


def rasterise(points: np.ndarray, triangles: np.ndarray, height: int, width: int) -> Coverage:
    """Rasterises front-facing triangles with a depth buffer.

    Each triangle is divided into rows and each row into pixels, so only covered pixels are visited. The centre of a
    pixel is at its index + 0.5. Triangles that share an edge leave no gap.

    Args:
      points: `[V, 3]`: x and y in pixels (y down), and a depth > 0 that is greater in front and linear in the picture,
        such as 1 / distance.
      triangles: `[T, 3]`, counter-clockwise with y up; back faces are culled.
    """
    corners = points[triangles].transpose(2, 1, 0)
    (x0, x1, x2), (y0, y1, y2), _ = corners
    front = np.flatnonzero((x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0) < -1e-9)
    x, y, near = corners[..., front]

    # Edge function k is a·x + b·y + c: 0 on the edge opposite to corner k, positive outside. Adjacent triangles
    # have the same coefficients with opposite signs, so that their spans meet exactly.
    ahead, behind = [1, 2, 0], [2, 0, 1]
    a, b, c = y[ahead] - y[behind], x[behind] - x[ahead], x[ahead] * y[behind] - x[behind] * y[ahead]

    top = np.clip(np.ceil(y.min(0) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.floor(y.max(0) - 0.5), -1, height - 1).astype(np.int64)
    owner, row = _expand(top, bottom)
    # x at which edge k crosses a row; the sign of its slope decides which end of the row it bounds. (Horizontal edges
    # bound none: the rows end there.)
    low, high = np.full(len(owner), -np.inf), np.full(len(owner), np.inf)
    for k in range(3):
        slope = np.where(a[k] == 0.0, 1.0, a[k])
        crossing = (-b[k] / slope).take(owner) * (row + 0.5) + (-c[k] / slope).take(owner)
        side = np.sign(a[k]).take(owner)
        np.maximum(low, crossing, out=low, where=side < 0)
        np.minimum(high, crossing, out=high, where=side > 0)
    first = np.clip(np.ceil(low - 0.5), 0, width).astype(np.int64)
    last = np.clip(np.floor(high - 0.5), -1, width - 1).astype(np.int64)
    span, column = _expand(first, last)
    which = owner.take(span)

    area = (a * x + b * y + c)[0]
    a, b, c = a / area, b / area, c / area
    along, down, level = ((k * near).sum(0) for k in (a, b, c))
    at_row = down.take(owner) * (row + 0.5) + level.take(owner)
    depth = (along.take(which) * (column + 0.5) + at_row.take(span)).astype(np.float32)

    # A single maximum finds the front fragment: its depth's bits (positive floats sort like integers) above the index
    # of its triangle.
    buffer = np.zeros(height * width, np.int64)
    fragment = row.take(span) * np.int32(width) + column
    np.maximum.at(buffer, fragment, (depth.view(np.int32).astype(np.int64) << 32) | which)
    pixels = np.flatnonzero(buffer)
    which = (buffer[pixels] & 0xFFFFFFFF).astype(np.int32)
    a, b, c = (np.ascontiguousarray(k.T, np.float32).take(which, axis=0) for k in (a, b, c))
    at_x, at_y = ((k + 0.5).astype(np.float32)[:, None] for k in (pixels % width, pixels // width))
    return Coverage(pixels, front[which], a * at_x + b * at_y + c)


class Normals:
    """Vertex normals of a deforming mesh with fixed triangles."""

    def __init__(self, triangles: np.ndarray, count: int):
        """Prepares the mesh.

        Args:
          triangles: `[T, 3]`.
          count: number of vertices; each is used at least once.
        """
        self._triangles = triangles
        corners = triangles.reshape(-1)
        order = np.argsort(corners, kind="stable")
        self._face = order // 3
        self._start = np.searchsorted(corners[order], np.arange(count))

    def __call__(self, vertices: np.ndarray) -> np.ndarray:
        """Unit normals `[V, 3]`, each the area-weighted mean over the vertex's triangles."""
        a, b, c = (vertices[self._triangles[:, k]] for k in range(3))
        u, v = b - a, c - a
        face = np.stack(
            [
                u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1],
                u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2],
                u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0],
            ],
            -1,
        )
        normals = np.add.reduceat(face[self._face], self._start, axis=0)
        return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


def subdivide(triangles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One step of Loop subdivision (Loop 1987) with smooth boundary curves.

    Args:
      triangles: `[T, 3]` over `count` vertices.

    Returns:
      the matrix `[V', count]` from old vertices to new ones (the first `count` are the smoothed old vertices), and the
      triangles `[4 T, 3]` over them.
    """
    opposite: dict[tuple[int, int], list[int]] = {}
    for a, b, c in triangles.tolist():
        for i, j, k in ((a, b, c), (b, c, a), (c, a, b)):
            opposite.setdefault((min(i, j), max(i, j)), []).append(k)
    rim: list[list[int]] = [[] for _ in range(count)]
    ring: list[set[int]] = [set() for _ in range(count)]
    for (i, j), across in opposite.items():
        ring[i].add(j)
        ring[j].add(i)
        if len(across) == 1:
            rim[i].append(j)
            rim[j].append(i)
    matrix = np.zeros((count + len(opposite), count))
    for i in range(count):
        if len(rim[i]) == 2:
            matrix[i, i] = 0.75
            matrix[i, rim[i]] = 0.125
        else:
            n = max(len(ring[i]), 1)
            beta = 3.0 / (8.0 * n) if n > 3 else 3.0 / 16.0
            matrix[i, list(ring[i])] = beta
            matrix[i, i] = 1.0 - len(ring[i]) * beta
    middle = {}
    for row, ((i, j), across) in enumerate(opposite.items(), start=count):
        middle[i, j] = middle[j, i] = row
        if len(across) == 1:
            matrix[row, [i, j]] = 0.5
        else:
            matrix[row, [i, j]] = 0.375
            matrix[row, across] = 0.125
    finer = []
    for a, b, c in triangles.tolist():
        ab, bc, ca = middle[a, b], middle[b, c], middle[c, a]
        finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return matrix, np.asarray(finer)


def rims(triangles: np.ndarray) -> list[np.ndarray]:
    """The boundary loops of a mesh, longest first, each an array of vertices in the direction of its triangles."""
    edges = {(int(t[i]), int(t[(i + 1) % 3])) for t in triangles for i in range(3)}
    after = {i: j for i, j in edges if (j, i) not in edges}
    loops = []
    while after:
        start, vertex = after.popitem()
        loop = [start]
        while vertex != start:
            loop.append(vertex)
            vertex = after.pop(vertex)
        loops.append(np.asarray(loop))
    return sorted(loops, key=len, reverse=True)
