"""Bundle adjustment: the poses and the points on the head that explain all observations at once.

Gauss-Newton with Geman and McClure's robust weights. The points are eliminated (Schur complement), so that the system
has six unknowns a key frame; the number of key frames is bounded, which bounds time and memory for clips of any length.
The other frames follow with the points as they are, tied over time by a smoothness term: a system of three blocks a
frame, solved in time linear in their number. All frames' observations, hundreds a frame, lie in a file and are read in
parts.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solveh_banded
from scipy.sparse import csr_array
from scipy.spatial.transform import Rotation

from adnerf_jax.face.flow import Matches
from adnerf_jax.face.rigid import Pinhole, Poses, cross_matrix

_ITERATIONS = 12
ROBUST = 3.0  # standard deviations of the residuals at which an observation loses three quarters of its weight
_AT_ONCE = 100_000  # observations whose derivatives are held in memory
_SAMPLE = 500_000  # observations that are enough to know their noise by
_DAMPING = 1e-6
_STILL = 1e-5  # radians and cm: where no pose moves by more, the iterations have ended
# Accelerations a frame that the smoothness term expects. A third of what a head that speaks has: errors of points in
# one frame are alike, so that hundreds of points count for more than they should. Three times looser, jitter is .57°
# against .50° on a real clip and .10° against .07° on one whose truth is .05°; three times tighter, quick nods are cut.
_TURNING, _SHIFTING = math.radians(0.1), 0.01  # radians, cm


_RECORD = np.dtype(
    [("frame", np.int32), ("point", np.int32), ("pixels", np.float32, 2), ("group", np.int8)], align=True
)


@dataclasses.dataclass(frozen=True)
class Observations:
    """Points seen in frames.

    Attributes:
      frame: int [M], row of the frame's pose.
      point: int [M], row of the point.
      pixels: float [M, 2].
      group: int [M], 0 … G − 1: observations of one group share their noise, which is estimated.
    """

    frame: np.ndarray
    point: np.ndarray
    pixels: np.ndarray
    group: np.ndarray

    @classmethod
    def join(cls, *matches: Matches) -> "Observations":
        """Observations of several kinds, a group each."""
        group = np.repeat(np.arange(len(matches)), [len(m.frame) for m in matches])
        return cls(*Matches.join(*matches), group)

    @classmethod
    def spool(cls, file: BinaryIO, matches: Iterable[tuple[int, Matches]]) -> "Observations":
        """Observations in a file that is mapped into memory, where those of a long clip take none of the process's own.

        Args:
          file: empty, to be written and read; open for as long as the observations are in use.
          matches: (their group, matches).
        """
        count = 0
        for group, found in matches:
            rows = np.zeros(len(found.frame), _RECORD)
            rows["frame"], rows["point"], rows["pixels"], rows["group"] = *found, group
            file.write(rows.tobytes())
            count += len(rows)
        file.flush()
        rows = np.asarray(np.memmap(file, _RECORD, "r", shape=count)) if count else np.zeros(0, _RECORD)
        return cls(*(rows[name] for name in _RECORD.names))

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray | slice) -> "Observations":
        """Some of them."""
        return Observations(self.frame[rows], self.point[rows], self.pixels[rows], self.group[rows])

    def parts(self) -> Iterator["Observations"]:
        """All of them, a bounded number at a time."""
        return (self.take(slice(k, k + _AT_ONCE)) for k in range(0, len(self), _AT_ONCE))

    def sample(self) -> "Observations":
        """Evenly spaced ones, all where they are few: to know medians by."""
        return self.take(slice(None, None, -(-len(self) // _SAMPLE) or None))

    def of_frames(self, frames: np.ndarray, count: int) -> "Observations":
        """Those in some of `count` frames, whose rows are numbered anew."""
        number = np.full(count, -1)
        number[frames] = np.arange(len(frames))
        kept = [part.take(number[part.frame] >= 0) for part in self.parts()] or [self]
        columns = ([getattr(part, field.name) for part in kept] for field in dataclasses.fields(self))
        joined = Observations(*map(np.concatenate, columns))
        return dataclasses.replace(joined, frame=number[joined.frame])


def group_noise(length: np.ndarray, group: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Each group's noise, [G] σ in px for each coordinate, from the median of its residuals' lengths.

    Args:
      length: [M] px.
      group: int [M].
      floor: [G] px, noise that is at least assumed.
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
    """Adjusts poses and points together.

    Args:
      observations: of the frames of `poses`.
      poses: to begin with.
      points: [P, 3] cm to begin with, in the head's frame.
      prior: [P] cm, standard deviation of each point from where it begins.
      camera: intrinsics.
      floor: [G] px, noise that is at least assumed of each group.
      iterations: of Gauss-Newton.

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
        to_pose, to_point = _slopes(observations, poses, points, moved, camera)
        blocks, right = _normal_equations(by_frame, weight, to_pose, residual)
        inner, inner_right = _normal_equations(by_point, weight, to_point, residual)
        inner += np.eye(3) / prior[:, None, None] ** 2
        inner_right += (points - start) / prior[:, None] ** 2
        inverse = np.linalg.inv(inner)

        # A point is seen at most once in a frame: there is nothing to add up.
        across = np.zeros((6 * frames, len(points), 3))
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
        if np.abs(step).max() < _STILL:
            break
    return poses, points


