"""Head poses from landmarks: one rigid shape per person and one pose per frame, estimated together.

Poses are initialised by closed-form alignment of the network's three-dimensional landmarks with the canonical face
(Umeyama 1991), so that no frame depends on the previous one and none ends in a mirrored local minimum. Gauss-Newton
steps on the reprojection error of all poses then alternate with steps of the shape.

The focal length is given: landmarks of near-frontal frames of a person of unknown size do not determine it (`focal.py`
estimates it from dense points).
"""

import math
from collections.abc import Iterator

import numpy as np
from flax import struct
from scipy.spatial.transform import Rotation, Slerp

from adnerf_jax.common.errors import UserError
from adnerf_jax.face.landmarks import RIGID, fill_gaps
from adnerf_jax.face.rigid import Pinhole, Poses, cross_matrix, similarity

# Dataset units per centimetre of the canonical face, so that the mean depth equals that of the published tracker on its
# own clip (0.844 over the first 497 frames at focal length 1200 px).
UNITS_PER_CM = 0.84395 / 96.02

# Standard deviations in frames of Gaussian (zero-phase) smoothing over time. Rotation and depth are the noisy part of a
# pose, the position in the picture is not: with these values the motion of the rigid vertices agrees best with the
# optical flow (on two clips 0.57 and 0.41 px RMS per frame; 0.65 and 0.47 unsmoothed; 0.80 and 0.51 with all at 1.0).
_ROTATION_SIGMA, _DEPTH_SIGMA, _POSITION_SIGMA = 1.0, 2.0, 0.5
_ROUNDS, _SHAPE_FRAMES = 8, 1000
_HUBER = 0.12  # cm on the face: threshold of the Huber weights
# A vertex 1 cm away from the canonical face costs as much as a mean reprojection error of √0.02 = 0.14 cm.
_SHAPE_PRIOR = 0.02
# Weight of the network's depths relative to its pixels. Without them pitch is poorly determined; the rotation differs
# from the published tracker's by 1.39° (RMS) at weight 0, 1.15° at 0.1, 1.24° at 0.3.
_DEPTH_WEIGHT = 0.1
_MAX_ERROR = 0.2  # share of the face's size: poses with a larger reprojection error are discarded


@struct.dataclass
class HeadTrack:
    """The head poses of a video.

    Attributes:
      transform: float64 [N, 4, 4], camera-to-head, the camera looking along −z with y up, dataset units; interpolated
        in time where not valid.
      valid: bool [N], whether the pose was measured.
      reprojection_px: float64 [N], mean distance of the rigid vertices from their landmarks; NaN where not valid.
      shape: float64 [468, 3], the person's mean face in the head's frame, dataset units.
    """

    transform: np.ndarray
    valid: np.ndarray
    reprojection_px: np.ndarray
    shape: np.ndarray


def track_head(
    points: np.ndarray, valid: np.ndarray, focal: float, cx: float, cy: float, canonical: np.ndarray
) -> HeadTrack:
    """Estimates the pose of the head in every frame.

    Args:
      points: [N, 478, 3] px landmarks (`Landmarks.points`).
      valid: bool [N], frames in which there is a face.
      focal, cx, cy: intrinsics in px.
      canonical: [468, 3] cm, `FaceLandmarker.canonical`: its scale and axes define the head's frame.

    Raises:
      UserError: no frame has a face, or no pose fits the landmarks.
    """
    valid = np.asarray(valid, bool)
    if not valid.any():
        raise UserError("no face was found in the video: it must show one person's face, upright and large enough")
    camera = Pinhole(float(focal), float(cx), float(cy))
    seen = points[valid].astype(np.float64)
    poses = _initial_poses(seen[:, RIGID], canonical[RIGID], camera)

    keys = slice(None, None, math.ceil(len(seen) / _SHAPE_FRAMES))
    shape = _fit_shape(seen[keys, RIGID], poses.take(keys), canonical[RIGID], camera)
    poses = _refine_poses(seen[:, RIGID], poses, shape, camera, steps=12)

    errors = _reprojection(seen[:, RIGID], poses, shape, camera)
    sizes = np.ptp(seen[:, RIGID, :2], axis=1).max(-1)
    kept = np.isfinite(errors) & (errors < _MAX_ERROR * sizes) & (poses.translation[:, 2] < 0)
    if not kept.any():
        raise UserError(
            "the head could not be tracked in any frame: check the focal length and that the face is upright"
        )
    measured = valid.copy()
    measured[valid] = kept
    # Axes and shape can turn together without a change of any reprojection, and turn away from the face where the focal
    # length is wrong and the face large in the picture.
    _, turn = tilt_of_axes(camera_to_head(poses.take(kept)), seen[kept], camera, canonical)
    centre = shape.mean(0)
    poses = Poses(poses.rotation @ turn, poses.translation + poses.rotation @ (centre - turn @ centre))
    shape = centre + (shape - centre) @ turn
    mesh = _whole_face(seen[kept], poses.take(kept), canonical, shape, camera)
    poses = _smooth(_fill(poses.take(kept), measured), shape.mean(0), camera)

    reprojection = np.full(len(valid), np.nan)
    reprojection[measured] = _reprojection(seen[kept][:, RIGID], poses.take(measured), shape, camera)
    return HeadTrack(camera_to_head(poses), measured, reprojection, mesh * UNITS_PER_CM)


