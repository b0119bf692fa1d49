"""A driving video: another video as a source of head motion and blinks (paper, section 4.4)."""

import dataclasses
import functools
import pathlib

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.data.person import Person
from adnerf_jax.face.landmarks import Landmarks, detect_video
from adnerf_jax.face.tracking import track_head
from adnerf_jax.inference.head_motion import apply_motion, motion_between, rest_frame
from adnerf_jax.inference.pose_sequences import PoseSource, recorded
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.models.codes.registry import driven_codes
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.face_landmarker import FaceLandmarker

_LARGEST = 640  # pixels of the longer side that the video is reduced to: more do not improve the landmarks
_FOCAL = 8 / 3  # focal length in widths of the picture, as the preparation assumes for an unknown camera


def video_poses(path: pathlib.Path, person: Person) -> PoseSource:
    """The motion of the head in a video, from its own rest pose to this person's.

    Raises:
      UserError: not a video, or no face in it.
    """
    motions, landmarks = _tracked(path, path.stat().st_mtime_ns)
    rest = person.transforms[rest_frame(person.transforms)]
    codes = {name: code for name, code in driven_codes().items() if name in person.tracks}
    found = {name: code.retarget(landmarks, person.tracks[name]) for name, code in codes.items()}
    tracks = {name: track for name, track in found.items() if track is not None}
    source = recorded(np.stack([apply_motion(rest, motion) for motion in motions]), tracks)
    return dataclasses.replace(source, length=None)  # back and forth where the speech is longer


@functools.lru_cache(maxsize=1)  # landmarks are 6 kB a frame
def _tracked(path: pathlib.Path, changed: int) -> tuple[np.ndarray, Landmarks]:
    """Motions [N, 6] from the video's rest pose, and the landmarks; `changed` is the time of the file's last change."""
    del changed
    info = probe(path)
    info.say_conversions()
    shrink = min(1.0, _LARGEST / max(info.width, info.height))
    width, height = round(info.width * shrink), round(info.height * shrink)
    say(f"tracking the head in {path}")
    found = detect_video(read_frames(path, FPS, size=(width, height)), round(info.duration * FPS))
    if not found.valid.any():
        raise UserError(f"{path} shows no face: a video to take poses from must show one person's face")
    canonical = FaceLandmarker(weights.path("face_landmarker")).canonical
    head = track_head(found.points, found.valid, _FOCAL * width, width / 2, height / 2, canonical)
    rest = head.transform[rest_frame(head.transform)]
    return motion_between(rest, head.transform), found
