"""Head poses of a whole clip: from landmarks, then by optical flow and bundle adjustment (paper, section 3.6)."""

from collections.abc import Callable

import numpy as np

from adnerf_jax.face import bundle, flow
from adnerf_jax.face.focal import estimate_focal
from adnerf_jax.face.landmarks import RIGID, Landmarks
from adnerf_jax.face.rigid import Pinhole, Poses, similarity
from adnerf_jax.face.tracking import UNITS_PER_CM, HeadTrack, camera_to_head, head_to_camera
from adnerf_jax.progress import say, track
from preprocessing.clip import Clip
from preprocessing.resume import Facts

KEY_FRAMES = 120  # that are adjusted together, beside the anchors, however long the clip is
ROUNDS = 2  # better poses find better correspondences; a third changes nothing
LEAST_POINTS = 30  # that the median frame must show, or the landmarks' poses stay
# Standard deviations in cm: of a point's depth as guessed from the mesh, of a vertex from the landmarks' mean face.
_POINT_PRIOR, _VERTEX_PRIOR = 3.0, 0.3
# Least noise. Landmarks err alike in neighbouring frames and with the pose, which their scatter does not show.
_FLOW_NOISE, _LANDMARK_NOISE = 0.05, 0.005  # px; part of the face's extent


def refine_track(
    head: HeadTrack, found: Landmarks, clip: Clip, head_of: Callable[[int], np.ndarray], camera: Pinhole
) -> tuple[HeadTrack, Facts]:
    """Improves a track by dense correspondences between the frames.

    Args:
      head: from the landmarks.
      found: the landmarks.
      clip: the frames.
      head_of: gives the head's mask, bool [H, W], of a frame.
      camera: intrinsics.

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
    vertices = flow.Matches(
        np.repeat(frames, len(RIGID)),
        np.tile(count + np.arange(len(RIGID)), len(frames)),
        found.points[frames][:, RIGID, :2].reshape(-1, 2).astype(np.float64),
    )
    spread = frames[np.linspace(0, len(frames) - 1, min(KEY_FRAMES, len(frames))).round().astype(int)]
    keys = np.union1d(spread, [anchor.frame for anchor in anchors])
    for number in range(1, ROUNDS + 1):
        pictures = track(clip.pick(frames), f"optical flow {number}/{ROUNDS}", len(frames))
        matches = flow.match(pictures, anchors, points, poses, camera, extents)
        if np.median(np.bincount(matches.frame, minlength=len(found.valid))[frames]) < LEAST_POINTS:
            say("pose: too little of the head can be followed from frame to frame; the landmarks' poses are kept")
            return kept
        seen = bundle.Observations.join(matches, vertices)
        adjusted, points = bundle.adjust(
            seen.of_frames(keys, len(found.valid)), poses.take(keys), points, prior, camera, floor
        )
        poses = Poses(poses.rotation.copy(), poses.translation.copy())
        poses.rotation[keys], poses.translation[keys] = adjusted
        poses, missed = bundle.follow(seen, poses, points, camera, floor)
    is_flow = seen.group == 0
    by_motion = estimate_focal(
        seen.take(is_flow).of_frames(keys, len(found.valid)), poses.take(keys), points, camera, floor[:1]
    )
    poses = _with_axes_of(shape[RIGID], points[count:], poses)
    reprojection = np.full(len(head.valid), np.nan)
    rows = seen.frame[is_flow]
    totals, counts = (np.bincount(rows, w, len(head.valid)) for w in (missed[is_flow], None))
    reprojection[counts > 0] = (totals / np.maximum(counts, 1))[counts > 0]
    refined = head.replace(transform=camera_to_head(poses), reprojection_px=reprojection)
    return refined, {
        "reprojection_px": round(float(missed[is_flow].mean()), 3),
        "reprojection_median_px": round(float(np.median(missed[is_flow])), 3),
        "landmark_reprojection_px": round(float(missed[~is_flow].mean()), 3),
        "flow_points": round(float(np.median(counts[frames]))),
        "focal_by_motion": by_motion.to_json(),
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
