"""Landmarks of an upright oval face, for the tests of the person's parts."""

import numpy as np

from adnerf_jax.face.jaw import CHIN, FOREHEAD, JAW


def oval_landmarks(centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Landmarks [478, 2] px, all on an ellipse: the chin at its bottom, the forehead at its top, the jaw's in order."""
    x, y = centre

    def place(angles: np.ndarray) -> np.ndarray:
        return np.stack([x + radii[0] * np.cos(angles), y + radii[1] * np.sin(angles)], -1)

    points = place(np.linspace(0, 2 * np.pi, 478, endpoint=False))
    points[JAW] = place(np.radians(np.linspace(160, 20, len(JAW))))
    points[CHIN], points[FOREHEAD] = (x, y + radii[1]), (x, y - radii[1])
    return points
