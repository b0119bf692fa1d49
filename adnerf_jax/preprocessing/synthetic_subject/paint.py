"""Procedural textures of the built-in subject: skin, hair, eyes, teeth, shirt, and the wall behind.

Pictures are float32 RGB, 0..255.
"""

import cv2
import numpy as np
import numpy.typing as npt

SKIN = np.array([219, 168, 140], np.float32)
LIP = np.array([186, 96, 92], np.float32)
HAIR = np.array([74, 50, 34], np.float32)
LASH = np.array([48, 32, 26], np.float32)
_FINE = 4  # fractional bits of OpenCV's polygon coordinates


def noise(height: int, width: int, cell: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise `[height, width]` of about unit variance with features of `cell` pixels."""
    grid = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 1.3


def blend(picture: np.ndarray, colour: npt.ArrayLike, mask: np.ndarray) -> None:
    """Composites `colour` [3] or [H, W, 3] over `picture`, in place, with the alpha `mask` [H, W] (0..1)."""
    rows, columns = np.flatnonzero((mask > 1e-3).any(1)), np.flatnonzero((mask > 1e-3).any(0))
    if not len(rows):
        return
    where = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    colour = np.asarray(colour, np.float32)
    part = picture[where]
    part += ((colour[where] if colour.ndim == 3 else colour) - part) * mask[where][..., None]


def polygon_mask(shape: tuple[int, int], points: np.ndarray, blur: float) -> np.ndarray:
    """Mask `[H, W]`, 0..1, of the polygon `points` [N, 2] px, with borders softened over `blur` pixels."""
    mask = np.zeros(shape, np.float32)
    cv2.fillPoly(mask, [np.round(points * 2**_FINE).astype(np.int32)], 1.0, cv2.LINE_8, _FINE)
    return cv2.GaussianBlur(mask, (0, 0), blur)


def line_mask(shape: tuple[int, int], points: np.ndarray, width: float, blur: float) -> np.ndarray:
    """Mask `[H, W]`, 0..1, of the open line through `points` [N, 2], with width and blur in pixels."""
    mask = np.zeros(shape, np.float32)
    fixed = np.round(points * 2**_FINE).astype(np.int32)
    cv2.polylines(mask, [fixed], False, 1.0, max(1, round(width)), cv2.LINE_8, _FINE)
    return cv2.GaussianBlur(mask, (0, 0), blur)


def spot_mask(shape: tuple[int, int], centre: np.ndarray, radii: tuple[float, float]) -> np.ndarray:
    """Mask `[H, W]`: a Gaussian of height 1 with `radii` in x and y in pixels."""
    down, across = (np.exp(-(((np.arange(shape[i]) - centre[1 - i]) / radii[1 - i]) ** 2)) for i in range(2))
    return np.outer(down, across).astype(np.float32)


def skin(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Skin with blotches, pores and freckles: texture for optical flow and the radiance field."""
    picture = np.tile(SKIN, (height, width, 1))
    picture += noise(height, width, 60, rng)[..., None] * [5, 4, 4]
    picture += noise(height, width, 18, rng)[..., None] * [4, 4.5, 4]
    picture += noise(height, width, 4, rng)[..., None] * [3, 3.5, 3.5]
    freckles = np.zeros((height, width), np.float32)
    for x, y, r in zip(
        rng.uniform(0, width, 1500), rng.uniform(0, height, 1500), rng.uniform(0.8, 2.2, 1500), strict=True
    ):
        centre = (round(x * 16), round(y * 16))
        cv2.circle(freckles, centre, round(r * 16), float(rng.uniform(0.15, 0.5)), -1, cv2.LINE_8, 4)
    blend(picture, SKIN * [0.72, 0.6, 0.55], cv2.GaussianBlur(freckles, (0, 0), 0.9))
    return picture.astype(np.float32)


def strands(picture: np.ndarray, mask: np.ndarray, centre: np.ndarray, rng: np.random.Generator) -> None:
    """Paints hair into `picture` where `mask` is set: strands that run away from `centre` (px) and bend sideways."""
    height, width = mask.shape
    hair = np.tile(HAIR, (height, width, 1)) + noise(height, width, 25, rng)[..., None] * [7, 5, 4]
    count = 7000
    start = np.stack([rng.uniform(0, width, count), rng.uniform(0, height, count)], -1)
    for point, shade in zip(start, rng.normal(0.0, 1.0, count), strict=True):
        outward = point - centre
        outward = outward / max(np.linalg.norm(outward), 1.0)
        sweep = np.array([-outward[1], outward[0]]) * (0.55 + 0.25 * np.sin(point[0] / 90))
        step = (outward + sweep) * rng.uniform(8, 13)
        bend = np.array([-step[1], step[0]]) * rng.normal(0, 0.12)
        line = point + np.outer(np.arange(4), step) + np.outer(np.arange(4) ** 2, bend) / 3
        colour = np.clip(HAIR * (1.0 + 0.42 * shade) + [4, 2, 0], 8, 190).tolist()
        fixed = np.round(line * 2**_FINE).astype(np.int32)
        cv2.polylines(hair, [fixed], False, colour, int(rng.integers(1, 3)), cv2.LINE_8, _FINE)
    hair = cv2.GaussianBlur(hair.astype(np.float32), (0, 0), 0.8)
    # Single hairs form the hairline: the mask is roughened at their scale before it is thresholded.
    rough = mask + 0.16 * noise(height, width, 5, rng) * (mask > 0.05) * (mask < 0.98)
    blend(picture, hair, np.clip((cv2.GaussianBlur(rough, (0, 0), 0.8) - 0.3) / 0.4, 0, 1))


def brow(picture: np.ndarray, upper: np.ndarray, lower: np.ndarray, rng: np.random.Generator) -> None:
    """Paints an eyebrow between two lines `[5, 2]` px that run from the temple to the nose."""
    shape = picture.shape[:2]
    blend(picture, HAIR * 0.9, 0.5 * polygon_mask(shape, np.concatenate([upper, lower[::-1]]), 2.0))
    towards_temple = (upper[0] - upper[-1]) / np.linalg.norm(upper[0] - upper[-1])
    hairs = np.zeros(shape, np.float32)
    for along, across in zip(rng.uniform(0, 4, 260), rng.uniform(0.0, 1.0, 260), strict=True):
        i = min(int(along), 3)
        top = upper[i] + (along - i) * (upper[i + 1] - upper[i])
        bottom = lower[i] + (along - i) * (lower[i + 1] - lower[i])
        root = bottom + across * (top - bottom)
        tip = root + towards_temple * rng.uniform(5, 9) + (top - bottom) * (0.35 - 0.3 * across)
        fixed = np.round(np.stack([root, tip]) * 2**_FINE).astype(np.int32)
        cv2.polylines(hairs, [fixed], False, float(rng.uniform(0.5, 0.95)), 1, cv2.LINE_8, _FINE)
    blend(picture, HAIR * 0.7, cv2.GaussianBlur(hairs, (0, 0), 0.7))


def eye(size: int, rng: np.random.Generator) -> np.ndarray:
    """An eyeball seen along its axis, with iris, pupil and a highlight; the picture spans ±0.97 radii."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 1.94 - 0.97
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    picture = np.tile(np.array([236, 230, 226], np.float32), (size, size, 1))
    picture += noise(size, size, size / 12, rng)[..., None] * [1, 3, 3]
    blend(picture, [205, 150, 140], 0.55 * np.clip((np.abs(x) - 0.62) / 0.3, 0, 1))
    fibres = 0.5 + 0.28 * np.sin(angle * 23 + 3 * np.sin(angle * 5)) + 0.25 * np.sin(angle * 41 + 1.0)
    iris = np.array([58, 88, 84], np.float32) * (0.72 + 0.5 * fibres[..., None])
    iris *= (0.75 + 0.9 * np.clip(radius / 0.4, 0, 1) * (radius < 0.36))[..., None]
    soft = 2.0 / size
    blend(picture, iris, np.clip((0.41 - radius) / soft, 0, 1))
    blend(picture, [30, 36, 36], np.exp(-(((radius - 0.4) / 0.035) ** 2)))
    blend(picture, [10, 9, 10], np.clip((0.18 - radius) / soft, 0, 1))
    blend(picture, [255, 255, 255], 0.95 * np.clip((0.085 - np.hypot(x + 0.13, y + 0.17)) / soft, 0, 1))
    # The shadow of the upper lid.
    return (picture * (1.0 - 0.4 * np.clip((-y - 0.05) / 0.6, 0, 1))[..., None]).astype(np.float32)


def teeth(width: int, height: int) -> np.ndarray:
    """A row of teeth that darkens towards the corners of the mouth and between the teeth."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5)[:, None] / height
    # Front teeth are the widest.
    phase = np.abs(x) ** 0.85 * 4.2
    between = np.exp(-(((phase - np.round(phase)) / 0.07) ** 2)) * (0.25 + 0.5 * y**2)
    shade = (1.0 - 0.65 * np.abs(x) ** 2.2) * (0.8 + 0.2 * y) * (1.0 - 0.35 * between)
    gum = np.clip((0.28 + 0.05 * np.cos(2 * np.pi * phase) - y) / 0.06, 0, 1)
    picture = np.array([206, 198, 184], np.float32) * shade[..., None]
    blend(picture, [150, 70, 70], gum * np.ones_like(shade))
    return picture.astype(np.float32)


def mouth_inside(size: int) -> np.ndarray:
    """The cavity of the mouth with a tongue: u is the angle, from the picture's right over the top, and v the depth."""
    angle = (np.arange(size) + 0.5) / size * 2 * np.pi
    depth = (np.arange(size)[:, None] + 0.5) / size
    tongue = np.clip(-np.sin(angle) - 0.25, 0, 1) * np.exp(-(((depth - 0.35) / 0.3) ** 2))
    picture = np.tile(np.array([92, 34, 34], np.float32), (size, size, 1)) * (1.0 - 0.8 * depth[..., None])
    blend(picture, [176, 92, 92], tongue)
    return picture.astype(np.float32)


def ear(size: int, rng: np.random.Generator) -> np.ndarray:
    """Skin that darkens in the bowl of the ear and is reddish along the rim."""
    picture = skin(size, size, rng)
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    radius = np.hypot(x, y)
    blend(picture, SKIN * [0.98, 0.82, 0.8], 0.8 * np.exp(-(((radius - 0.95) / 0.2) ** 2)))
    blend(picture, SKIN * [0.55, 0.45, 0.42], 0.75 * np.exp(-(((radius - 0.68) / 0.1) ** 2)) * (y < 0.4))
    blend(picture, SKIN * [0.45, 0.36, 0.34], 0.9 * np.exp(-(((x + 0.2) / 0.3) ** 2) - ((y - 0.15) / 0.42) ** 2))
    return picture.astype(np.float32)


def neck(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Skin with the shadow of the jaw at the top and a crease."""
    picture = skin(height, width, rng) * [0.93, 0.9, 0.89]
    y = (np.arange(height) + 0.5) / height
    shadow = np.clip((0.62 - y) / 0.5, 0, 1)[:, None] + 0 * picture[..., 0]
    blend(picture, SKIN * [0.5, 0.4, 0.36], 0.7 * shadow)
    bend = 0.66 + 0.03 * np.cos(np.linspace(-3, 3, width))
    blend(picture, SKIN * [0.7, 0.58, 0.54], 0.25 * np.exp(-(((y[:, None] - bend) / 0.012) ** 2)))
    return picture.astype(np.float32)


def shirt(width: int, height: int, collar: int, rng: np.random.Generator) -> np.ndarray:
    """A checked, woven shirt; the first `collar` rows are a plain ribbed band."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    picture = np.tile(np.array([46, 74, 118], np.float32), (height, width, 1))

    def stripe(coordinate: np.ndarray, period: float, part: float) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-25 * (np.cos(2 * np.pi * coordinate / period) - np.cos(np.pi * part))))

    blend(picture, [28, 44, 84], 0.6 * stripe(x, 46, 0.45))
    blend(picture, [28, 44, 84], 0.6 * stripe(y, 46, 0.45))
    blend(picture, [150, 164, 190], 0.6 * stripe(x + 23, 46, 0.1))
    blend(picture, [150, 164, 190], 0.5 * stripe(y + 23, 46, 0.08))
    blend(picture, [176, 66, 52], 0.7 * stripe(x + 11, 92, 0.05))
    picture *= (1.0 + 0.05 * np.sin(x * 1.9) * np.sin(y * 1.9) + 0.06 * noise(height, width, 30, rng))[..., None]
    picture += noise(height, width, 3, rng)[..., None] * 4
    band = np.array([36, 54, 92], np.float32) * (0.9 + 0.2 * np.sin(x[:collar] * 1.2))[..., None]
    picture[:collar] = band * np.linspace(0.7, 1.0, collar)[:, None, None]
    picture[collar : collar + 3] *= 0.6
    return picture.astype(np.float32)


