"""Head poses of a clip, refined from the landmarks' by optical flow and bundle adjustment (paper, section 3.6)."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from adnerf_jax.common.progress import say, track
from adnerf_jax.face import bundle_adjustment as bundle
from adnerf_jax.face import optical_flow as flow
from adnerf_jax.face.focal import estimate_focal
from adnerf_jax.face.landmarks import RIGID, Landmarks
from adnerf_jax.face.rigid import Pinhole, Poses, similarity
from adnerf_jax.face.tracking import UNITS_PER_CM, HeadTrack, camera_to_head, head_to_camera
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.resume import Facts

KEY_FRAMES = 120  # bundle-adjusted together, besides the anchors, for a clip of any length
ROUNDS = 2  # rounds of flow and adjustment: better poses find better correspondences; a third round changes nothing
MIN_POINTS = 30  # tracked points in the median frame; with fewer, the landmarks' poses are kept
# Prior standard deviations in cm: of a point about its depth on the mesh, of a vertex about the landmarks' mean face.
_POINT_PRIOR, _VERTEX_PRIOR = 3.0, 0.3
_FLOW, _LANDMARKS = 0, 1  # groups of observations
# Lower bounds of the noise: in pixels, and as a share of the face's extent. The errors of landmarks are correlated
# between neighbouring frames and with the pose, so their scatter underestimates them.
_FLOW_NOISE, _LANDMARK_NOISE = 0.05, 0.005


def refine_track(
    head: HeadTrack,
    found: Landmarks,
    clip: Clip,
    head_of: Callable[[int], np.ndarray],
    camera: Pinhole,
    folder: pathlib.Path,
) -> tuple[HeadTrack, Facts]:
    """Refines the poses of a track with dense correspondences between the frames.

    Args:
      head: the track fitted to the landmarks.
      found: the landmarks.
      clip: the frames.
      head_of: returns the head's mask, bool [H, W], of a frame.
      camera: intrinsics.
      folder: folder of a temporary file with the observations of the points, 15 KB per frame.

    Returns:
      the refined track, or the given one if the head has too few points to track; and the facts for the manifest.
    """
    frames = np.flatnonzero(head.valid)
    poses, shape = head_to_camera(head.transform), head.shape / UNITS_PER_CM
    extents = np.array([flow.extent_of(points) for points in found.points])
    anchors = _make_anchors(frames, poses, shape, found, clip, head_of)
    kept = head, {"reprojection_px": round(float(np.nanmean(head.reprojection_px)), 3), "flow_points": 0}
    count = sum(len(anchor.pixels) for anchor in anchors)
    if len(frames) < 3 or count < MIN_POINTS:
        return kept

    start = [_unprojected(anchor, poses, camera) for anchor in anchors]
    points = np.concatenate([*start, shape[RIGID]])
    prior = np.repeat([_POINT_PRIOR, _VERTEX_PRIOR], [count, len(RIGID)])
    floor = np.array([_FLOW_NOISE, _LANDMARK_NOISE * np.median(extents)])
    spread = frames[np.linspace(0, len(frames) - 1, min(KEY_FRAMES, len(frames))).round().astype(int)]
    keys = np.union1d(spread, [anchor.frame for anchor in anchors])
    for number in range(1, ROUNDS + 1):
        pictures = track(clip.pick(frames), f"optical flow {number}/{ROUNDS}", len(frames))
        matches = flow.match(pictures, anchors, points, poses, camera, extents)
        with tempfile.TemporaryFile(dir=folder) as file:
            seen = bundle.Observations.spool(file, _with_vertices(matches, frames, found, count))
            shown = _count_tracked(seen, len(found.valid))
            if np.median(shown[frames]) < MIN_POINTS:
                say("pose: too few points of the head can be tracked by optical flow; the landmarks' poses are kept")
                return kept
            of_keys = seen.of_frames(keys, len(found.valid))
            adjusted, points = bundle.adjust(of_keys, poses.take(keys), points, prior, camera, floor)
            poses = Poses(poses.rotation.copy(), poses.translation.copy())
            poses.rotation[keys], poses.translation[keys] = adjusted
            poses = bundle.track_poses(seen, poses, points, camera, floor)
            if number == ROUNDS:
                reprojection, facts = _reprojection(seen, poses, points, camera)
            del seen  # unmaps the file: the next round needs its space
    tracked = of_keys.take(of_keys.group == _FLOW)
    by_motion = estimate_focal(tracked, poses.take(keys), points, camera, floor[:1])
    poses = _with_axes_of(shape[RIGID], points[count:], poses)
    refined = dataclasses.replace(head, transform=camera_to_head(poses), reprojection_px=reprojection)
    flow_points = round(float(np.median(shown[frames])))
    return refined, {**facts, "flow_points": flow_points, "focal_by_motion": by_motion.to_json()}


def _with_vertices(
    matches: Iterable[flow.Matches], frames: np.ndarray, found: Landmarks, first: int
) -> Iterator[tuple[int, flow.Matches]]:
    """For each frame its matches and its rigid landmarks, as observations of the points from index `first` on."""
    vertices = first + np.arange(len(RIGID))
    for row, tracked in zip(frames, matches, strict=False):
        yield _FLOW, tracked
        yield _LANDMARKS, flow.Matches(np.full(len(RIGID), row), vertices, found.points[row, RIGID, :2])


def _count_tracked(seen: bundle.Observations, frames: int) -> np.ndarray:
    """Number of points found by optical flow in each frame, int [frames]."""
    count = np.zeros(frames, int)
    for part in seen.chunks():
        count += np.bincount(part.frame[part.group == _FLOW], minlength=frames)
    return count


def _reprojection(
    seen: bundle.Observations, poses: Poses, points: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, Facts]:
    """Mean reprojection error in pixels of the tracked points in each frame, [N], NaN without points; and the facts."""
    frames = len(poses.rotation)
    total, count = np.zeros((2, frames)), np.zeros((2, frames))
    for part in seen.chunks():
        missed = bundle.residual_lengths(part, poses, points, camera)
        for group in (_FLOW, _LANDMARKS):
            own = part.group == group
            total[group] += np.bincount(part.frame[own], missed[own], frames)
            count[group] += np.bincount(part.frame[own], minlength=frames)
    sample = seen.sample()
    median = np.median(bundle.residual_lengths(sample, poses, points, camera)[sample.group == _FLOW])
    mean = total.sum(1) / count.sum(1)
    return np.where(count[_FLOW] > 0, total[_FLOW] / np.maximum(count[_FLOW], 1), np.nan), {
        "reprojection_px": round(float(mean[_FLOW]), 3),
        "reprojection_median_px": round(float(median), 3),
        "landmark_reprojection_px": round(float(mean[_LANDMARKS]), 3),
    }


def _make_anchors(
    frames: np.ndarray,
    poses: Poses,
    shape: np.ndarray,
    found: Landmarks,
    clip: Clip,
    head_of: Callable[[int], np.ndarray],
) -> list[flow.Anchor]:
    chosen = frames[flow.choose_anchors(poses.rotation[frames])]
    return [
        flow.make_anchor(i, rgb, head_of(i), found.points[i, :, :2], poses.take(np.array([i])).move(shape)[0])
        for i, rgb in clip.pick(chosen)
    ]


def _unprojected(anchor: flow.Anchor, poses: Poses, camera: Pinhole) -> np.ndarray:
    """An anchor's points [K, 3] cm in the head's frame, at their initial depths."""
    seen = camera.unproject(anchor.pixels.astype(np.float64), anchor.depth)
    return (seen - poses.translation[anchor.frame]) @ poses.rotation[anchor.frame]


def _with_axes_of(shape: np.ndarray, points: np.ndarray, poses: Poses) -> Poses:
    """The poses of the head in the scale and axes of `shape` [V, 3], to which `points` [V, 3] are aligned.

    Bundle adjustment leaves both free; the reprojections do not change.
    """
    turn, size = (value[0] for value in similarity(points, shape[None]))
    shift = shape.mean(0) - size * turn @ points.mean(0)
    rotation = poses.rotation @ turn.T
    return Poses(rotation, size * poses.translation - rotation @ shift)
