"""The built-in subject's face: a mesh with the landmark network's topology and its own shape, that speaks and blinks.

Units are centimetres in the head's frame: x to the right of the picture, y up, z towards the camera. "Right" in names
is the person's right (the picture's left), as in the landmark network.
"""

import dataclasses

import numpy as np

# Vertex indices in the 468-vertex mesh. Lids run from the outer corner to the inner one, lips from the picture's left
# to its right.
RIGHT_EYE_UPPER = [33, 246, 161, 160, 159, 158, 157, 173, 133]
RIGHT_EYE_LOWER = [33, 7, 163, 144, 145, 153, 154, 155, 133]
LEFT_EYE_UPPER = [263, 466, 388, 387, 386, 385, 384, 398, 362]
LEFT_EYE_LOWER = [263, 249, 390, 373, 374, 380, 381, 382, 362]
RIGHT_LID_CREASE = [247, 30, 29, 27, 28, 56, 190]
LEFT_LID_CREASE = [467, 260, 259, 257, 258, 286, 414]
INNER_LIP_UPPER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]
INNER_LIP_LOWER = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308]
OUTER_LIP_UPPER = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291]
OUTER_LIP_LOWER = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291]
# The rings of the lips between the outer and the inner one.
MIDDLE_LIPS_UPPER = [74, 73, 72, 11, 302, 303, 304, 184, 183, 42, 41, 38, 12, 268, 271, 272, 407, 408, 76, 62, 306, 292]
MIDDLE_LIPS_LOWER = [77, 90, 180, 85, 16, 315, 404, 320, 307, 96, 89, 179, 86, 15, 316, 403, 319, 325]
RIGHT_BROW = [[70, 63, 105, 66, 107], [46, 53, 52, 65, 55]]
LEFT_BROW = [[300, 293, 334, 296, 336], [276, 283, 282, 295, 285]]
# Pairs of opposite vertices of the inner lips; the outer eye corners.
GAP_PAIRS = [(13, 14), (82, 87), (312, 317)]
EYE_CORNERS = (33, 263)

EYEBALL_RADIUS = 1.5
JAW_DROP = 2.3  # with the mouth fully open