def wall(size: int, rng: np.random.Generator) -> np.ndarray:
    """The background `[size, size, 3]`: wallpaper, a window frame and blurred lights; painted at 512 px and resized."""
    side = 512
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    picture = np.array([118, 142, 138], np.float32) + (1 - y)[..., None] * [26, 24, 16]
    picture += noise(side, side, 90, rng)[..., None] * [12, 10, 9]
    leaf = np.sin(2 * np.pi * (x * 14 + 0.25 * np.sin(2 * np.pi * y * 7))) * np.sin(2 * np.pi * y * 14)
    picture += (12 * np.tanh(3 * leaf))[..., None] * [0.8, 1, 1]
    for _ in range(22):
        at, colour = rng.uniform(0, side, 2), rng.uniform([150, 120, 60], [240, 210, 170])
        blend(picture, colour, 0.35 * spot_mask((side, side), at, (rng.uniform(12, 34),) * 2))
    for centre, across in ((0.14, x), (0.86, x), (0.52, y)):
        blend(picture, [204, 206, 198], 0.8 * np.clip((0.019 - np.abs(across - centre)) / 0.006, 0, 1))
        blend(picture, [60, 72, 74], 0.5 * np.exp(-(((across - centre - 0.026) / 0.007) ** 2)))
    picture += noise(side, side, 3, rng)[..., None] * 3
    interpolation = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
    return np.clip(cv2.resize(picture.astype(np.float32), (size, size), interpolation=interpolation), 0, 255)


