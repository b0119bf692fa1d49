"""Metrics from facial landmarks: lips against the ground truth and against the speech, expression, temporal jitter.

Frames are given by their index in time at 25 fps, so that dropped frames are known. Metrics that cannot be computed are
left out.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.face.landmarks import RIGID, Landmarks, eye_distance, mouth_openness, to_ibug68
from adnerf_jax.face.rigid import similarity
from adnerf_jax.pretrained.face_landmarker import BLENDSHAPE_NAMES
from adnerf_jax.speech.lips import lip_shapes
from adnerf_jax.speech.sync import LipModel

MOST_LAG = 10  # frames in each direction
LEAST_PAIRS = 10  # frames that a correlation needs
_MOUTH = slice(48, 68)  # indices among the 68 iBUG points
_STILL = 1e-6  # standard deviation below which a curve counts as constant
LOWER_FACE_SHAPES = tuple(name for name in BLENDSHAPE_NAMES if name.startswith(("jaw", "mouth")))
_LOWER_FACE = np.array([BLENDSHAPE_NAMES.index(name) for name in LOWER_FACE_SHAPES])


@dataclasses.dataclass(frozen=True)
class ExpectedLips:
    """Lip shapes that the speech predicts: the reference of the audio-visual offset.

    Attributes:
      model: regression from speech to lip shape, fitted on the person's training frames.
      face: [478, 3] px, the landmarks that the model's lip shapes are aligned to.
      windows: [N, 16, C], speech windows; row i is the speech at frame i.
    """

    model: LipModel
    face: np.ndarray
    windows: np.ndarray


def mouth_distance(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """LMD in px [N]: mean distance of the 20 mouth landmarks after each set is centred; from landmarks [N, 478, 3]."""
    ours, theirs = (to_ibug68(p)[:, _MOUTH].astype(np.float64) for p in (points, truth))
    ours, theirs = (p - p.mean(1, keepdims=True) for p in (ours, theirs))
    return np.linalg.norm(ours - theirs, axis=-1).mean(-1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two curves [N]; 0 where one is constant, NaN for fewer than 10 frames."""
    if len(a) < LEAST_PAIRS:
        return float("nan")
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    if min(a.std(), b.std()) < _STILL:
        return 0.0
    return float((a * b).mean() / (a.std() * b.std()))