@dataclasses.dataclass(frozen=True)
class Eyeball:
    """A sphere behind the lids, in the head's frame."""

    centre: np.ndarray
    radius: float


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Cubic step from 0 at `low` to 1 at `high`; `low` > `high` gives a falling step."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def bump(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    """exp(−((x − centre) / width)²)."""
    return np.exp(-(((x - centre) / width) ** 2))


def reshape(canonical: np.ndarray) -> np.ndarray:
    """The subject's shape: a smooth deformation of the canonical mesh, which the tracker is initialised with.

    A longer and wider jaw, a deeper face, a stronger nose and brow, and a few asymmetries, as real faces have them.

    Args:
      canonical: `[468, 3]` cm, the canonical mesh of the landmark network.

    Returns:
      `[468, 3]` cm; >= 3 mm RMS from `canonical` after the best similarity alignment (tested).
    """
    x, y, z = canonical.T.copy()
    jaw = smoothstep(-1.5, -9.0, y)
    nose = bump(x, 0, 1.5) * bump(y, -0.6, 2.0)
    brow = np.exp(-((x / 4.4) ** 4)) * bump(y, 4.4, 1.0)
    cheek = bump(np.abs(x), 4.8, 1.7) * bump(y, 0.2, 1.8)
    mouth = np.exp(-((x / 3.2) ** 4)) * bump(y, -4.4, 1.6)
    z = 1.0 + 1.17 * (z - 1.0)
    z = z + 0.45 * nose + 0.4 * brow + 0.3 * cheek - 0.25 * mouth + 0.5 * jaw * bump(x, 0, 2.5)
    x = x * (1.0 + 0.05 * jaw - 0.05 * smoothstep(3.0, 8.0, y))
    x = x * (1.0 + 0.09 * mouth)
    y = y + 0.16 * mouth * bump(np.abs(x), 2.7, 0.9)
    y = y - 0.55 * jaw + 0.6 * smoothstep(4.5, 8.0, y)
    # Asymmetries: the nose bends, one brow and one corner of the mouth are higher, one cheek is fuller.
    x = x + 0.13 * nose - 0.08 * mouth
    y = y + 0.14 * bump(x, 2.9, 1.4) * bump(y, 4.6, 0.9) - 0.10 * bump(x, -2.2, 1.0) * mouth
    z = z + 0.18 * bump(x, 4.5, 1.5) * bump(y, -2.5, 2.0)
    return np.stack([x, y, z], -1)


def shape_difference(shape: np.ndarray, reference: np.ndarray) -> float:
    """RMS distance of two shapes `[V, 3]` after similarity alignment (Umeyama 1991), in units of `reference`."""
    a, b = shape - shape.mean(0), reference - reference.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (s * sign).sum() / (a**2).sum()
    return float(np.sqrt((((scale * a @ (u * sign @ vt).T) - b) ** 2).sum(-1).mean()))


class Face:
    """The control mesh at rest (mouth closed, eyes open) and its deformations.

    Attributes:
      rest: `[468, 3]` cm.
      triangles: `[T, 3]`, without those that fill the eyes and the mouth.
      eyeballs: the right and the left one.
    """

    def __init__(self, canonical: np.ndarray, triangles: np.ndarray):
        """Builds the mesh.

        Args:
          canonical, triangles: mesh of the landmark network, `[468, 3]` cm and `[898, 3]`.
        """
        holes = (
            RIGHT_EYE_UPPER + RIGHT_EYE_LOWER,
            LEFT_EYE_UPPER + LEFT_EYE_LOWER,
            INNER_LIP_UPPER + INNER_LIP_LOWER,
        )
        filled = np.any([np.isin(triangles, hole).all(1) for hole in holes], axis=0)
        self.triangles = np.asarray(triangles)[~filled]
        self.rest = reshape(np.asarray(canonical, np.float64))
        self._open_lids()
        self._close_lips()
        self._prepare_mouth()

    def _open_lids(self) -> None:
        """Opens the eyes a little wider than in the canonical mesh and places the lids on the eyeballs."""
        v, eyeballs = self.rest, []
        for upper, lower, crease in (
            (RIGHT_EYE_UPPER, RIGHT_EYE_LOWER, RIGHT_LID_CREASE),
            (LEFT_EYE_UPPER, LEFT_EYE_LOWER, LEFT_LID_CREASE),
        ):
            arch = np.sin(np.linspace(0.0, np.pi, len(upper)))
            v[upper, 1] += 0.2 * arch
            v[lower, 1] -= 0.08 * arch
            v[crease, 1] += 0.16
            middle = (v[upper[4]] + v[lower[4]]) / 2
            eyeball = Eyeball(middle - [0.0, 0.0, 1.02 * EYEBALL_RADIUS], EYEBALL_RADIUS)
            for ring, clearance in ((upper[1:-1], 1.05), (lower[1:-1], 1.05), (crease, 1.1)):
                v[ring] = push_out(v[ring], eyeball, clearance)
            eyeballs.append(eyeball)
        self.eyeballs = tuple(eyeballs)

    def _close_lips(self) -> None:
        """Brings the inner lips together."""
        v = self.rest
        # Closer to the upper lip, which is the thinner one.
        middle = 0.75 * v[INNER_LIP_UPPER] + 0.25 * v[INNER_LIP_LOWER]
        upper, lower = middle - v[INNER_LIP_UPPER], middle - v[INNER_LIP_LOWER]
        self.lip_line = float(middle[:, 1].mean())
        # The middle rings follow part of the way, so that the lips keep their thickness.
        for ring, shift in ((MIDDLE_LIPS_UPPER, upper), (MIDDLE_LIPS_LOWER, lower)):
            along = np.interp(v[ring, 0], middle[:, 0], shift[:, 1])
            v[ring, 1] += 0.6 * along
        v[INNER_LIP_UPPER] = v[INNER_LIP_LOWER] = middle

    def _prepare_mouth(self) -> None:
        """Blend weights of the mouth's movements for each vertex, all `[468]`."""
        x, y, z = self.rest.T
        line = self.lip_line
        corner = np.abs(self.rest[[78, 308], 0]).mean()
        arch = np.clip(1.0 - (x / (1.08 * corner)) ** 2, 0.0, 1.0) ** 0.65
        lower = np.zeros(len(x), bool)
        lower[INNER_LIP_LOWER[1:-1] + MIDDLE_LIPS_LOWER + OUTER_LIP_LOWER[1:-1]] = True
        upper = np.zeros(len(x), bool)
        upper[INNER_LIP_UPPER + MIDDLE_LIPS_UPPER + OUTER_LIP_UPPER] = True
        # The jaw rotates about a hinge near the ears, so vertices further forward drop further.
        hinge = np.clip((z + 3.0) / 7.0, 0.0, 1.0)
        chin = smoothstep(line - 0.1, line - 3.2, y) * hinge
        below = np.where(lower | (~upper & (y < line - 0.8)), arch, 0.0)
        self.jaw = np.where(upper, 0.0, np.maximum(chin, below))
        self.raise_upper = np.where(upper, arch, 0.0) + np.where(
            ~upper & (y > line), 0.5 * arch * bump(y, line + 0.8, 0.9), 0.0
        )
        self.near_lips = np.exp(-((x / 3.4) ** 4)) * bump(y, line, 1.7)
        self.near_corners = bump(np.abs(x), corner + 0.3, 1.5) * bump(y, line, 1.5)
        self.lower_lip = np.where(lower | (~upper & (y < line)), arch * bump(y, line - 0.3, 0.9), 0.0)
        self.red = (lower | upper).astype(float) * arch

    def pose(self, articulation: np.ndarray, eyes: np.ndarray) -> np.ndarray:
        """The control mesh of one frame.

        Args:
          articulation: `[5]`: open 0..1, wide -1..1, pout 0..1, press 0..1 (lips pressed together), tuck 0..1 (lower
            lip under the upper teeth), as in `voice.ARTICULATORS`.
          eyes: `[2]`, openness 0..1 of the right and the left eye.

        Returns:
          `[468, 3]` cm.
        """
        _, wide, pout, press, tuck = (float(a) for a in articulation)
        opening = jaw_opening(articulation)
        v = self.rest.copy()
        side = np.sign(v[:, 0])
        v[:, 1] += -JAW_DROP * opening * self.jaw + 0.22 * opening * self.raise_upper
        v[:, 2] -= 0.45 * opening * self.jaw
        v[:, 0] += side * self.near_corners * (0.55 * wide - 0.15 * opening)
        v[:, 1] += self.near_corners * 0.12 * max(wide, 0.0)
        v[:, 2] -= self.near_corners * 0.25 * wide
        v[:, 0] -= v[:, 0] * self.near_lips * 0.34 * pout
        v[:, 2] += 0.75 * pout * self.near_lips
        # Pressed lips roll inwards and become thinner.
        v[:, 1] -= press * self.red * 0.35 * (self.rest[:, 1] - self.lip_line)
        v[:, 2] -= press * self.red * 0.18
        v[:, 1] += tuck * self.lower_lip * 0.28
        v[:, 2] -= tuck * self.lower_lip * 0.45
        # The lower lip must not pass through the upper one.
        upper, lower = v[INNER_LIP_UPPER, 1], v[INNER_LIP_LOWER, 1]
        v[INNER_LIP_LOWER, 1] = np.minimum(upper, lower)
        self._close_lids(v, eyes)
        return v

    def _close_lids(self, v: np.ndarray, eyes: np.ndarray) -> None:
        """Moves the lids, in place: the upper one slides over the eyeball to the lower one, which rises a little."""
        sides = (
            (RIGHT_EYE_UPPER, RIGHT_EYE_LOWER, RIGHT_LID_CREASE),
            (LEFT_EYE_UPPER, LEFT_EYE_LOWER, LEFT_LID_CREASE),
        )
        for (upper, lower, crease), eyeball, openness in zip(sides, self.eyeballs, eyes, strict=True):
            shut = 1.0 - float(np.clip(openness, 0.0, 1.0))
            up, low = self.rest[upper[1:-1]], self.rest[lower[1:-1]]
            meeting = low + 0.22 * (up - low)
            v[upper[1:-1]] = push_out(up + shut * (meeting - up), eyeball, 1.05)
            v[lower[1:-1]] = push_out(low + shut * (meeting - low), eyeball, 1.05)
            moved = v[upper[1:-1]] - up
            v[crease] = push_out(self.rest[crease] + 0.5 * moved, eyeball, 1.1)