def _initial_poses(points: np.ndarray, shape: np.ndarray, camera: Pinhole) -> Poses:
    """Poses under weak perspective, in which the landmarks' depth has the scale of their pixels."""
    rotation, scale = similarity(shape, points * (1, -1, -1))
    centre = camera.unproject(points[..., :2].mean(1), -camera.focal / scale)
    return Poses(rotation, centre - rotation @ shape.mean(0))


def _fit_shape(points: np.ndarray, poses: Poses, canonical: np.ndarray, camera: Pinhole) -> np.ndarray:
    """The person's rigid vertices [V, 3] in cm from landmarks [N, V, 3] px, by alternating steps of poses and shape.

    Size and axes remain those of the canonical face, because depth and size are ambiguous.
    """
    shape = canonical
    for _ in range(_ROUNDS):
        poses = _refine_poses(points, poses, shape, camera, steps=4)
        x = poses.move(shape)
        residual = camera.project(x) - points[..., :2]
        scale = _pixels_per_cm(poses, camera)
        # Residuals and Jacobians in cm on the face, so that the prior has the same weight at every distance.
        weight = _huber_weights(residual, scale) / scale[:, None] ** 2 / len(points)
        jacobian = camera.derivative(x) @ poses.rotation[:, None]
        matrix = np.einsum("nvik,nvil,nv->vkl", jacobian, jacobian, weight) + _SHAPE_PRIOR * np.eye(3)
        vector = np.einsum("nvik,nvi,nv->vk", jacobian, residual, weight) + _SHAPE_PRIOR * (shape - canonical)
        shape = shape - np.linalg.solve(matrix, vector[..., None])[..., 0]
        rotation, size = similarity(shape, canonical[None])
        shape = size[0] * (shape - shape.mean(0)) @ rotation[0].T + canonical.mean(0)
    return shape


def _refine_poses(points: np.ndarray, poses: Poses, shape: np.ndarray, camera: Pinhole, steps: int) -> Poses:
    """Gauss-Newton steps of all poses on landmarks [N, V, 3] px.

    A step is a rotation about the head's origin and a translation. Depths have the scale of the pixels; their mean,
    which the network does not predict, is removed.
    """
    eye = np.broadcast_to(np.eye(3), (*points.shape[:2], 3, 3))
    for _ in range(steps):
        x = poses.move(shape)
        scale = _pixels_per_cm(poses, camera)
        motion = np.concatenate([-cross_matrix(x - poses.translation[:, None]), eye], -1)
        residual = camera.project(x) - points[..., :2]
        jacobian = camera.derivative(x) @ motion
        depth = scale[:, None] * x[..., 2] + points[..., 2]
        depth = depth - depth.mean(1, keepdims=True)
        depth_jacobian = scale[:, None, None] * (motion[..., 2, :] - motion[..., 2, :].mean(1, keepdims=True))
        weight = _huber_weights(residual, scale)
        matrix = np.einsum("nvik,nvil,nv->nkl", jacobian, jacobian, weight)
        matrix += _DEPTH_WEIGHT * np.einsum("nvk,nvl->nkl", depth_jacobian, depth_jacobian)
        vector = np.einsum("nvik,nvi,nv->nk", jacobian, residual, weight)
        vector += _DEPTH_WEIGHT * np.einsum("nvk,nv->nk", depth_jacobian, depth)
        # Negligible damping, so that a degenerate frame does not make the batched solve fail.
        matrix += 1e-9 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(6)
        step = -np.linalg.solve(matrix, vector[..., None])[..., 0]
        poses = poses.stepped(step)
    return poses


def _pixels_per_cm(poses: Poses, camera: Pinhole) -> np.ndarray:
    return -camera.focal / poses.translation[:, 2]