def best_lag(curve: np.ndarray, truth: np.ndarray, frames: np.ndarray) -> tuple[float, float]:
    """The lag in frames at which a curve [N] correlates best with the ground truth's, and the correlation at that lag.

    Args:
      curve, truth: values at the same frames.
      frames: int [N], their indices in time.

    Returns:
      the lag, at most 10 frames and a third of the length, positive where the curve is late, and the correlation; (NaN,
      NaN) where either curve is constant, there are too few frames, or the correlation has no local maximum.
    """
    if len(frames) < LEAST_PAIRS or min(curve.std(), truth.std()) < _STILL:
        return float("nan"), float("nan")
    ours, theirs = (np.full(int(np.ptp(frames)) + 1, np.nan) for _ in range(2))
    ours[frames - frames.min()], theirs[frames - frames.min()] = curve, truth
    most = min(MOST_LAG, len(frames) // 3)
    scores = {}
    for lag in sorted(range(-most, most + 1), key=abs):
        a, b = ours[max(lag, 0) : len(ours) + min(lag, 0)], theirs[max(-lag, 0) : len(ours) - max(lag, 0)]
        finite = np.isfinite(a + b)
        if finite.sum() >= LEAST_PAIRS:
            scores[lag] = correlation(a[finite], b[finite])
    # A correlation that still rises at the end of the search range has no maximum there.
    maxima = [k for k in scores if all(scores.get(k + s, np.inf) <= scores[k] for s in (-1, 1))]
    best = max(maxima, key=scores.__getitem__, default=None)
    return (float("nan"), float("nan")) if best is None else (float(best), scores[best])


def jitter(values: np.ndarray, frames: np.ndarray) -> float:
    """RMS length of the second difference over time.

    Args:
      values: [N, ..., D] points at the frames.
      frames: int [N], their indices in time; only runs of three consecutive frames are used.

    Returns:
      in the unit of the values; NaN without three consecutive frames.
    """
    second = values[2:] - 2.0 * values[1:-1] + values[:-2]
    second = second[_consecutive(frames)]
    return float(np.sqrt(np.square(second, dtype=np.float64).sum(-1).mean())) if len(second) else float("nan")


def rotation_jitter(points: np.ndarray, frames: np.ndarray) -> float:
    """RMS second difference of the head's rotation in degrees, from landmarks [N, 478, 3] px at `frames` [N].

    The rotation best aligns the rigid landmarks of the first frame with those of each frame; it is not smoothed.
    """
    if len(points) < 3:
        return float("nan")
    rigid = points[:, RIGID].astype(np.float64)
    rotation, _ = similarity(rigid[0], rigid)
    turns = Rotation.from_matrix(rotation[1:] @ rotation[:-1].transpose(0, 2, 1)).as_rotvec()
    second = np.diff(turns, axis=0)[_consecutive(frames)]
    return float(np.degrees(np.sqrt(np.square(second).sum(-1).mean()))) if len(second) else float("nan")


def _consecutive(frames: np.ndarray) -> np.ndarray:
    """Which runs of three frames, [N − 2], are consecutive in time."""
    step = np.diff(frames)
    return (step[1:] == 1) & (step[:-1] == 1)


def face_scores(
    found: Landmarks, truth: Landmarks | None, frames: np.ndarray, expected: ExpectedLips | None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """All face metrics of a sequence (`scoring.MEASURES` defines each).

    Args:
      found: landmarks of the rendered frames.
      truth: landmarks of the ground truth; None where there is none.
      frames: int [N], indices in time.
      expected: lip shapes that the speech of these frames predicts; None where that is not known.

    Returns:
      values of the whole sequence, and per-frame values [N] with NaN in frames without a face.
    """
    whole: dict[str, float] = {"faces_found": float(found.valid.mean())}
    per_frame = {"lip_opening": _placed(mouth_openness(found.points[found.valid]), found.valid)}
    for name, marks in (("", found), ("_truth", truth)):
        if marks is None or not marks.valid.any():
            continue
        points, at = marks.points[marks.valid], frames[marks.valid]
        whole[f"jitter_px{name}"] = jitter(points[:, RIGID, :2], at)
        whole[f"jitter_deg{name}"] = rotation_jitter(points, at)
        if expected is not None:
            lips = lip_shapes(np.concatenate([expected.face[None], points]))[1:]
            offset = expected.model.measure_offset(expected.windows, lips, at)
            if offset is not None:
                whole[f"av_offset_s{name}"] = offset.seconds
                whole[f"av_fit{name}"] = offset.fit
                whole[f"av_margin{name}"] = offset.margin
    if truth is not None:
        whole_pair, per_frame_pair = _against_truth(found, truth, frames)
        whole, per_frame = whole | whole_pair, per_frame | per_frame_pair
    return {name: value for name, value in whole.items() if np.isfinite(value)}, per_frame


def _against_truth(
    found: Landmarks, truth: Landmarks, frames: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics that compare render and ground truth, over the frames where both have a face."""
    per_frame = {"lip_opening_truth": _placed(mouth_openness(truth.points[truth.valid]), truth.valid)}
    both = found.valid & truth.valid
    points, true_points = found.points[both], truth.points[both]
    distance = mouth_distance(points, true_points)
    shapes = np.abs(found.blendshapes[both] - truth.blendshapes[both])[:, _LOWER_FACE].mean(-1)
    values = {"lmd_px": distance, "lmd_percent": 100 * distance / eye_distance(true_points), "blendshape_error": shapes}
    per_frame |= {name: _placed(value, both) for name, value in values.items()}
    if not both.any():
        return {}, per_frame
    opening, true_opening = mouth_openness(points), mouth_openness(true_points)
    lag, best = best_lag(opening, true_opening, frames[both])
    spread = float(true_opening.std())
    whole = {name: float(value.mean()) for name, value in values.items()}
    whole |= {
        "lip_correlation": correlation(opening, true_opening),
        "lip_lag_frames": lag,
        "lip_correlation_at_lag": best,
        "lip_amplitude": float(opening.std()) / spread if spread > _STILL else float("nan"),
    }
    return whole, per_frame


def _placed(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The values scattered to the frames where `where` [N] is true; NaN in the others."""
    placed = np.full(len(where), np.nan)
    placed[where] = values
    return placed
