"""Head poses of a whole clip: from landmarks, then by optical flow and bundle adjustment (paper, section 3.6)."""

import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from adnerf_jax.common.progress import say, track
from adnerf_jax.face import bundle, flow
from adnerf_jax.face.focal import estimate_focal
from adnerf_jax.face.landmarks import RIGID, Landmarks
from adnerf_jax.face.rigid import Pinhole, Poses, similarity
from adnerf_jax.face.tracking import UNITS_PER_CM, HeadTrack, camera_to_head, head_to_camera
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.resume import Facts

KEY_FRAMES = 120  # that are adjusted together, beside the anchors, however long the clip is
ROUNDS = 2  # better poses find better correspondences; a third changes nothing
LEAST_POINTS = 30  # that the median frame must show, or the landmarks' poses stay
# Standard deviations in cm: of a point's depth as guessed from the mesh, of a vertex from the landmarks' mean face.
_POINT_PRIOR, _VERTEX_PRIOR = 3.0, 0.3
_FLOW, _LANDMARKS = 0, 1  # groups of observations
# Least noise. Landmarks err alike in neighbouring frames and with the pose, which their scatter does not show.
_FLOW_NOISE, _LANDMARK_NOISE = 0.05, 0.005  # px; part of the face's extent


def refine_track(
    head: HeadTrack,
    found: Landmarks,
    clip: Clip,
    head_of: Callable[[int], np.ndarray],
    camera: Pinhole,
    folder: pathlib.Path,
) -> tuple[HeadTrack, Facts]:
    """Improves a track by dense correspondences between the frames.

    Args:
      head: from the landmarks.
      found: the landmarks.
      clip: the frames.
      head_of: gives the head's mask, bool [H, W], of a frame.
      camera: intrinsics.
      folder: where there is room for what was seen of the points, 15 KB a frame; nothing stays.

    Returns:
      the track, and what the manifest says of it; the given track where the head shows too few points to follow.
    """
    frames = np.flatnonzero(head.valid)
    poses, shape = head_to_camera(head.transform), head.shape / UNITS_PER_CM
    extents = np.array([flow.extent_of(points) for points in found.points])
    anchors = _make_anchors(frames, poses, shape, found, clip, head_of)
    kept = head, {"reprojection_px": round(float(np.nanmean(head.reprojection_px)), 3), "flow_points": 0}
    count = sum(len(anchor.pixels) for anchor in anchors)
    if len(frames) < 3 or count < LEAST_POINTS:
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
            shown = sum(
                np.bincount(part.frame[part.group == _FLOW], minlength=len(found.valid)) for part in seen.parts()
            )
            if np.median(shown[frames]) < LEAST_POINTS:
                say("pose: too little of the head can be followed from frame to frame; the landmarks' poses are kept")
                return kept
            of_keys = seen.of_frames(keys, len(found.valid))
            adjusted, points = bundle.adjust(of_keys, poses.take(keys), points, prior, camera, floor)
            poses = Poses(poses.rotation.copy(), poses.translation.copy())
            poses.rotation[keys], poses.translation[keys] = adjusted
            poses = bundle.follow(seen, poses, points, camera, floor)
            if number == ROUNDS:
                reprojection, facts = _reprojection(seen, poses, points, camera)
            del seen  # and with it what is mapped: the next round needs the room
    followed = of_keys.take(of_keys.group == _FLOW)
    by_motion = estimate_focal(followed, poses.take(keys), points, camera, floor[:1])
    poses = _with_axes_of(shape[RIGID], points[count:], poses)
    refined = head.replace(transform=camera_to_head(poses), reprojection_px=reprojection)
    flow_points = round(float(np.median(shown[frames])))
    return refined, {**facts, "flow_points": flow_points, "focal_by_motion": by_motion.to_json()}


def _with_vertices(
    matches: Iterable[flow.Matches], frames: np.ndarray, found: Landmarks, first: int
) -> Iterator[tuple[int, flow.Matches]]:
    """Each frame's matches, and after them its rigid landmarks as points from number `first` on."""
    vertices = first + np.arange(len(RIGID))
    for row, followed in zip(frames, matches, strict=False):
        yield _FLOW, followed
        yield _LANDMARKS, flow.Matches(np.full(len(RIGID), row), vertices, found.points[row, RIGID, :2])


def _reprojection(
    seen: bundle.Observations, poses: Poses, points: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, Facts]:
    """By how many px the followed points are missed in each frame, [N], NaN where there are none; and in all."""
    frames = len(poses.rotation)
    total, count = np.zeros((2, frames)), np.zeros((2, frames))
    for part in seen.parts():
        missed = bundle.missed_lengths(part, poses, points, camera)
        for group in (_FLOW, _LANDMARKS):
            own = part.group == group
            total[group] += np.bincount(part.frame[own], missed[own], frames)
            count[group] += np.bincount(part.frame[own], minlength=frames)
    sample = seen.sample()
    median = np.median(bundle.missed_lengths(sample, poses, points, camera)[sample.group == _FLOW])
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
        flow.make_anchor(i, rgb, head_of(i), found.points[i, :, :2], poses.take([i]).move(shape)[0])
        for i, rgb in clip.pick(chosen)
    ]


def _unprojected(anchor: flow.Anchor, poses: Poses, camera: Pinhole) -> np.ndarray:
    """An anchor's points [K, 3] cm in the head's frame, at the depths to start from."""
    seen = camera.unproject(anchor.pixels.astype(np.float64), anchor.depth)
    return (seen - poses.translation[anchor.frame]) @ poses.rotation[anchor.frame]


def _with_axes_of(shape: np.ndarray, points: np.ndarray, poses: Poses) -> Poses:
    """The poses with the size and axes of the head in which its vertices `points` [V, 3] are nearest to `shape`."""
    turn, size = (value[0] for value in similarity(points, shape[None]))
    shift = shape.mean(0) - size * turn @ points.mean(0)
    rotation = poses.rotation @ turn.T
    return Poses(rotation, size * poses.translation - rotation @ shift)
