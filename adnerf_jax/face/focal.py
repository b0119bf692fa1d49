"""The focal length from the motion of the head, with its uncertainty.

When a head turns, the parts that come nearer grow by about a hundredth of its width; only this perspective effect
distinguishes a near camera with a wide angle from a far one with a narrow angle. Bundle adjustment is therefore run
again at each of a few focal lengths, and the costs are compared. The uncertainty has three parts: chance, estimated by
a jackknife over segments of the clip; points that are not rigid, estimated by the difference between the results of all
points and of the most rigid ones; and a bias towards the initial focal length, with which the rigid points were chosen.
"""

from typing import NamedTuple

import numpy as np

from adnerf_jax.face import bundle_adjustment as bundle
from adnerf_jax.face.rigid import Pinhole, Poses

# The candidates as initial focal length / candidate. They are evenly spaced in 1 / focal length, because the strength
# of perspective, and with it the change of the picture, is proportional to it.
_INVERSES = 1 + np.array([-0.6, -0.3, 0.0, 0.3, 0.6])
_SEGMENTS = 8
_ITERATIONS = 4  # each candidate starts from its neighbour's solution
_POINT_PRIOR = 10.0  # cm: so weak that it only holds points observed once or twice
_FRAMES = 40
_MIN_VISIBLE = 20  # rigid points that a frame must show to be used
_RIGID_SHARE, _MIN_OBSERVATIONS = 0.9, 8  # a rigid point: share of its observations that are inliers, and their number
_NOISE_MARGIN = 1.1  # the noise is fixed, a little above the estimate, so that costs can be compared
# Bias towards the initial focal length, as a fraction of the way from the true to the initial one: from 0.7, 1 and 1.5
# times the true focal length the built-in subject's clip gives 0.97, 1.12 and 1.45 times.
_BIAS = 0.45
MAX_UNCERTAINTY = 0.2  # relative: with more, the motion does not determine the focal length


class FocalEstimate(NamedTuple):
    """A focal length and its range of one standard deviation, in pixels.

    `high` is infinite if the clip may be without perspective.
    """

    focal: float
    low: float
    high: float

    @property
    def uncertainty(self) -> float:
        """Half the range relative to the focal length; infinite if the motion does not bound it."""
        return (self.high - self.low) / (2 * self.focal)

    @property
    def sure(self) -> bool:
        """Whether the motion determines the focal length."""
        return self.uncertainty < MAX_UNCERTAINTY

    def to_json(self) -> list[float | None]:
        """Focal length, low and high; None stands for infinity, which JSON does not have."""
        return [round(value, 1) if np.isfinite(value) else None for value in self]

    @classmethod
    def from_json(cls, values: list[float | None]) -> "FocalEstimate":
        """The inverse of `to_json`."""
        return cls(*(np.inf if value is None else value for value in values))