def head(
    side: int,
    landmarks: np.ndarray,
    hair: np.ndarray,
    crown: np.ndarray,
    parts: dict[str, list],
    rng: np.random.Generator,
) -> np.ndarray:
    """The chart of the head: the face in the middle, the scalp around it.

    Args:
      side: side of the square picture in pixels.
      landmarks: `[468, 2]` px, the mesh's vertices in the chart.
      hair: `[side, side]`, 0..1, mask of the hair.
      crown: `[2]` px, the point that the hair runs away from.
      parts: vertex indices of the closed outlines "lips_outer" and "lips_upper", of the lines "lips_inner_upper" and
        "lips_inner_lower", and for the right and the left eye (*), from the outer corner, of the upper lid "lid_*", the
        lower lid "under_*", the crease "crease_*" and the eyebrow "brow_*" [2, 5].
      rng: source of the texture's noise.
    """
    shape = (side, side)
    picture = skin(side, side, rng)
    at = landmarks.__getitem__
    unit = float(np.linalg.norm(at(33) - at(263))) / 9.0  # about a centimetre

    def spot(index: int, shift: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        return spot_mask(shape, at(index) + np.multiply(shift, unit), (radii[0] * unit, radii[1] * unit))

    for cheek in (50, 280):
        blend(picture, SKIN * [1.02, 0.78, 0.76], 0.5 * spot(cheek, (0, 0.3), (1.7, 1.4)))
    blend(picture, SKIN * [1.0, 0.8, 0.77], 0.4 * spot(1, (0, -0.2), (1.2, 1.0)))
    for socket in (27, 257):
        blend(picture, SKIN * [0.68, 0.54, 0.52], 0.42 * spot(socket, (0, 0.1), (1.7, 0.6)))
    for bag in (23, 253):
        blend(picture, SKIN * [0.74, 0.6, 0.6], 0.35 * spot(bag, (0, 0.45), (1.5, 0.45)))
    for corner, inner in ((193, 0.3), (417, -0.3)):
        blend(picture, SKIN * [0.68, 0.54, 0.5], 0.35 * spot(corner, (-inner, 0.3), (0.5, 0.9)))
    # The folds from the nose to the corners of the mouth, and the shadow under the lower lip.
    for fold in ([129, 203, 206, 216], [358, 423, 426, 436]):
        blend(picture, SKIN * [0.7, 0.56, 0.52], 0.5 * line_mask(shape, at(fold), 0.25 * unit, 0.2 * unit))
    blend(picture, SKIN * [0.66, 0.52, 0.48], 0.45 * spot(18, (0, -0.1), (1.5, 0.35)))
    blend(picture, SKIN * [0.72, 0.58, 0.55], 0.5 * spot(2, (0, 0.2), (1.1, 0.3)))
    for wing in ([64, 102, 49], [294, 331, 279]):
        blend(picture, SKIN * [0.6, 0.46, 0.42], 0.6 * line_mask(shape, at(wing), 0.12 * unit, 0.1 * unit))
    for nostril in ([60, 75, 59, 166], [290, 305, 289, 392]):
        centre = at(nostril).mean(0) + [0, 0.12 * unit]
        blend(picture, [58, 28, 24], 0.9 * spot_mask(shape, centre, (0.42 * unit, 0.24 * unit)))
    lips = polygon_mask(shape, at(parts["lips_outer"]), 0.09 * unit)
    streaks = noise(side, side, 5, rng)
    blend(picture, LIP + streaks[..., None] * [6, 6, 5], 0.92 * lips)
    blend(picture, LIP * [1.1, 1.12, 1.12], 0.8 * polygon_mask(shape, at(parts["lips_upper"]), 0.05 * unit))
    blend(picture, [232, 160, 152], 0.35 * spot(16, (0, 0.0), (0.8, 0.2)))
    for edge in ("lips_inner_upper", "lips_inner_lower"):
        blend(picture, [120, 52, 50], 0.6 * line_mask(shape, at(parts[edge]), 0.05 * unit, 0.04 * unit))
    for name in ("right", "left"):
        lid, under = at(parts[f"lid_{name}"]), at(parts[f"under_{name}"])
        blend(picture, SKIN * [0.86, 0.7, 0.68], 0.5 * line_mask(shape, under, 0.12 * unit, 0.08 * unit))
        blend(picture, LASH, 0.55 * line_mask(shape, under[2:-2], 0.05 * unit, 0.05 * unit))
        wing = lid[0] + 0.16 * (lid[0] - lid[2]) + [0, -0.05 * unit]
        lashes = np.concatenate([[wing], lid[:-1]])
        blend(picture, LASH, 0.95 * line_mask(shape, lashes, 0.2 * unit, 0.06 * unit))
        crease = at(parts[f"crease_{name}"])
        blend(picture, SKIN * [0.58, 0.45, 0.42], 0.6 * line_mask(shape, crease, 0.08 * unit, 0.08 * unit))
        upper, lower = at(parts[f"brow_{name}"])
        brow(picture, upper, lower, rng)
    strands(picture, hair, crown, rng)
    return np.clip(picture, 0, 255)
