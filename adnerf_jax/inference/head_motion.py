"""Head motion as six numbers: rotations in degrees and translations in centimetres, relative to a pose.

The axes of the head are: x to the viewer's right, y up, z towards the camera. Rotations are right-handed about the
head's origin between the ears: a positive yaw turns the face to the viewer's right, a positive pitch nods, a positive
roll tilts the head to the viewer's left. Translations are along the camera's axes, in centimetres of a face of average
size.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.face.tracking import UNITS_PER_CM

NAMES = ("yaw", "pitch", "roll", "x", "y", "z")
_DEGREES = ("yaw", "pitch", "roll")
_AXES = "YXZ"  # intrinsic Euler angles: about y, then about the rotated x, then about the rotated z
_ROUNDING = 1e-3  # degrees, centimetres: tolerance beyond the range


def apply_motion(transform: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Rotates a head about its origin and translates it.

    Args:
      transform: [4, 4], camera-to-head.
      motion: float [6], yaw, pitch, roll in degrees and x, y, z in centimetres (`NAMES`).

    Returns:
      float32 [4, 4], camera-to-head; `transform` itself for a motion of zeros, so that nothing is rounded.
    """
    if not np.any(motion):
        return transform
    turn = Rotation.from_euler(_AXES, motion[:3], degrees=True).as_matrix()
    result = np.eye(4)
    result[:3, :3] = turn.T @ transform[:3, :3]
    result[:3, 3] = turn.T @ transform[:3, 3] - result[:3, :3] @ (np.asarray(motion[3:]) * UNITS_PER_CM)
    return result.astype(np.float32)


def motion_between(rest: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """The motions [..., 6] that take the pose `rest` [4, 4] to poses [..., 4, 4]: the inverse of `apply_motion`."""
    transforms = np.asarray(transforms, np.float64)
    turned = np.einsum("ij,...kj->...ik", rest[:3, :3].astype(np.float64), transforms[..., :3, :3])
    angles = Rotation.from_matrix(turned.reshape(-1, 3, 3)).as_euler(_AXES, degrees=True)
    shift = (head_position(transforms) - head_position(rest.astype(np.float64))) / UNITS_PER_CM
    return np.concatenate([angles.reshape(*transforms.shape[:-2], 3), shift], axis=-1)


def head_position(transforms: np.ndarray) -> np.ndarray:
    """The head's origin [..., 3] in the camera's space, dataset units, of poses [..., 4, 4]."""
    return -np.einsum("...ji,...j->...i", transforms[..., :3, :3], transforms[..., :3, 3])


def rest_frame(transforms: np.ndarray) -> int:
    """Index of the pose nearest to the median of poses [N, 4, 4]: the rest pose."""
    motions = motion_between(transforms[0], transforms)
    spread = motions.std(0) + 1e-3
    return int((np.square((motions - np.median(motions, axis=0)) / spread).sum(-1)).argmin())


@dataclasses.dataclass(frozen=True)
class MotionRange:
    """The range of head poses that a person was trained on.

    Attributes:
      rest: float32 [4, 4], camera-to-head of the rest pose (`rest_frame`).
      low, high: float64 [6], smallest and largest motion relative to it.
    """

    rest: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, transforms: np.ndarray) -> "MotionRange":
        """The range of training poses [N, 4, 4]."""
        rest = transforms[rest_frame(transforms)]
        motions = motion_between(rest, transforms)
        return cls(rest, motions.min(0), motions.max(0))

    def clamped(self, transform: np.ndarray) -> np.ndarray:
        """The pose [4, 4] with its motion clipped to the range; a pose inside the range is returned as it is."""
        motion = motion_between(self.rest, transform)
        inside = np.clip(motion, self.low - _ROUNDING, self.high + _ROUNDING)
        return transform if (inside == motion).all() else apply_motion(self.rest, np.clip(motion, self.low, self.high))

    def out_of_range(self, transforms: np.ndarray) -> dict[str, tuple[int, float]]:
        """Where poses [N, 4, 4] leave the range.

        Returns:
          for each component of the motion that leaves it, by its name: index of the pose that is farthest outside, and
          the component's value there, in degrees or centimetres.
        """
        motions = motion_between(self.rest, transforms)
        beyond = np.maximum(self.low - motions, motions - self.high)
        rows = beyond.argmax(0)
        return {
            name: (int(rows[k]), float(motions[rows[k], k]))
            for k, name in enumerate(NAMES)
            if beyond[rows[k], k] > _ROUNDING
        }

    def describe(self, name: str) -> str:
        """The range of one component as text: `yaw -14.2 … 15.1°`."""
        k, unit = NAMES.index(name), "°" if name in _DEGREES else " cm"
        return f"{name} {self.low[k]:.1f} … {self.high[k]:.1f}{unit}"
