"""The built-in subject's body: one textured mesh of head, hair, ears, eyes, mouth, neck and shoulders.

Everything behind the face is procedural and extends the border of the face mesh. Units and axes are those of `face.py`.
"""

import dataclasses

import numpy as np

from adnerf_jax.preprocessing.synthetic_subject import paint
from adnerf_jax.preprocessing.synthetic_subject.face import (
    INNER_LIP_LOWER,
    INNER_LIP_UPPER,
    JAW_DROP,
    LEFT_BROW,
    LEFT_EYE_LOWER,
    LEFT_EYE_UPPER,
    LEFT_LID_CREASE,
    OUTER_LIP_LOWER,
    OUTER_LIP_UPPER,
    RIGHT_BROW,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_UPPER,
    RIGHT_LID_CREASE,
    Eyeball,
    Face,
    bump,
    jaw_opening,
    smoothstep,
)
from adnerf_jax.preprocessing.synthetic_subject.raster import rims, subdivide

# The chart is the unwrapped head, the face in the middle and the scalp around it.
CHART_SIDE = 1040  # px
CHART_SCALE = 20.0  # px per cm
CHART_CENTRE = np.array([0.0, 0.5])  # cm, between the eyes and the mouth
SKULL_CENTRE = np.array([0.0, 1.4, -3.2])

# The hairline: distance in cm outwards from the face mesh's border (negative: on the forehead) by the angle in the
# chart in degrees (0: the person's left side, 90: up). It is symmetric.
HAIRLINE_ANGLE = [-90, -60, -32, -20, -12, -6, 2, 12, 22, 35, 48, 60, 75, 90]
HAIRLINE_OFFSET = [16, 11, 6.5, 5.2, 3.6, 0.9, 0.5, 0.6, 0.5, 0.1, -0.25, -0.5, -0.7, -0.75]


@dataclasses.dataclass(frozen=True)
class Motion:
    """The rigid transform x -> rotation @ x + translation of head or shoulders into the camera's frame (cm)."""

    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points @ self.rotation.T + self.translation


class _Atlas:
    """Texture atlas: the head's chart on the left, the other pictures stacked beside it."""

    def __init__(self, height: int, width: int):
        self.sheet = np.zeros((height, width, 3), np.float32)
        self._x, self._y = 0, 0

    def add(self, picture: np.ndarray, new_column: bool = False) -> np.ndarray:
        """Places `picture` and returns the coordinates `[2]` of its first pixel."""
        if new_column:
            self._x, self._y = CHART_SIDE + 8, 0
        height, width = picture.shape[:2]
        # A margin of repeated pixels keeps bilinear interpolation within the picture.
        place = self.sheet[self._y : self._y + height + 4, self._x : self._x + width + 4]
        place[:] = np.pad(picture, ((2, 2), (2, 2), (0, 0)), "edge")
        corner = np.array([self._x + 2.0, self._y + 2.0])
        self._y += height + 8
        return corner


