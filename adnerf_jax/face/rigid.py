"""Pinhole camera and rigid head poses, shared by tracking and bundle adjustment."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation


class Pinhole(NamedTuple):
    """A camera that looks along −z with y up; pixels have x right and y down.

    Attributes:
      focal, cx, cy: intrinsics in pixels.
    """

    focal: float
    cx: float
    cy: float

    def project(self, x: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of points [..., 3] in front of the camera (z < 0)."""
        return np.stack(
            [self.cx - self.focal * x[..., 0] / x[..., 2], self.cy + self.focal * x[..., 1] / x[..., 2]], -1
        )

    def derivative(self, x: np.ndarray) -> np.ndarray:
        """The Jacobian d pixels / d point [..., 2, 3] at points [..., 3]."""
        zero = np.zeros_like(x[..., 0])
        u = np.stack([-1 / x[..., 2], zero, x[..., 0] / x[..., 2] ** 2], -1)
        v = np.stack([zero, 1 / x[..., 2], -x[..., 1] / x[..., 2] ** 2], -1)
        return self.focal * np.stack([u, v], -2)

    def unproject(self, pixels: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The points [..., 3] at pixels [..., 2] with z [...]."""
        x = -(pixels[..., 0] - self.cx) / self.focal * z
        y = (pixels[..., 1] - self.cy) / self.focal * z
        return np.stack([x, y, z], -1)


class Poses(NamedTuple):
    """Head-to-camera transforms of N frames.

    Attributes:
      rotation: [N, 3, 3].
      translation: [N, 3] cm.
    """

    rotation: np.ndarray
    translation: np.ndarray

    def move(self, points: np.ndarray) -> np.ndarray:
        """Transforms points [V, 3] from the head's frame to the camera's: [N, V, 3]."""
        return np.einsum("nij,vj->nvi", self.rotation, points) + self.translation[:, None]

    def take(self, rows: np.ndarray | slice) -> "Poses":
        """The poses of some frames."""
        return Poses(self.rotation[rows], self.translation[rows])

    def stepped(self, step: np.ndarray) -> "Poses":
        """Updated by steps [N, 6]: a rotation vector about the head's origin, and a translation in cm."""
        return Poses(Rotation.from_rotvec(step[:, :3]).as_matrix() @ self.rotation, self.translation + step[:, 3:])


def cross_matrix(v: np.ndarray) -> np.ndarray:
    """The matrices [..., 3, 3] of the cross products v × of vectors [..., 3]."""
    x, y, z = np.moveaxis(v, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*v.shape, 3)


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least-squares similarity transforms from points [V, 3] to points [N, V, 3], in closed form (Umeyama 1991).

    Returns:
      rotation [N, 3, 3] and scale [N].
    """
    source = source - source.mean(0)
    target = target - target.mean(1, keepdims=True)
    u, s, vt = np.linalg.svd(np.einsum("nvi,vj->nij", target, source))
    signs = np.ones_like(s)
    signs[:, 2] = np.linalg.det(u @ vt)
    return u @ (signs[..., None] * vt), (s * signs).sum(-1) / (source**2).sum()