def jaw_opening(articulation: np.ndarray) -> float:
    """Opening of the jaw as a share of `JAW_DROP`, 0..1. The power makes small openings visible, as lips part early."""
    return float(articulation[0]) ** 0.7 * (1.0 - float(articulation[3]))


def push_out(points: np.ndarray, eyeball: Eyeball, clearance: float) -> np.ndarray:
    """Moves `points` [N, 3] along z to at least `clearance` radii from the eyeball's centre."""
    offset = points - eyeball.centre
    room = (clearance * eyeball.radius) ** 2 - (offset[:, :2] ** 2).sum(-1)
    forward = np.maximum(offset[:, 2], np.sqrt(np.maximum(room, 0.0)))
    return np.column_stack([points[:, :2], eyeball.centre[2] + forward])


def mouth_opening(vertices: np.ndarray) -> float:
    """Gap of the inner lips over the distance of the outer eye corners, in 3-D, of `vertices` [>= 468, 3]."""
    pairs = np.asarray(GAP_PAIRS)
    gap = np.linalg.norm(vertices[pairs[:, 0]] - vertices[pairs[:, 1]], axis=-1).mean()
    return float(gap / np.linalg.norm(vertices[EYE_CORNERS[0]] - vertices[EYE_CORNERS[1]]))
