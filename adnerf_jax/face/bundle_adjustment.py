"""Bundle adjustment of head poses and points on the head.

Gauss-Newton with the robust weights of Geman and McClure. The points are eliminated (Schur complement), so that the
system has six unknowns per key frame; the number of key frames is bounded, which bounds time and memory for clips of
any length. The poses of all frames are then estimated with the points fixed and a smoothness term over time: a block-
banded system that is solved in time linear in the number of frames. The observations of all frames, hundreds per frame,
are stored in a file and processed in chunks.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solveh_banded
from scipy.sparse import csr_array
from scipy.spatial.transform import Rotation

from adnerf_jax.face.optical_flow import Matches
from adnerf_jax.face.rigid import Pinhole, Poses, cross_matrix

_ITERATIONS = 12
ROBUST = 3.0  # standard deviations of the residuals at which an observation loses three quarters of its weight
_CHUNK = 100_000  # observations whose derivatives are held in memory
_SAMPLE = 500_000  # observations that suffice to estimate their noise
_DAMPING = 1e-6
_LOCATE_STEPS = 6
_CONVERGED = 1e-5  # radians and cm: the iterations end when no pose changes by more
# Standard deviations of the acceleration per frame² in the smoothness term. They are a third of those of a speaking
# head: errors of the points in one frame are correlated, so that hundreds of points have too much weight. With values
# three times as large, jitter is .57° instead of .50° on a real clip and .10° instead of .07° on one whose ground truth
# is .05°; with values three times as small, quick nods are damped.
_ROTATION_SIGMA, _TRANSLATION_SIGMA = math.radians(0.1), 0.01  # radians, cm
# Quicker motion than that is not to be damped. Where fewer than half of a frame's observations are within `_NEAR`
# standard deviations, those of the acceleration become the given motion's around it, then twice and four times as much,
# as long as that leaves at most `_HELPS` of such frames: matches may be wrong as well.
_NEAR, _LOOSENINGS, _AROUND, _HELPS = 2.0, 3, 2, 0.8


_RECORD = np.dtype(
    [("frame", np.int32), ("point", np.int32), ("pixels", np.float32, 2), ("group", np.int8)], align=True
)


@dataclasses.dataclass(frozen=True)
class Observations:
    """Points observed in frames.

    Attributes:
      frame: int [M], row of the frame's pose.
      point: int [M], row of the point.
      pixels: float [M, 2], (x, y).
      group: int [M], 0 … G − 1: the noise is estimated for each group.
    """

    frame: np.ndarray
    point: np.ndarray
    pixels: np.ndarray
    group: np.ndarray

    @classmethod
    def join(cls, *matches: Matches) -> "Observations":
        """Joins matches; each argument becomes a group."""
        group = np.repeat(np.arange(len(matches)), [len(m.frame) for m in matches])
        return cls(*Matches.join(*matches), group)

    @classmethod
    def spool(cls, file: BinaryIO, matches: Iterable[tuple[int, Matches]]) -> "Observations":
        """Writes observations to a file and maps it into memory, so that those of a long clip need no RAM.

        Args:
          file: empty, open for writing and reading; must stay open while the observations are in use.
          matches: pairs (group, matches).
        """
        count = 0
        for group, found in matches:
            rows = np.zeros(len(found.frame), _RECORD)
            rows["frame"], rows["point"], rows["pixels"], rows["group"] = *found, group
            file.write(rows.tobytes())
            count += len(rows)
        file.flush()
        rows = np.asarray(np.memmap(file, _RECORD, "r", shape=count)) if count else np.zeros(0, _RECORD)
        return cls(rows["frame"], rows["point"], rows["pixels"], rows["group"])

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray | slice) -> "Observations":
        """The observations with these indices."""
        return Observations(self.frame[rows], self.point[rows], self.pixels[rows], self.group[rows])

    def chunks(self) -> Iterator["Observations"]:
        """All observations in chunks of bounded size."""
        return (self.take(slice(k, k + _CHUNK)) for k in range(0, len(self), _CHUNK))

    def sample(self) -> "Observations":
        """An evenly spaced subset from which medians can be estimated; all observations if they are few."""
        return self.take(slice(None, None, -(-len(self) // _SAMPLE) or None))

    def of_frames(self, frames: np.ndarray, count: int) -> "Observations":
        """The observations in a subset of the frames.

        Args:
          frames: [K], rows of the frames; they become rows 0 … K − 1.
          count: number of frames before.
        """
        new_row = np.full(count, -1)
        new_row[frames] = np.arange(len(frames))
        kept = [chunk.take(new_row[chunk.frame] >= 0) for chunk in self.chunks()] or [self]
        columns = ([getattr(chunk, field.name) for chunk in kept] for field in dataclasses.fields(self))
        joined = Observations(*map(np.concatenate, columns))
        return dataclasses.replace(joined, frame=new_row[joined.frame])


def group_noise(length: np.ndarray, group: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The noise of each group from the median length of its residuals.

    Args:
      length: [M] px, lengths of the residuals.
      group: int [M].
      floor: [G] px, lower bounds of the noise.

    Returns:
      [G], σ of each coordinate in px.
    """
    # The median length of a two-dimensional Gaussian is 1.1774 σ.
    medians = [np.median(length[group == g]) / 1.1774 if (group == g).any() else 0.0 for g in range(len(floor))]
    return np.maximum(medians, floor)