def _huber_weights(residual: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Weights [N, V] in (0, 1] of residuals [N, V, 2] px, at scale [N] px per cm."""
    limit = _HUBER * np.abs(scale)[:, None]
    return limit / np.maximum(limit, np.linalg.norm(residual, axis=-1))


def _reprojection(points: np.ndarray, poses: Poses, shape: np.ndarray, camera: Pinhole) -> np.ndarray:
    """Mean distance [N] px of the projected shape [V, 3] from landmarks [N, V, 3]."""
    return np.linalg.norm(camera.project(poses.move(shape)) - points[..., :2], axis=-1).mean(-1)


def _whole_face(
    points: np.ndarray, poses: Poses, canonical: np.ndarray, rigid: np.ndarray, camera: Pinhole
) -> np.ndarray:
    """The mean face [468, 3] cm in the head's frame: landmarks at the canonical depth; rigid vertices as fitted."""
    keys = slice(None, None, math.ceil(len(points) / _SHAPE_FRAMES))
    points, poses = points[keys, : len(canonical)], poses.take(keys)
    x = camera.unproject(points[..., :2], poses.move(canonical)[..., 2])
    mesh = np.einsum("nji,nvj->nvi", poses.rotation, x - poses.translation[:, None]).mean(0)
    mesh[RIGID] = rigid
    return mesh


def tilt_of_axes(
    transform: np.ndarray, points: np.ndarray, camera: Pinhole, canonical: np.ndarray
) -> tuple[float, np.ndarray]:
    """How far the head's axes are from those of the face, as the landmark model defines them.

    The rigid landmarks, with the depths that the network gives them, are averaged in the head's frame over the frames;
    the canonical face is aligned to the result.

    Args:
      transform: [N, 4, 4], camera-to-head.
      points: [N, 478, 3] px, landmarks of the same frames.
      camera: intrinsics.
      canonical: [468, 3] cm.

    Returns:
      the angle in degrees, and the rotation [3, 3] from the face's axes to the head's frame.
    """
    poses = head_to_camera(transform)
    depth = poses.move(canonical[RIGID])[..., 2].mean(1, keepdims=True)
    relief = points[:, RIGID, 2] - points[:, RIGID, 2].mean(1, keepdims=True)
    seen = camera.unproject(points[:, RIGID, :2].astype(np.float64), depth * (1 + relief / camera.focal))
    mesh = np.einsum("nji,nvj->nvi", poses.rotation, seen - poses.translation[:, None]).mean(0)
    turn = similarity(canonical[RIGID], mesh[None])[0][0]
    return math.degrees(Rotation.from_matrix(turn).magnitude()), turn


def _fill(poses: Poses, measured: np.ndarray) -> Poses:
    """Interpolates the poses of the measured frames in time to all frames; they are held at both ends."""
    at = np.flatnonzero(measured)
    rotation = Rotation.from_matrix(poses.rotation)
    if len(at) > 1:
        matrices = Slerp(at, rotation)(np.clip(np.arange(len(measured)), at[0], at[-1])).as_matrix()
    else:
        matrices = np.repeat(rotation.as_matrix(), len(measured), axis=0)
    return Poses(matrices, fill_gaps(poses.translation, measured))


def _smooth(poses: Poses, pivot: np.ndarray, camera: Pinhole) -> Poses:
    """Smooths rotation, depth and position in the picture of the face's centre `pivot` [3] separately over time."""
    x = poses.move(pivot[None])[:, 0]
    pixels = _average(camera.project(x), _POSITION_SIGMA)
    depth = _average(x[:, 2:], _DEPTH_SIGMA)[:, 0]
    rotation = _average_rotation(poses.rotation, _ROTATION_SIGMA)
    return Poses(rotation, camera.unproject(pixels, depth) - rotation @ pivot)


def _window(count: int, sigma: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, for each offset in time, the neighbour's index [N] and its Gaussian weight [N, 1]; weights sum to 1.

    Near the ends of the clip the window shrinks symmetrically, so that linear motion is preserved.
    """
    frames = np.arange(count)
    reach = np.minimum(frames, count - 1 - frames)
    offsets = range(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
    weights = np.array([math.exp(-0.5 * (k / sigma) ** 2) * (reach >= abs(k)) for k in offsets])
    for k, weight in zip(offsets, weights / weights.sum(0), strict=True):
        yield np.clip(frames + k, 0, count - 1), weight[:, None]


def _average(values: np.ndarray, sigma: float) -> np.ndarray:
    """Smooths values [N, K] over time."""
    return sum(weight * values[other] for other, weight in _window(len(values), sigma))


def _average_rotation(rotation: np.ndarray, sigma: float) -> np.ndarray:
    """Smooths rotations [N, 3, 3] over time, in the tangent space at each frame's rotation."""
    inverse = rotation.transpose(0, 2, 1)
    turns = (
        weight * Rotation.from_matrix(inverse @ rotation[other]).as_rotvec()
        for other, weight in _window(len(rotation), sigma)
    )
    return rotation @ Rotation.from_rotvec(sum(turns)).as_matrix()


def camera_to_head(poses: Poses) -> np.ndarray:
    """The camera-to-head transforms [N, 4, 4] in dataset units: the inverses of poses."""
    transform = np.tile(np.eye(4), (len(poses.rotation), 1, 1))
    transform[:, :3, :3] = poses.rotation.transpose(0, 2, 1)
    transform[:, :3, 3] = -np.einsum("nji,nj->ni", poses.rotation, poses.translation) * UNITS_PER_CM
    return transform


def head_to_camera(transform: np.ndarray) -> Poses:
    """The inverse of `camera_to_head`."""
    rotation = transform[:, :3, :3].transpose(0, 2, 1)
    return Poses(rotation, -np.einsum("nij,nj->ni", rotation, transform[:, :3, 3]) / UNITS_PER_CM)
