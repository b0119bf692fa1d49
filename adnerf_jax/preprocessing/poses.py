"""Head poses of a clip, refined from the landmarks' by optical flow and bundle adjustment (paper, section 3.6)."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

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
# Vertices of forehead, temples and nose that no pose is fitted to, near `RIGID`.
HELD_OUT = np.array(
    "3 21 44 45 51 54 68 103 108 114 127 128 162 174 188 196 236 251 274 275 281 284 298 332 337 343 356 357 389 399 "
    "412 419 456".split(),
    dtype=np.int64,
)
_EVERY = 8  # of the points of an anchor, one in so many is held out as well
_PLACE_FRAMES = 500  # frames that suffice to find the places of held-out points
# Prior standard deviations in cm: of a point about its depth on the mesh, of a vertex about the landmarks' mean face.
_POINT_PRIOR, _VERTEX_PRIOR = 3.0, 0.3
_FLOW, _LANDMARKS = 0, 1  # groups of observations
# Lower bounds of the noise: in pixels, and as a share of the face's extent. The errors of landmarks are correlated
# between neighbouring frames and with the pose, so their scatter underestimates them.
_FLOW_NOISE, _LANDMARK_NOISE = 0.05, 0.005
_NOISE_GROWTH = 1.5  # of all frames over that of the key frames, which are adjusted freely: more is no noise
# A refined pose is worse where its held-out errors, averaged over `_NEIGHBOURS`, are so many times as large (geometric
# mean of both kinds): the better poses of the built-in subject are up to 1.25 times as far from landmarks and flow
# where both err.
_WORSE, _NEIGHBOURS = 1.25, 5
# And where the landmarks contradict it by far: flow that follows the background or swinging hair agrees with itself.
_CONTRADICTED, _CONTRADICTED_SHARE = 2.0, 0.01  # times the landmarks' poses' error, and share of the face's extent
_BLEND = 4  # frames over which poses pass from refined ones to the landmarks' own
_MOST_WORSE = 0.5  # share of the frames: with more, the landmarks' poses are kept throughout


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
    landmarks_error = round(float(np.nanmean(head.reprojection_px)), 3)
    kept = head, {"reprojection_px": landmarks_error, "flow_points": 0, "kept_from_landmarks": len(frames)}
    count = sum(len(anchor.pixels) for anchor in anchors)
    if len(frames) < 3 or count < MIN_POINTS:
        return kept

    start = poses
    first = np.concatenate([*(_unprojected(anchor, poses, camera) for anchor in anchors), shape[RIGID]])
    points = first
    held_out = np.arange(count + len(RIGID)) % _EVERY == _EVERY - 1
    held_out[count:] = False
    prior = np.repeat([_POINT_PRIOR, _VERTEX_PRIOR], [count, len(RIGID)])
    floor = np.array([_FLOW_NOISE, _LANDMARK_NOISE * np.median(extents)])
    spread = frames[np.linspace(0, len(frames) - 1, min(KEY_FRAMES, len(frames))).round().astype(int)]
    keys = np.union1d(spread, [anchor.frame for anchor in anchors])
    for number in range(1, ROUNDS + 1):
        pictures = track(clip.pick(frames), f"optical flow {number}/{ROUNDS}", len(frames))
        matches = flow.match(pictures, anchors, points, poses, camera, extents)
        with tempfile.TemporaryFile(dir=folder) as file:
            left: list[flow.Matches] = []
            fitted = _without(held_out, matches, left)
            seen = bundle.Observations.spool(file, _with_vertices(fitted, frames, found, count))
            shown = _count_tracked(seen, len(found.valid))
            if np.median(shown[frames]) < MIN_POINTS:
                say("pose: too few points of the head can be tracked by optical flow; the landmarks' poses are kept")
                return kept
            of_keys = seen.of_frames(keys, len(found.valid))
            adjusted, points = bundle.adjust(of_keys, poses.take(keys), points, prior, camera, floor)
            poses = Poses(poses.rotation.copy(), poses.translation.copy())
            poses.rotation[keys], poses.translation[keys] = adjusted
            lengths = bundle.residual_lengths(of_keys, adjusted, points, camera)
            ceiling = _NOISE_GROWTH * bundle.group_noise(lengths, of_keys.group, floor)
            poses = bundle.track_poses(seen, poses, points, camera, floor, ceiling, bundle.acceleration(start))
            if number == ROUNDS:
                reprojection, facts = _reprojection(seen, poses, points, camera)
            del seen  # unmaps the file: the next round needs its space
    tracked = of_keys.take(of_keys.group == _FLOW)
    by_motion = estimate_focal(tracked, poses.take(keys), points, camera, floor[:1])
    poses = _with_axes_of(start, shape[RIGID], points[count:], poses, frames)
    judge = _Judge(flow.Matches.join(*left), first, found, frames, shape, camera)
    before, after = judge.errors(start), judge.errors(poses)
    share = _refined_share(before, after, head.valid, np.median(extents))
    worse = int((share[frames] == 0).sum())
    if worse > _MOST_WORSE * len(frames):
        say("pose: refinement by optical flow made most poses worse; the landmarks' poses are kept")
        worse, poses, reprojection = len(frames), start, head.reprojection_px
        facts["reprojection_px"] = landmarks_error
    elif worse:
        poses = _blended(start, poses, share)
    after = judge.errors(poses)
    refined = dataclasses.replace(head, transform=camera_to_head(poses), reprojection_px=reprojection)
    return refined, {
        **facts,
        "flow_points": round(float(np.median(shown[frames]))),
        "focal_by_motion": by_motion.to_json(),
        "kept_from_landmarks": worse,
        "extent_px": round(float(np.median(extents)), 1),
        "held_out": {
            name: {"landmarks_alone": _median_and_worst(a[frames]), "refined": _median_and_worst(b[frames])}
            for name, a, b in zip(("flow_px", "landmarks_px"), before, after, strict=True)
        },
    }


class _Judge:
    """Compares poses on points that none was fitted to: vertices of the upper face, and points of the optical flow.

    The places of the points on the head, which are not known, are those that fit the compared poses best. Both kinds
    count, because each errs in its own way: landmarks err together, which favours poses fitted to others of them, and
    so does the flow of hair that moves by itself.
    """

    def __init__(
        self,
        matches: flow.Matches,
        points: np.ndarray,
        found: Landmarks,
        frames: np.ndarray,
        shape: np.ndarray,
        camera: Pinhole,
    ):
        vertices = flow.Matches(
            np.repeat(frames, len(HELD_OUT)),
            np.tile(len(points) + np.arange(len(HELD_OUT)), len(frames)),
            found.points[frames][:, HELD_OUT, :2].reshape(-1, 2),
        )
        self._seen = bundle.Observations.join(matches, vertices)
        self._points, self._camera = np.concatenate([points, shape[HELD_OUT]]), camera
        self._some = np.isin(self._seen.frame, frames[:: -(-len(frames) // _PLACE_FRAMES)])

    def errors(self, poses: Poses) -> np.ndarray:
        """Median error [2, N] px of the flow's points (0 in frames without) and of the vertices in each frame."""
        places = bundle.locate(self._seen.take(self._some), poses, self._points, self._camera)
        length = bundle.residual_lengths(self._seen, poses, places, self._camera)
        medians = np.zeros((2, len(poses.rotation)))
        for group in (_FLOW, _LANDMARKS):
            own = np.flatnonzero(self._seen.group == group)
            frame = self._seen.frame[own]
            own = own[np.lexsort((length[own], frame))]
            count = np.bincount(frame, minlength=medians.shape[1])
            middle = (np.cumsum(count) - count + count // 2)[count > 0]
            medians[group, count > 0] = length[own[middle]]
        return medians


def _without(held_out: np.ndarray, matches: Iterable[flow.Matches], left: list[flow.Matches]) -> Iterator[flow.Matches]:
    """The matches of points that are not held out; those of the others are appended to `left`."""
    for found in matches:
        out = held_out[found.point]
        left.append(flow.Matches(*(column[out] for column in found)))
        yield flow.Matches(*(column[~out] for column in found))


def _median_and_worst(errors: np.ndarray) -> list[float]:
    return [round(float(np.median(errors)), 3), round(float(errors.max()), 3)]


def _refined_share(before: np.ndarray, after: np.ndarray, valid: np.ndarray, extent: float) -> np.ndarray:
    """Share [N] in [0, 1] of the refined pose: 0 where it is worse by the errors [2, N] px (`_Judge.errors`)."""
    frames = np.arange(len(valid))
    # Errors below the noise of their kind do not tell poses apart.
    noise = np.array([_FLOW_NOISE, _LANDMARK_NOISE * extent])[:, None]
    before, after = (ndimage.uniform_filter1d(np.hypot(e, noise), _NEIGHBOURS, axis=1) for e in (before, after))
    ratio = after / before
    contradicted = after[_LANDMARKS] > _CONTRADICTED * before[_LANDMARKS] + _CONTRADICTED_SHARE * extent
    at = np.flatnonzero(valid & (contradicted | (ratio.prod(0) > _WORSE**2)))
    if not len(at):
        return np.ones(len(valid))
    near = np.searchsorted(at, frames)
    left, right = at[np.maximum(near - 1, 0)], at[np.minimum(near, len(at) - 1)]
    share = np.clip(np.minimum(abs(frames - left), abs(frames - right)) / _BLEND, 0, 1)
    return share * share * (3 - 2 * share)


def _blended(start: Poses, refined: Poses, share: np.ndarray) -> Poses:
    """Poses between `start` and `refined`, by the share [N] of the latter."""
    turn = Rotation.from_matrix(refined.rotation @ start.rotation.transpose(0, 2, 1)).as_rotvec()
    return start.stepped(share[:, None] * np.hstack([turn, refined.translation - start.translation]))


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


def _with_axes_of(start: Poses, shape: np.ndarray, points: np.ndarray, poses: Poses, frames: np.ndarray) -> Poses:
    """The poses with the axes of `start`, on average over `frames`, and the scale and place of `shape` [V, 3].

    Bundle adjustment leaves them free; the reprojections of `points` [V, 3], the adjusted `shape`, do not change. The
    axes are not those that align `points` best: relief and turn hardly differ in a picture, so that points of a head
    that turns little may be sheared, and axes aligned to them tilted.
    """
    turns = start.rotation[frames].transpose(0, 2, 1) @ poses.rotation[frames]
    turn = Rotation.from_matrix(turns).mean().as_matrix()
    _, size = similarity(points, shape[None])
    shift = shape.mean(0) - size[0] * turn @ points.mean(0)
    rotation = poses.rotation @ turn.T
    return Poses(rotation, size[0] * poses.translation - rotation @ shift)