def robust_weights(residual: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Weights [M] in 1/px² of residuals [M, 2] px whose noise is σ [M] px: (1 + (r / c)²)⁻² / σ², c = 3 σ."""
    length = np.linalg.norm(residual, axis=-1)
    return 1.0 / (1.0 + (length / (ROBUST * sigma)) ** 2) ** 2 / sigma**2


def adjust(
    observations: Observations,
    poses: Poses,
    points: np.ndarray,
    prior: np.ndarray,
    camera: Pinhole,
    floor: np.ndarray,
    iterations: int = _ITERATIONS,
) -> tuple[Poses, np.ndarray]:
    """Adjusts poses and points jointly.

    Args:
      observations: observations in the frames of `poses`.
      poses: initial poses.
      points: [P, 3] cm, initial points in the head's frame.
      prior: [P] cm, standard deviation of each point about its initial position.
      camera: intrinsics.
      floor: [G] px, lower bounds of the groups' noise.
      iterations: number of Gauss-Newton iterations.

    Returns:
      the poses, and the points [P, 3] cm.
    """
    frames, start = len(poses.rotation), points
    index = np.arange(6 * frames).reshape(frames, 6)
    by_frame, by_point = _sums(observations.frame, frames), _sums(observations.point, len(points))
    for _ in range(iterations):
        moved, residual = _residuals(observations, poses, points, camera)
        sigma = group_noise(np.linalg.norm(residual, axis=-1), observations.group, floor)[observations.group]
        weight = robust_weights(residual, sigma)
        to_pose, to_point = _jacobians(observations, poses, points, moved, camera)
        blocks, right = _normal_equations(by_frame, weight, to_pose, residual)
        inner, inner_right = _normal_equations(by_point, weight, to_point, residual)
        inner += np.eye(3) / prior[:, None, None] ** 2
        inner_right += (points - start) / prior[:, None] ** 2
        inverse = np.linalg.inv(inner)

        # A point is observed at most once per frame, so that no two entries must be summed.
        across: np.ndarray = np.zeros((6 * frames, len(points), 3))
        across[index[observations.frame][:, :, None], observations.point[:, None, None], np.arange(3)] = _products(
            weight, to_pose, to_point
        )
        eliminated = np.einsum("spk,pkl->spl", across, inverse).reshape(6 * frames, -1)
        across = across.reshape(6 * frames, -1)
        matrix = -eliminated @ across.T
        matrix[index[:, :, None], index[:, None, :]] += blocks
        matrix[np.diag_indices(len(matrix))] *= 1 + _DAMPING
        step = -cho_solve(cho_factor(matrix), right.ravel() - eliminated @ inner_right.ravel())
        points = points - np.einsum("pkl,pl->pk", inverse, inner_right + (across.T @ step).reshape(-1, 3))
        poses = poses.stepped(step.reshape(frames, 6))
        if np.abs(step).max() < _CONVERGED:
            break
    return poses, points


def track_poses(
    observations: Observations,
    poses: Poses,
    points: np.ndarray,
    camera: Pinhole,
    floor: np.ndarray,
    ceiling: np.ndarray,
    motion: np.ndarray,
) -> Poses:
    """Poses of all frames with the points fixed, and with a smoothness term over time.

    The smoothness is loosened around frames that it holds back from their observations.

    Args:
      observations: observations in all frames.
      poses: initial poses of at least 3 frames, in order of time.
      points: [P, 3] cm in the head's frame.
      camera: intrinsics.
      floor: [G] px, lower bounds of the groups' noise.
      ceiling: [G] px, upper bounds of the groups' noise. Without them the smoothness term could run away: where it
        holds poses back, residuals grow, with them the estimated noise, and the observations lose more weight.
      motion: [N − 2, 6], `acceleration` of the landmarks' poses, to which the smoothness is loosened.
    """
    usual = np.array([_ROTATION_SIGMA] * 3 + [_TRANSLATION_SIGMA] * 3)
    around = np.ones(2 * _AROUND + 1) / (2 * _AROUND + 1)
    local = np.sqrt([np.convolve(column, around, "same") for column in (motion**2).T]).T
    looseness, before = np.zeros(len(local)), np.inf
    for loosening in range(_LOOSENINGS + 1):
        sigma = np.maximum(usual, looseness[:, None] * local)
        poses = _smooth_poses(observations, poses, points, camera, (floor, ceiling), sigma)
        held = _held_back(observations, poses, points, camera, ceiling)
        if loosening == _LOOSENINGS or not held.any() or held.sum() > _HELPS * before:
            break
        before = held.sum()
        looseness[np.convolve(held, around, "same")[1:-1] > 0] = 2.0**loosening
    return poses


def _smooth_poses(
    observations: Observations,
    poses: Poses,
    points: np.ndarray,
    camera: Pinhole,
    bounds: tuple[np.ndarray, np.ndarray],
    sigma: np.ndarray,
) -> Poses:
    """`track_poses` with the given bounds of the noise and standard deviations [N − 2, 6] of the acceleration."""
    frames, sample = len(poses.rotation), observations.sample()
    for _ in range(_ITERATIONS):
        lengths = residual_lengths(sample, poses, points, camera)
        noise = np.minimum(group_noise(lengths, sample.group, bounds[0]), bounds[1])
        matrix, vector = np.zeros((frames, 6, 6)), np.zeros((frames, 6))
        for chunk in observations.chunks():
            moved, residual = _residuals(chunk, poses, points, camera)
            jacobian, _ = _jacobians(chunk, poses, points, moved, camera)
            weight = robust_weights(residual, noise[chunk.group])
            first = int(chunk.frame.min())
            sums = _sums(chunk.frame - first, int(chunk.frame.max()) - first + 1)
            for total, more in zip((matrix, vector), _normal_equations(sums, weight, jacobian, residual), strict=True):
                total[first : first + len(more)] += more
        step = -_solve_smooth(matrix, vector, acceleration(poses), 1 / sigma**2)
        poses = poses.stepped(step)
        if np.abs(step).max() < _CONVERGED:
            break
    return poses


def _held_back(
    observations: Observations, poses: Poses, points: np.ndarray, camera: Pinhole, noise: np.ndarray
) -> np.ndarray:
    """bool [N], the frames that miss at least half of their observations by more than `_NEAR` times the noise [G]."""
    near, count = np.zeros((2, len(poses.rotation)))
    for chunk in observations.chunks():
        length = residual_lengths(chunk, poses, points, camera)
        near += np.bincount(chunk.frame, length < _NEAR * noise[chunk.group], len(near))
        count += np.bincount(chunk.frame, minlength=len(count))
    return (count > 0) & (near < count / 2)


def locate(observations: Observations, poses: Poses, points: np.ndarray, camera: Pinhole) -> np.ndarray:
    """The places [P, 3] cm of points that fit given poses best, from a first guess [P, 3] cm.

    A point that is hardly observed stays near the guess.
    """
    sums = _sums(observations.point, len(points))
    group = np.zeros(len(observations), int)
    for _ in range(_LOCATE_STEPS):
        moved, residual = _residuals(observations, poses, points, camera)
        noise = group_noise(np.linalg.norm(residual, axis=-1), group, np.array([0.05]))
        _, slope = _jacobians(observations, poses, points, moved, camera)
        matrix, vector = _normal_equations(sums, robust_weights(residual, noise[group]), slope, residual)
        matrix += (1e-4 * np.trace(matrix, axis1=1, axis2=2) + 1e-3)[:, None, None] * np.eye(3)
        points = points - np.linalg.solve(matrix, vector[..., None])[..., 0]
    return points


def _sums(row: np.ndarray, count: int) -> csr_array:
    """The sparse matrix [count, M] of zeros and ones whose product with M values sums those with equal `row` [M].

    Several times as fast as `np.add.at`.
    """
    return csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(count, len(row)))


def _normal_equations(
    sums: csr_array, weight: np.ndarray, jacobian: np.ndarray, residual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """JᵀWJ [count, K, K] and JᵀWr [count, K] of each of `count` unknowns, over its observations (`_sums`)."""
    size = jacobian.shape[-1]
    matrix = sums @ _products(weight, jacobian, jacobian).reshape(-1, size * size)
    return matrix.reshape(-1, size, size), sums @ _products(weight, jacobian, residual[..., None])[..., 0]


def _products(weight: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """wᵐ aᵐᵀ bᵐ, [M, K, L], of a [M, 2, K] and b [M, 2, L]."""
    a = a * weight[:, None, None]
    return a[:, 0, :, None] * b[:, 0, None] + a[:, 1, :, None] * b[:, 1, None]


def acceleration(poses: Poses) -> np.ndarray:
    """Second differences [N − 2, 6] of the poses over time: rotation vectors in radians, then translations in cm."""
    turn = Rotation.from_matrix(poses.rotation[1:] @ poses.rotation[:-1].transpose(0, 2, 1)).as_rotvec()
    return np.hstack([np.diff(turn, axis=0), np.diff(poses.translation, n=2, axis=0)])


def residual_lengths(observations: Observations, poses: Poses, points: np.ndarray, camera: Pinhole) -> np.ndarray:
    """Reprojection errors [M] px of the observations for points [P, 3] cm."""
    lengths = [np.linalg.norm(_residuals(chunk, poses, points, camera)[1], axis=-1) for chunk in observations.chunks()]
    return np.concatenate([np.zeros(0), *lengths])


def _residuals(
    observations: Observations, poses: Poses, points: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, np.ndarray]:
    """Points in the camera's frame [M, 3] cm, and their reprojection residuals [M, 2] px."""
    rotation, translation = poses.rotation[observations.frame], poses.translation[observations.frame]
    moved = np.einsum("mij,mj->mi", rotation, points[observations.point]) + translation
    return moved, camera.project(moved) - observations.pixels


def _jacobians(
    observations: Observations, poses: Poses, points: np.ndarray, moved: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, np.ndarray]:
    """d residual / d pose [M, 2, 6] (`Poses.stepped`), and d residual / d point [M, 2, 3]."""
    jacobian = camera.derivative(moved)
    arm = moved - poses.translation[observations.frame]
    to_pose = np.concatenate([-jacobian @ cross_matrix(arm), jacobian], -1)
    return to_pose, jacobian @ poses.rotation[observations.frame]


def _solve_smooth(matrix: np.ndarray, vector: np.ndarray, bend: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
    """Solves for steps x [N, 6] that minimise x·(A x / 2 − b) + ½ Σ stiffness (second difference of x − bend)².

    Args:
      matrix, vector: A [N, 6, 6] and b [N, 6].
      bend, stiffness: [N − 2, 6], target and weight of each second difference.
    """
    frames, difference = len(matrix), (1.0, -2.0, 1.0)
    # Blocks that couple frames 0, 1 and 2 apart: DᵀSD of the second difference D and its stiffness S.
    coupling = np.zeros((3, frames, 6))
    for k, a in enumerate(difference):
        for apart in range(3 - k):
            coupling[apart, k : k + frames - 2] += a * difference[k + apart] * stiffness
    right = vector.copy()
    for k, a in enumerate(difference):
        right[k : k + frames - 2] += a * stiffness * bend
    # Upper bands in the layout of `solveh_banded`: row 12 holds the diagonal.
    bands = np.zeros((13, frames, 6))
    for i in range(6):
        for j in range(i, 6):
            bands[12 - (j - i), :, j] += matrix[:, i, j]
        bands[12, :, i] += coupling[0, :, i] + 1e-9 * np.trace(matrix, axis1=1, axis2=2) + 1e-12
        for apart in (1, 2):
            bands[12 - 6 * apart, apart:, i] += coupling[apart, : frames - apart, i]
    return solveh_banded(bands.reshape(13, -1), right.ravel()).reshape(frames, 6)
