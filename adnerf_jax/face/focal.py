"""The focal length as the head's own motion shows it, and how sure that is.

When a head turns, what comes nearer grows: by about a hundredth of its width, which is all that tells a near camera
with a wide angle from a far one with a narrow angle. For each of a few focal lengths the poses and points are therefore
adjusted anew, and the costs are compared. Three things can mislead, and the range told holds all of them: chance,
judged by leaving out stretches of the clip in turn (jackknife); points that are not rigid, judged by the answers of all
points and of the most rigid ones; and the focal length to begin with, with which the rigid ones were chosen.
"""

from typing import NamedTuple

import numpy as np

from adnerf_jax.face import bundle
from adnerf_jax.face.rigid import Pinhole, Poses

# In parts of the given one. They are evenly spaced in 1 / focal length: perspective is proportional to it, and so is
# the change of the picture.
_INVERSES = 1 + np.array([-0.6, -0.3, 0.0, 0.3, 0.6])
_STRETCHES = 8
_ITERATIONS = 4  # each begins at its neighbour's solution
_POINT_PRIOR = 10.0  # cm: so weak that it only keeps points seen once or twice where they are
_FRAMES = 40
_LEAST_SHOWN = 20  # rigid points that a frame must show to count
_RIGID_SHARE, _LEAST_SIGHTINGS = 0.9, 8  # of a point's sightings that fit; that it must have
_NOISE_MARGIN = 1.1  # so that the noise is the same at every focal length, and costs can be compared
# Of the way from the true focal length to the one to begin with, how much the answer keeps: from 0.7, 1 and 1.5 times
# the true one the built-in subject's clip gives 0.97, 1.12 and 1.45 times.
_PULL = 0.45
SURE = 0.2  # part of the focal length that its uncertainty may be, or the motion does not tell it


class FocalEstimate(NamedTuple):
    """A focal length in pixels, and the range of one standard deviation; `high` is infinite for no perspective."""

    focal: float
    low: float
    high: float

    @property
    def uncertainty(self) -> float:
        """Half the range in parts of the focal length; infinite where the motion does not bound it."""
        return (self.high - self.low) / (2 * self.focal)

    @property
    def sure(self) -> bool:
        """Whether the motion determines it."""
        return self.uncertainty < SURE

    def to_json(self) -> list[float | None]:
        """Focal length, low and high; JSON knows no infinity, None stands for it."""
        return [round(value, 1) if np.isfinite(value) else None for value in self]

    @classmethod
    def from_json(cls, values: list[float | None]) -> "FocalEstimate":
        """The inverse of `to_json`."""
        return cls(*(np.inf if value is None else value for value in values))


def estimate_focal(
    seen: bundle.Observations, poses: Poses, points: np.ndarray, camera: Pinhole, floor: np.ndarray
) -> FocalEstimate:
    """Estimates the focal length from points followed over a clip.

    Args:
      seen: points found by optical flow, of the frames of `poses`.
      poses: adjusted at the focal length of `camera`, in order of time.
      points: [P, 3] cm, adjusted so.
      camera: the focal length to begin with.
      floor: [1] px, noise that is at least assumed.
    """
    rows = np.linspace(0, len(poses.rotation) - 1, min(_FRAMES, len(poses.rotation))).round().astype(int)
    seen, poses = seen.of_frames(rows, len(poses.rotation)), poses.take(rows)
    missed = bundle.missed_lengths(seen, poses, points, camera)
    noise = bundle.group_noise(missed, seen.group, floor) * _NOISE_MARGIN
    fits = missed < bundle.ROBUST * noise[seen.group]
    sightings = np.bincount(seen.point, minlength=len(points))
    share = np.bincount(seen.point, fits, len(points)) / np.maximum(sightings, 1)
    rigid = (share >= _RIGID_SHARE) & (sightings >= _LEAST_SIGHTINGS)
    seen_rigid = rigid[seen.point]
    shown = np.bincount(seen.frame, seen_rigid, len(rows)) >= _LEAST_SHOWN
    if shown.sum() < 2 * _STRETCHES:
        return FocalEstimate(camera.focal, 0.0, np.inf)
    frames = np.flatnonzero(shown)
    only_rigid = seen.take(seen_rigid).of_frames(frames, len(rows))
    seen, poses = seen.of_frames(frames, len(rows)), poses.take(frames)

    every, _ = _best_inverse(_costs(seen, poses, points, camera, noise))
    best, chance = _best_inverse(_costs(only_rigid, poses, points, camera, noise))
    pulled = (best - 1) * _PULL / (1 - _PULL)
    deviation = float(np.linalg.norm([chance, best - every, pulled]))
    high = camera.focal / (best - deviation) if deviation < best else np.inf
    return FocalEstimate(camera.focal / best, camera.focal / (best + deviation), high)


def _costs(
    seen: bundle.Observations, poses: Poses, points: np.ndarray, camera: Pinhole, noise: np.ndarray
) -> np.ndarray:
    """What the best poses and points cost at each focal length, in each stretch of the clip: [len(_INVERSES), S]."""
    stretch = seen.frame * _STRETCHES // len(poses.rotation)
    middle, prior = len(_INVERSES) // 2, np.full(len(points), _POINT_PRIOR)
    costs = np.zeros((len(_INVERSES), _STRETCHES))
    for order in (range(middle, len(_INVERSES)), range(middle - 1, -1, -1)):
        now, shape, before = poses, points, 1.0
        for k in order:
            # The same size in the picture: nearer by as much as the focal length is shorter.
            now = Poses(now.rotation, now.translation * [1, 1, before / _INVERSES[k]])
            before, there = _INVERSES[k], camera._replace(focal=camera.focal / _INVERSES[k])
            now, shape = bundle.adjust(seen, now, shape, prior, there, noise, _ITERATIONS)
            length = bundle.missed_lengths(seen, now, shape, there) / noise[seen.group]
            cost = length**2 / (1 + (length / bundle.ROBUST) ** 2)  # Geman and McClure's
            costs[k] = np.bincount(stretch, cost, _STRETCHES)
    return costs


def _best_inverse(costs: np.ndarray) -> tuple[float, float]:
    """Where the costs [K, S] are least together, as 1 / focal length, and its deviation.

    The deviation is that of a jackknife over S and, with it, what the bend of the cost allows: a sum of squares in
    standard deviations.
    """
    best, bend = _lowest(costs.sum(1))
    without = np.array([_lowest(costs.sum(1) - part)[0] for part in costs.T])
    spread = (len(without) - 1) * ((without - without.mean()) ** 2).mean()
    return best, float(np.sqrt(spread + 2 / bend)) if bend > 0 else np.inf


def _lowest(cost: np.ndarray) -> tuple[float, float]:
    """The lowest place of the parabola through the least cost and its neighbours, within the range; its bend."""
    k = int(np.clip(cost.argmin(), 1, len(cost) - 2))
    step = _INVERSES[1] - _INVERSES[0]
    left, here, right = cost[k - 1 : k + 2]
    slope, bend = (right - left) / (2 * step), (left - 2 * here + right) / step**2
    if bend <= 0:
        return float(_INVERSES[cost.argmin()]), 0.0
    return float(np.clip(_INVERSES[k] - slope / bend, _INVERSES[0], _INVERSES[-1])), float(bend)