def estimate_focal(
    seen: bundle.Observations, poses: Poses, points: np.ndarray, camera: Pinhole, floor: np.ndarray
) -> FocalEstimate:
    """Estimates the focal length from points tracked over a clip.

    Args:
      seen: points found by optical flow, in the frames of `poses`.
      poses: bundle-adjusted at the focal length of `camera`, in order of time.
      points: [P, 3] cm, bundle-adjusted likewise.
      camera: intrinsics with the initial focal length.
      floor: [1] px, lower bound of the noise.

    Returns:
      the estimate; with too few rigid points, the initial focal length with an infinite range.
    """
    rows = np.linspace(0, len(poses.rotation) - 1, min(_FRAMES, len(poses.rotation))).round().astype(int)
    seen, poses = seen.of_frames(rows, len(poses.rotation)), poses.take(rows)
    residuals = bundle.residual_lengths(seen, poses, points, camera)
    noise = bundle.group_noise(residuals, seen.group, floor) * _NOISE_MARGIN
    inlier = residuals < bundle.ROBUST * noise[seen.group]
    count = np.bincount(seen.point, minlength=len(points))
    share = np.bincount(seen.point, inlier, len(points)) / np.maximum(count, 1)
    rigid = (share >= _RIGID_SHARE) & (count >= _MIN_OBSERVATIONS)
    seen_rigid = rigid[seen.point]
    usable = np.bincount(seen.frame, seen_rigid, len(rows)) >= _MIN_VISIBLE
    if usable.sum() < 2 * _SEGMENTS:
        return FocalEstimate(camera.focal, 0.0, np.inf)
    frames = np.flatnonzero(usable)
    only_rigid = seen.take(seen_rigid).of_frames(frames, len(rows))
    seen, poses = seen.of_frames(frames, len(rows)), poses.take(frames)

    with_all, _ = _best_inverse(_costs(seen, poses, points, camera, noise))
    best, chance = _best_inverse(_costs(only_rigid, poses, points, camera, noise))
    bias = (best - 1) * _BIAS / (1 - _BIAS)
    deviation = float(np.linalg.norm([chance, best - with_all, bias]))
    high = camera.focal / (best - deviation) if deviation < best else np.inf
    return FocalEstimate(camera.focal / best, camera.focal / (best + deviation), high)


def _costs(
    seen: bundle.Observations, poses: Poses, points: np.ndarray, camera: Pinhole, noise: np.ndarray
) -> np.ndarray:
    """The cost of the adjusted poses and points at each candidate focal length, in each of S segments of the clip.

    Returns:
      [len(_INVERSES), S].
    """
    segment = seen.frame * _SEGMENTS // len(poses.rotation)
    middle, prior = len(_INVERSES) // 2, np.full(len(points), _POINT_PRIOR)
    costs = np.zeros((len(_INVERSES), _SEGMENTS))
    for order in (range(middle, len(_INVERSES)), range(middle - 1, -1, -1)):
        now, shape, before = poses, points, 1.0
        for k in order:
            # Keep the size in the picture: the distance scales with the focal length.
            now = Poses(now.rotation, now.translation * [1, 1, before / _INVERSES[k]])
            before, candidate = _INVERSES[k], camera._replace(focal=camera.focal / _INVERSES[k])
            now, shape = bundle.adjust(seen, now, shape, prior, candidate, noise, _ITERATIONS)
            length = bundle.residual_lengths(seen, now, shape, candidate) / noise[seen.group]
            cost = length**2 / (1 + (length / bundle.ROBUST) ** 2)  # Geman-McClure
            costs[k] = np.bincount(segment, cost, _SEGMENTS)
    return costs


def _best_inverse(costs: np.ndarray) -> tuple[float, float]:
    """The minimum of the costs [K, S] summed over S, on the scale of `_INVERSES`, and its standard deviation.

    The variance is that of a jackknife over S plus that of a least-squares estimate with the curvature of the cost,
    which is a sum of squares in units of the noise.
    """
    best, curvature = _parabola_minimum(costs.sum(1))
    without = np.array([_parabola_minimum(costs.sum(1) - segment)[0] for segment in costs.T])
    variance = (len(without) - 1) * ((without - without.mean()) ** 2).mean()
    return best, float(np.sqrt(variance + 2 / curvature)) if curvature > 0 else np.inf


def _parabola_minimum(cost: np.ndarray) -> tuple[float, float]:
    """The minimum of the parabola through the smallest cost and its neighbours, within the range; its curvature."""
    k = int(np.clip(cost.argmin(), 1, len(cost) - 2))
    step = _INVERSES[1] - _INVERSES[0]
    left, here, right = cost[k - 1 : k + 2]
    slope, curvature = (right - left) / (2 * step), (left - 2 * here + right) / step**2
    if curvature <= 0:
        return float(_INVERSES[cost.argmin()]), 0.0
    return float(np.clip(_INVERSES[k] - slope / curvature, _INVERSES[0], _INVERSES[-1])), float(curvature)