def follow(observations: Observations, poses: Poses, points: np.ndarray, camera: Pinhole, floor: np.ndarray) -> Poses:
    """Poses of all frames, in order of time, given the points; smooth where the observations leave it open.

    Args:
      observations: of all frames.
      poses: to begin with, of at least 3 frames.
      points: [P, 3] cm in the head's frame.
      camera: intrinsics.
      floor: [G] px, noise that is at least assumed of each group.
    """
    frames, sample = len(poses.rotation), observations.sample()
    stiff = 1.0 / np.array([_TURNING] * 3 + [_SHIFTING] * 3) ** 2
    for _ in range(_ITERATIONS):
        noise = group_noise(missed_lengths(sample, poses, points, camera), sample.group, floor)
        matrix, vector = np.zeros((frames, 6, 6)), np.zeros((frames, 6))
        for part in observations.parts():
            moved, residual = _residuals(part, poses, points, camera)
            slope, _ = _slopes(part, poses, points, moved, camera)
            weight = robust_weights(residual, noise[part.group])
            first = int(part.frame.min())
            sums = _sums(part.frame - first, int(part.frame.max()) - first + 1)
            for total, more in zip((matrix, vector), _normal_equations(sums, weight, slope, residual), strict=True):
                total[first : first + len(more)] += more
        step = -_solve_smooth(matrix, vector, acceleration(poses), stiff)
        poses = poses.stepped(step)
        if np.abs(step).max() < _STILL:
            break
    return poses


def _sums(row: np.ndarray, count: int) -> csr_array:
    """The matrix [count, M] of zeros and ones that adds up those of M values that are of the same row [M].

    Its products are several times as fast as adding at indices.
    """
    return csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(count, len(row)))


def _normal_equations(
    sums: csr_array, weight: np.ndarray, slope: np.ndarray, residual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """JᵀWJ [count, K, K] and JᵀWr [count, K] of each of `count` unknowns, over its observations (`_sums`)."""
    size = slope.shape[-1]
    matrix = sums @ _products(weight, slope, slope).reshape(-1, size * size)
    return matrix.reshape(-1, size, size), sums @ _products(weight, slope, residual[..., None])[..., 0]


def _products(weight: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """wᵐ aᵐᵀ bᵐ, [M, K, L], of a [M, 2, K] and b [M, 2, L]."""
    a = a * weight[:, None, None]
    return a[:, 0, :, None] * b[:, 0, None] + a[:, 1, :, None] * b[:, 1, None]


def acceleration(poses: Poses) -> np.ndarray:
    """Second differences [N − 2, 6] of the poses over time: rotation vectors in radians, and cm."""
    turn = Rotation.from_matrix(poses.rotation[1:] @ poses.rotation[:-1].transpose(0, 2, 1)).as_rotvec()
    return np.hstack([np.diff(turn, axis=0), np.diff(poses.translation, n=2, axis=0)])


def missed_lengths(observations: Observations, poses: Poses, points: np.ndarray, camera: Pinhole) -> np.ndarray:
    """By how much points [P, 3] cm in these poses miss where they were seen: [M] px."""
    missed = [np.linalg.norm(_residuals(part, poses, points, camera)[1], axis=-1) for part in observations.parts()]
    return np.concatenate([np.zeros(0), *missed])


def _residuals(
    observations: Observations, poses: Poses, points: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, np.ndarray]:
    """Points in the camera's frame [M, 3], and by how much they miss their pixels [M, 2]."""
    rotation, translation = poses.rotation[observations.frame], poses.translation[observations.frame]
    moved = np.einsum("mij,mj->mi", rotation, points[observations.point]) + translation
    return moved, camera.project(moved) - observations.pixels


def _slopes(
    observations: Observations, poses: Poses, points: np.ndarray, moved: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, np.ndarray]:
    """d residual / d pose [M, 2, 6] (`Poses.stepped`), and d residual / d point [M, 2, 3]."""
    slope = camera.derivative(moved)
    arm = moved - poses.translation[observations.frame]
    to_pose = np.concatenate([-slope @ cross_matrix(arm), slope], -1)
    return to_pose, slope @ poses.rotation[observations.frame]


def _solve_smooth(matrix: np.ndarray, vector: np.ndarray, bend: np.ndarray, stiff: np.ndarray) -> np.ndarray:
    """Solves for steps x [N, 6] that minimise x·(A x / 2 − b) + ½ Σ stiff (second difference of x − bend)².

    Args:
      matrix, vector: A [N, 6, 6] and b [N, 6].
      bend: [N − 2, 6].
      stiff: [6].
    """
    frames = len(matrix)
    # Blocks between frames that are 0, 1 and 2 apart: the second difference's 1, −2, 1 squared.
    own = np.zeros((3, frames))
    for k, a in enumerate((1.0, -2.0, 1.0)):
        own[0, k : k + frames - 2] += a * a
        for apart in (1, 2):
            if k + apart < 3:
                own[apart, k : k + frames - 2] += a * (1.0, -2.0, 1.0)[k + apart]
    right = vector.copy()
    for k, a in enumerate((1.0, -2.0, 1.0)):
        right[k : k + frames - 2] += a * stiff * bend
    # Upper bands as `solveh_banded` wants them: row 12 holds the diagonal.
    bands = np.zeros((13, frames, 6))
    for i in range(6):
        for j in range(i, 6):
            bands[12 - (j - i), :, j] += matrix[:, i, j]
        bands[12, :, i] += stiff[i] * own[0] + 1e-9 * np.trace(matrix, axis1=1, axis2=2) + 1e-12
        for apart in (1, 2):
            bands[12 - 6 * apart, apart:, i] += stiff[i] * own[apart, : frames - apart]
    return solveh_banded(bands.reshape(13, -1), right.ravel()).reshape(frames, 6)
