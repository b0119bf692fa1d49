"""A small software rasteriser: subdivided meshes, normals and depth-buffered triangles, all as whole-array operations."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What is visible at each covered pixel.

    Attributes:
      pixels: `[P]` row * width + column.
      triangle: `[P]` index of the front triangle.
      weights: `[P, 3]` barycentric weights of its corners (affine in the picture, triangles being small).
    """

    pixels: np.ndarray
    triangle: np.ndarray
    weights: np.ndarray


def _expand(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges first..last (inclusive, maybe empty): the owner of each member, and the members."""
    count = np.maximum(last - first + 1, 0)
    owner = np.repeat(np.arange(len(count), dtype=np.int32), count)
    start = np.cumsum(count) - count
    member = np.arange(len(owner), dtype=np.int32) + np.repeat((first - start).astype(np.int32), count)
    return owner, member


def rasterise(points: np.ndarray, triangles: np.ndarray, height: int, width: int) -> Coverage:
    """Depth-buffered rasterisation of triangles that face the viewer.

    Each triangle is cut into rows, each row into pixels: no work is spent on pixels outside. A pixel's centre is at its
    index + 0.5. Shared edges leave no gap.

    Args:
      points: `[V, 3]` picture x, y in pixels (y down) and nearness (greater is in front; any affine unit).
      triangles: `[T, 3]`; counter-clockwise as seen with y up is the front, backs are dropped.
    """
    corners = points[triangles]
    ax, ay, bx, by, cx, cy = (corners[:, k, i] for k in range(3) for i in range(2))
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    front = np.flatnonzero(area < -1e-9)
    corners, area = corners[front], area[front]
    x, y, near = corners[..., 0], corners[..., 1], corners[..., 2]

    # Edge function k is 1 at corner k and 0 on the opposite side: a·x + b·y + c.
    ahead, behind = [1, 2, 0], [2, 0, 1]
    a = y[:, ahead] - y[:, behind]
    b = x[:, behind] - x[:, ahead]
    c = x[:, ahead] * y[:, behind] - x[:, behind] * y[:, ahead]

    top = np.clip(np.ceil(y.min(1) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.floor(y.max(1) - 0.5), -1, height - 1).astype(np.int64)
    owner, row = _expand(top, bottom)
    # Inside is where each edge function has the sign of the (negative) area: x on one side of the crossing.
    slope, rest = a[owner], b[owner] * (row + 0.5)[:, None] + c[owner]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -rest / slope
    low = np.where(slope < 0, crossing, np.where((slope == 0) & (rest > 0), np.inf, -np.inf)).max(1)
    high = np.where(slope > 0, crossing, np.inf).min(1)
    first = np.clip(np.ceil(low - 0.5), 0, width).astype(np.int64)
    last = np.clip(np.floor(high - 0.5), -1, width - 1).astype(np.int64)
    span, column = _expand(first, last)
    which, line = owner[span], row[span]

    scale = (1.0 / area)[:, None]
    a, b, c = a * scale, b * scale, c * scale
    plane = np.stack([(k * near).sum(1) for k in (a, b, c)], -1)
    at_row = plane[owner, 1] * (row + 0.5) + plane[owner, 2]
    depth = (plane[owner, 0][span] * (column + 0.5) + at_row[span]).astype(np.float32)

    # One maximum finds the front fragment: the depth's bits (made to sort as integers) above the triangle's number.
    bits = depth.view(np.int32)
    order = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    buffer = np.full(height * width, np.iinfo(np.int64).min)
    np.maximum.at(buffer, line * np.int32(width) + column, (order << 32) | which)
    pixels = np.flatnonzero(buffer != np.iinfo(np.int64).min)
    which = (buffer[pixels] & 0xFFFFFFFF).astype(np.int32)
    px, py = pixels % width + 0.5, pixels // width + 0.5
    weights = a[which] * px[:, None] + b[which] * py[:, None] + c[which]
    return Coverage(pixels, front[which], weights.astype(np.float32))


class Normals:
    """Vertex normals of a mesh whose vertices move and whose triangles do not."""

    def __init__(self, triangles: np.ndarray, count: int):
        """Args: `triangles` [T, 3] over `count` vertices, each used at least once."""
        self._triangles = triangles
        corners = triangles.reshape(-1)
        order = np.argsort(corners, kind="stable")
        self._face = order // 3
        self._start = np.searchsorted(corners[order], np.arange(count))

    def __call__(self, vertices: np.ndarray) -> np.ndarray:
        """`[V, 3]` unit normals, each the area-weighted mean over the vertex's triangles."""
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
    """One step of Loop's subdivision (Loop 1987), rims of holes as smooth curves.

    Args:
      triangles: `[T, 3]` over `count` vertices.

    Returns:
      `[V', count]` matrix from old vertices to new ones (the first `count` are the old vertices, smoothed), and the
      `[4 T, 3]` triangles over them.
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
    """The mesh's open borders, each an array of vertices in the direction of its triangles, longest first."""
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