def grid(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles over a `rows` x `columns` grid of vertices (row-major); `closed` joins the last column to the first.

    Seen from the front, columns run to the right and rows run down.
    """
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    after = (column + 1) % columns
    a, b = row * columns + column, row * columns + after
    c, d = a + columns, b + columns
    return np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], -2).reshape(-1, 3)


def loft(loop: np.ndarray, first: int, rings: int) -> np.ndarray:
    """Triangles that extend a mesh from its border `loop` (an element of `rims`) by `rings` rings.

    The rings' vertices are numbered from `first`, each ring in the loop's order.
    """
    count = len(loop)
    index = np.concatenate([loop, first + np.arange(rings * count)]).reshape(rings + 1, count)
    a, b = index[:-1], np.roll(index[:-1], -1, axis=1)
    c, d = index[1:], np.roll(index[1:], -1, axis=1)
    return np.stack([np.stack([b, a, c], -1), np.stack([b, c, d], -1)], -2).reshape(-1, 3)


class Figure:
    """The subject: a mesh of fixed topology and texture, with vertices as a function of pose and expression.

    Attributes:
      triangles: `[T, 3]`, counter-clockwise from outside.
      is_torso: bool `[T]`, triangles of the neck and the shirt; the others belong to the head.
      texture: `[H, W, 3]` float32 RGB 0..255.
      coordinates: `[V, 2]`, texture coordinates in pixels.
      gloss: `[V]`, strength of the specular highlight.
      face: the control mesh; the first 468 vertices of the figure are its landmarks.
    """

    def __init__(self, canonical: np.ndarray, triangles: np.ndarray, seed: int = 0):
        """Builds the mesh and paints its texture.

        Args:
          canonical, triangles: mesh of the landmark network, `[468, 3]` cm and `[898, 3]`.
          seed: seed of the texture.
        """
        self._rng = np.random.default_rng(seed)
        self.face = Face(canonical, triangles)
        self._subdivision, self._skin_triangles = subdivide(self.face.triangles, len(canonical))
        self._atlas = _Atlas(1300, CHART_SIDE + 560)
        self._count = 0
        self._parts: list[tuple[np.ndarray, np.ndarray, float, bool]] = []  # arguments of `_add`
        self._build_head()
        self._build_eyes()
        self._build_mouth()
        self._build_ears()
        self._build_neck()
        self._build_shirt()
        self.triangles = np.concatenate([p[0] for p in self._parts])
        self.coordinates = np.concatenate([p[1] for p in self._parts]).astype(np.float32)
        self.gloss = np.concatenate([np.full(len(p[1]), p[2], np.float32) for p in self._parts])
        self.is_torso = np.concatenate([np.full(len(p[0]), p[3]) for p in self._parts])
        self.texture = np.clip(self._atlas.sheet, 0, 255)

    def _add(self, triangles: np.ndarray, coordinates: np.ndarray, gloss: float, torso: bool = False) -> None:
        self._parts.append((triangles + self._count, coordinates, gloss, torso))
        self._count += len(coordinates)

    def landmarks(self, articulation: np.ndarray, eyes: np.ndarray) -> np.ndarray:
        """Points `[468, 3]` cm of the visible surface in the head's frame, in the order of the landmarks."""
        return self._subdivision[:468] @ self.face.pose(articulation, eyes)

    def vertices(self, head: Motion, torso: Motion, articulation: np.ndarray, eyes: np.ndarray) -> np.ndarray:
        """All vertices in the camera's frame, `[V, 3]` cm.

        Args:
          head, torso: poses of head and shoulders.
          articulation, eyes: arguments of `face.Face.pose`.
        """
        skin = self._subdivision @ self.face.pose(articulation, eyes)
        drop = JAW_DROP * jaw_opening(articulation)
        on_head = [skin + self._hair_lift[: len(skin)], self._scalp(skin)]
        on_head += [*self._eye_caps, *(self._cavity(skin, r, np.zeros(3), 0.7) for r in self._eye_rims)]
        on_head += [self._upper_teeth, self._lower_teeth + [0, -0.92 * drop, -0.4 * drop / JAW_DROP]]
        on_head += [self._cavity(skin, self._mouth_rim, np.array([0, -0.35 * drop, 0]), 3.4), *self._ears]
        neck = self._neck_follow * head(self._neck) + (1.0 - self._neck_follow) * torso(self._neck)
        return np.concatenate([head(np.concatenate(on_head)), neck, torso(self._shirt)])

    # Head: the face, extended from its border over a skull; hair is the same surface, displaced and painted.

    def _build_head(self) -> None:
        rest = self._subdivision @ self.face.pose(np.zeros(5), np.ones(2))
        loops = rims(self._skin_triangles)
        self._border, holes = loops[0], loops[1:]
        self._mouth_rim = max(holes, key=lambda loop: np.isin(13, loop))
        self._eye_rims = [next(h for h in holes if i in h) for i in (159, 386)]
        rings = 18
        scalp, lengths = self._skull(rest[self._border], rings)
        self._scalp_rest, self._border_rest = scalp, rest[self._border]
        self._scalp_follow = np.linspace(1, 0, rings + 1)[1:, None, None] ** 2

        chart = np.column_stack([9.0 * np.arctan2(rest[:, 0], rest[:, 2] + 5.0), rest[:, 1]])
        outward = chart[self._border] - CHART_CENTRE
        reach = np.linalg.norm(outward, axis=-1)
        outward /= reach[:, None]
        ring_chart = chart[self._border] + 0.78 * lengths[..., None] * outward
        chart = np.concatenate([chart, ring_chart.reshape(-1, 2)])

        order = np.argsort(np.arctan2(outward[:, 1], outward[:, 0]))
        self._border_angle = np.degrees(np.arctan2(outward[:, 1], outward[:, 0]))[order]
        self._border_reach = reach[order]
        positions = np.concatenate([rest, scalp.reshape(-1, 3)])
        depth = self._inside_hairline(chart)
        away = positions - SKULL_CENTRE
        away /= np.linalg.norm(away, axis=-1, keepdims=True)
        thickness = (0.55 + 0.85 * smoothstep(-0.2, 0.8, away[:, 1])) * smoothstep(-0.1, 1.8, depth)
        # Locks: ridges a few centimetres wide that run backwards.
        angle = np.arctan2(away[:, 1], away[:, 0])
        locks = np.sin(11 * angle + 0.8 * positions[:, 2]) + 0.7 * np.sin(17 * angle - 0.9 * positions[:, 2] + 1)
        thickness *= 1.0 + 0.10 * locks
        # A parting on one side.
        thickness *= 1.0 - 0.35 * bump(positions[:, 0], -3.4, 0.7) * (away[:, 1] > 0.4)
        self._hair_lift = (away * thickness[:, None]).astype(np.float32)

        pixels = (chart - CHART_CENTRE) * [CHART_SCALE, -CHART_SCALE] + CHART_SIDE / 2
        centre = self._atlas.add(self._paint_head(pixels)[2:-2, 2:-2]) - 2.0
        follow = loft(self._border, len(rest), rings)
        self._add(np.concatenate([self._skin_triangles, follow]), pixels + centre, 0.10)

    def _skull(self, border: np.ndarray, rings: int) -> tuple[np.ndarray, np.ndarray]:
        """Rings `[rings, B, 3]` from the face's border `[B, 3]` to the back of the head; arc lengths `[rings, B]`."""
        offset = border - SKULL_CENTRE
        angle = np.arctan2(offset[:, 1], offset[:, 0])
        up = np.sin(angle)
        radius = 7.75 + 1.15 * np.clip(up, 0, 1) ** 2 + 0.5 * np.clip(-up, 0, 1)
        length = np.where(offset[:, 2] > 0, np.maximum(1.2 * offset[:, 2], 8.5), 9.3)
        start = np.arccos(np.clip(offset[:, 2] / length, -0.9, 0.9))
        turn = start + (np.pi - start) * np.linspace(0, 1, rings + 1)[:, None]
        spread = np.sin(turn) * radius
        forward = np.cos(turn) * np.where(np.cos(turn) > 0, length, 9.3)
        rings_at = SKULL_CENTRE + np.stack([spread * np.cos(angle), spread * np.sin(angle), forward], -1)
        rings_at += (border - rings_at[0]) * (1.0 - np.linspace(0, 1, rings + 1)[:, None, None]) ** 2.5
        steps = np.linalg.norm(np.diff(rings_at, axis=0), axis=-1)
        return rings_at[1:], np.cumsum(steps, axis=0)

    def _scalp(self, skin: np.ndarray) -> np.ndarray:
        """The vertices of the skull, which follow the border of the face, with the hair's displacement."""
        moved = self._scalp_rest + self._scalp_follow * (skin[self._border] - self._border_rest)
        return moved.reshape(-1, 3) + self._hair_lift[len(skin) :]

    def _inside_hairline(self, chart: np.ndarray) -> np.ndarray:
        """Distance in cm behind the hairline (negative: bare skin) of points `[..., 2]` in the chart."""
        outward = chart - CHART_CENTRE
        angle = np.degrees(np.arctan2(outward[..., 1], outward[..., 0]))
        border = np.interp(angle, self._border_angle, self._border_reach, period=360)
        from_side = np.where(np.abs(angle) > 90, np.copysign(180, angle) - angle, angle)
        line = np.interp(from_side, HAIRLINE_ANGLE, HAIRLINE_OFFSET)
        return np.linalg.norm(outward, axis=-1) - border - line

    def _paint_head(self, pixels: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[:CHART_SIDE, :CHART_SIDE]
        chart = (np.stack([x, y], -1) - CHART_SIDE / 2) / [CHART_SCALE, -CHART_SCALE] + CHART_CENTRE
        parts: dict[str, list] = {
            "lips_outer": OUTER_LIP_UPPER + OUTER_LIP_LOWER[::-1],
            "lips_upper": OUTER_LIP_UPPER + INNER_LIP_UPPER[::-1],
            "lips_inner_upper": INNER_LIP_UPPER,
            "lips_inner_lower": INNER_LIP_LOWER,
            "lid_right": RIGHT_EYE_UPPER,
            "lid_left": LEFT_EYE_UPPER,
            "under_right": RIGHT_EYE_LOWER,
            "under_left": LEFT_EYE_LOWER,
            "crease_right": RIGHT_LID_CREASE,
            "crease_left": LEFT_LID_CREASE,
            "brow_right": RIGHT_BROW,
            "brow_left": LEFT_BROW,
        }
        hair = smoothstep(-0.45, 0.45, self._inside_hairline(chart)).astype(np.float32)
        crown = np.array([CHART_SIDE / 2 - 70, CHART_SIDE / 2 + 40])
        return paint.head(CHART_SIDE, pixels[:468], hair, crown, parts, self._rng)

    # Eyes and mouth: the geometry behind the holes of the face.

    def _build_eyes(self) -> None:
        corner = self._atlas.add(paint.eye(128, self._rng), new_column=True)
        self._eye_caps = []
        for eyeball in self.face.eyeballs:
            cap, flat = self._eye_cap(eyeball)
            self._eye_caps.append(cap)
            self._add(grid(9, 24, closed=True), corner + 64 + flat * 64 / 0.97, 0.5)
        corner = self._atlas.add(np.tile(np.array([150, 84, 74], np.float32), (8, 8, 1)))
        for rim in self._eye_rims:
            self._add_cavity(rim, np.tile(corner + 4, (len(rim) * 3, 1)))

    @staticmethod
    def _eye_cap(eyeball: Eyeball) -> tuple[np.ndarray, np.ndarray]:
        """Front cap of an eyeball, from the pupil outwards: vertices `[9 * 24, 3]`, and x and y of them in radii."""
        tilt = np.linspace(0.0, np.radians(75), 9)[:, None]
        turn = np.arange(24) / 24 * 2 * np.pi
        flat = np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn)], -1).reshape(-1, 2)
        height = np.sqrt(1.0 - (flat**2).sum(-1))
        return eyeball.centre + eyeball.radius * np.column_stack([flat, height]), flat * [1, -1]

    def _add_cavity(self, rim: np.ndarray, coordinates: np.ndarray) -> None:
        # The vertices of the rim are duplicated so that shading is not smoothed across it.
        self._add(loft(np.arange(len(rim)), len(rim), 2), coordinates, 0.0)

    @staticmethod
    def _cavity(skin: np.ndarray, rim: np.ndarray, shift: np.ndarray, depth: float) -> np.ndarray:
        """A cavity behind a hole, `[3 * R, 3]`: the rim, a ring inside it, and a nearly closed ring at the bottom."""
        edge = skin[rim]
        middle = edge.mean(0)
        behind = np.array([0.0, 0.0, depth])
        wall = middle + 1.05 * (edge - middle) - 0.4 * behind
        bottom = middle + shift + 0.05 * (edge - middle) - behind
        return np.concatenate([edge, wall, bottom])

    def _build_mouth(self) -> None:
        rest = self._subdivision @ self.face.rest
        line, lip = float(rest[13, 1]), float(rest[13, 2])
        across = np.linspace(-1, 1, 17)
        arch = np.column_stack([2.35 * across, 0 * across, lip - 0.75 - 1.6 * across**2])
        rows = np.linspace(0, 1, 4)[:, None, None]
        self._upper_teeth = (arch + [0, line + 0.45, 0] + rows * [0, -0.95, -0.1]).reshape(-1, 3)
        self._lower_teeth = (arch * [0.93, 1, 1] + [0, line - 0.02, -0.25] + rows * [0, -0.9, 0]).reshape(-1, 3)
        picture = paint.teeth(224, 72)
        for image in (picture, picture[::-1] * 0.8):
            corner = self._atlas.add(image)
            u, v = np.meshgrid(np.linspace(0, 223, 17), np.linspace(0, 71, 4))
            self._add(grid(4, 17, closed=False), corner + np.stack([u, v], -1).reshape(-1, 2), 0.25)
        corner = self._atlas.add(paint.mouth_inside(96))
        edge = rest[self._mouth_rim, :2] - rest[self._mouth_rim, :2].mean(0)
        # At rest the lips touch: only the side of the rim tells the upper lip from the lower one.
        upper = np.isin(self._mouth_rim, self._upper_rim())
        angle = np.arccos(np.clip(edge[:, 0] / np.abs(edge[:, 0]).max(), -1, 1)) * np.where(upper, 1, -1)
        u = np.mod(angle / (2 * np.pi), 1.0) * 95
        uv = np.stack([np.tile(u, (3, 1)), np.tile(np.array([[4.0], [45.0], [92.0]]), (1, len(u)))], -1)
        self._add_cavity(self._mouth_rim, corner + uv.reshape(-1, 2))

    def _upper_rim(self) -> np.ndarray:
        """Vertices of the mouth's rim on the upper lip: those that do not drop when the mouth opens."""
        open_mouth = self._subdivision @ self.face.pose(np.array([1.0, 0, 0, 0, 0]), np.ones(2))
        closed = self._subdivision @ self.face.rest
        return self._mouth_rim[open_mouth[self._mouth_rim, 1] > closed[self._mouth_rim, 1] - 0.2]

    # Ears, neck and shirt.

    def _build_ears(self) -> None:
        rest = self._subdivision @ self.face.rest
        corner = self._atlas.add(paint.ear(128, self._rng))
        radius, turn = np.linspace(0, 1, 9)[:, None], np.arange(28) / 28 * 2 * np.pi
        along, up = radius * np.cos(turn), radius * np.sin(turn)
        # Egg-shaped, wider at the top, with a raised rim and a bowl.
        width = 1.55 + 0.3 * up
        height = 3.1
        relief = 0.55 * bump(radius, 0.86, 0.14) - 0.35 * bump(along, -0.15, 0.4) * bump(up, -0.1, 0.5)
        relief = relief - 1.2 * smoothstep(0.93, 1.0, radius + 0 * turn)
        self._ears = []
        for side, anchor in ((-1.0, rest[234]), (1.0, rest[454])):
            backward = np.array([side * np.sin(np.radians(38)), 0.0, -np.cos(np.radians(38))])
            outward = np.array([side * np.cos(np.radians(38)), 0.0, np.sin(np.radians(38))])
            centre = anchor + [side * 0.15, 0.55, -1.0] + 1.2 * backward
            tilted = up * height + 0.12 * height * along
            ear = centre + (along * width)[..., None] * backward + relief[..., None] * outward
            ear[..., 1] += tilted
            self._ears.append(ear.reshape(-1, 3))
            triangles = grid(9, 28, closed=True)
            flat = np.stack([along, -up], -1).reshape(-1, 2)
            self._add(triangles if side > 0 else triangles[:, ::-1], corner + 64 + 62 * flat, 0.08)

    def _build_neck(self) -> None:
        rows, columns = 12, 48
        fall = np.linspace(0, 1, rows)[:, None]
        turn = np.arange(columns) / columns * 2 * np.pi
        width, depth = 5.3 + 0.9 * fall**2, 5.0 + 0.7 * fall**2
        x, z = width * np.sin(turn), -4.3 - 0.6 * fall + depth * np.cos(turn)
        y = -5.5 - 9.5 * fall + 0 * turn
        self._neck = np.stack([x, y, z], -1).reshape(-1, 3)
        self._neck_follow = np.repeat(smoothstep(0.95, 0.1, fall[:, 0]), columns)[:, None]
        corner = self._atlas.add(paint.neck(512, 180, self._rng))
        u, v = np.meshgrid(255.5 + 250 * np.sin(turn), np.linspace(0, 179, rows))
        self._add(grid(rows, columns, closed=True), corner + np.stack([u, v], -1).reshape(-1, 2), 0.06, torso=True)

    def _build_shirt(self) -> None:
        # Half width, half depth, height, drop of the front below it, centre of the depth; cm, from the collar down.
        profile = np.array(
            [
                [5.75, 5.3, -13.6, 1.5, -4.9],
                [6.15, 5.8, -12.5, 1.6, -4.9],
                [6.6, 6.2, -12.7, 1.6, -4.9],
                [8.0, 6.9, -13.5, 1.5, -5.1],
                [10.5, 7.8, -14.3, 1.6, -5.4],
                [14.0, 8.7, -15.3, 1.6, -5.8],
                [17.5, 9.2, -16.5, 1.4, -6.0],
                [20.0, 9.5, -18.2, 1.0, -6.0],
                [21.5, 9.9, -21.0, 0.4, -6.0],
                [22.0, 10.2, -26.0, 0.0, -6.0],
                [22.0, 10.2, -36.0, 0.0, -6.0],
            ]
        )
        at = np.linspace(0, len(profile) - 1, 26)
        width, depth, height, hang, middle = (np.interp(at, np.arange(len(profile)), c)[:, None] for c in profile.T)
        turn = np.arange(64) / 64 * 2 * np.pi
        x, forward = width * np.sin(turn), depth * np.cos(turn)
        y = height - hang * np.clip(np.cos(turn), 0, 1) ** 2
        # Folds of the cloth.
        fold = 0.12 * np.sin(0.9 * x + 0.35 * y) * smoothstep(6.5, 9.0, width)
        self._shirt = np.stack([x, y, middle + forward + fold], -1).reshape(-1, 3)
        step = np.linalg.norm(np.diff(np.stack([x, y, forward], -1)[:, 0], axis=0), axis=-1)
        length = np.concatenate([[0.0], np.cumsum(step)])
        corner = self._atlas.add(paint.shirt(536, 500, 24, self._rng))
        u = 268 + 12.0 * np.clip(x, -22, 22)
        v = np.minimum(12.0 * length, 498.0)[:, None] + 0 * x
        self._add(grid(26, 64, closed=True), corner + np.stack([u, v], -1).reshape(-1, 2), 0.0, torso=True)
