"""Where a pixel lies relative to the chin and the jaw line of the landmarks."""

import numpy as np

CHIN, FOREHEAD = 152, 10
# From one jaw angle to the other.
JAW = [58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288]


def face_coordinates(pixels: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heights above the chin, and signed distances to its side, in heights of the face (from chin to forehead).

    Args:
      pixels: [..., 2] (x, y).
      points: [478, 2] px, landmarks.

    Returns:
      two arrays [...].
    """
    axis = points[FOREHEAD] - points[CHIN]
    axis = axis / (axis @ axis)
    relative = pixels - points[CHIN]
    return relative @ axis, relative @ np.array([-axis[1], axis[0]])


def pixel_coordinates(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """`face_coordinates` [H, W] of all pixels of a frame."""
    pixels = np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), -1)
    return face_coordinates(pixels, points.astype(np.float32))


def jaw_line(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The jaw line in face coordinates: distances to the side in ascending order, and the heights there."""
    up, aside = face_coordinates(points[JAW], points)
    order = np.argsort(aside)
    return aside[order], up[order]
