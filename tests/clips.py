"""Synthetic videos for tests, and stubs for the networks of the preparation."""

from fractions import Fraction

import av
import cv2
import numpy as np

from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.face import parsing
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.tracking import HeadTrack
from adnerf_jax.media.video import VideoWriter
from adnerf_jax.preprocessing import steps
from adnerf_jax.preprocessing.__main__ import main

FRAMES = 55
WITHOUT_FACE, WITHOUT_POSE = (3, 20), 30
SIZE = 64
LEVEL = 9  # grey levels between consecutive pictures: far more than the error of H.264 on a flat picture


def grey(index: int) -> np.ndarray:
    """A flat picture whose grey level encodes its index."""
    return np.full((SIZE, SIZE, 3), 10 + LEVEL * index, np.uint8)


def clicks(rate: int, seconds: float, *at: float) -> np.ndarray:
    """Silence with bursts of 2 ms."""
    samples = np.zeros(round(seconds * rate), np.float32)
    for time in at:
        samples[round(time * rate) : round((time + 0.002) * rate)] = 0.8
    return samples


def onset(samples: np.ndarray, rate: int) -> float:
    """Seconds to the first loud sample."""
    return int(np.argmax(np.abs(samples) > 0.25)) / rate


def encode(
    path,
    picture_times=(),
    pictures=None,
    sound=None,
    sound_at=(0.0,),
    codec="pcm_s16le",
    rotate=None,
    pix_fmt="yuv420p",
) -> None:
    """Writes a file with exactly the given time stamps.

    Args:
      picture_times: time of each picture in seconds.
      pictures: the pictures; those of `grey` by default.
      sound: (float32 [C, T], rate), encoded once at each of the times `sound_at`.
      codec: codec of the sound.
      rotate: keyword arguments of the stream's display rotation.
      pix_fmt: pixel format of the stream.
    """
    with av.open(str(path), "w") as out:
        video = audio = None
        if len(picture_times):
            pictures = [grey(i) for i in range(len(picture_times))] if pictures is None else pictures
            height, width = pictures[0].shape[:2]
            video = out.add_stream("libx264", rate=1000, width=width, height=height, options={"crf": "10", "bf": "0"})
            video.codec_context.time_base = Fraction(1, 1000)
            video.pix_fmt = pix_fmt
            if rotate:
                video.set_display_rotation(**rotate)
        if sound is not None:
            samples, rate = sound
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
            audio = out.add_stream(codec, rate=rate, layout=layout)
        for index, time in enumerate(picture_times):
            frame = av.VideoFrame.from_ndarray(pictures[index], "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
        if audio is not None:
            for at in sound_at:
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), "fltp", layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, round(at * rate), Fraction(1, rate)
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))


def portrait(k: int, size: tuple[int, int]) -> np.ndarray:
    """Picture `k`: a bright square, the "person", that moves over a grey gradient; `size` is height and width."""
    height, width = size
    picture = np.repeat(np.linspace(40, 120, width)[None, :, None], height, axis=0).repeat(3, axis=2)
    at = width // 8 + abs((k + 24) % 48 - 24) * width // SIZE  # back and forth: a jump would be a cut
    picture[height * 3 // 8 :, at : at + width // 4] = (250, 200, 30)
    return picture.astype(np.uint8)


def film_portrait(path, frames=FRAMES, sound=True, size=SIZE, loudness=0.3):
    """A video of `portrait` with a tone as its sound."""
    tone = loudness * np.sin(2 * np.pi * 220 * np.arange(frames * 640) / SAMPLE_RATE).astype(np.float32)
    with VideoWriter(path, size, size, sound=(tone, SAMPLE_RATE) if sound else None) as writer:
        for k in range(frames):
            writer.write(portrait(k, (size, size)))
    return path


def stand_in(monkeypatch) -> dict:
    """Stubs detection, parsing and tracking.

    Returns:
      a dict that counts the parsed frames ("parsed"); "die_at" sets the one at which an interrupt is raised, and
      "faces" whether there are faces.
    """
    state = {"parsed": 0, "die_at": None, "faces": True}
    rng = np.random.default_rng(0)
    layout = rng.uniform(0.3, 0.7, (478, 3)).astype(np.float32) * SIZE
    # Forehead, chin and cheeks: room for hair and ears around them.
    layout[[10, 152, 234, 454], :2] = np.float32([(0.5, 0.35), (0.5, 0.7), (0.35, 0.5), (0.65, 0.5)]) * SIZE

    def detect_video(frames, total=None):
        count = sum(1 for _ in frames)
        valid = np.full(count, state["faces"])
        valid[[i for i in WITHOUT_FACE if i < count]] = False
        points = layout + np.arange(count, dtype=np.float32)[:, None, None] * 0.01
        return Landmarks(points, valid, np.zeros((count, 52), np.float32))

    def parse_video(pick, landmarks, start, parser, agreements=None):
        for _, rgb in pick(range(start, len(landmarks.valid))):
            state["parsed"] += 1
            if state["parsed"] == state["die_at"]:
                raise KeyboardInterrupt
            parts = np.zeros(rgb.shape[:2], np.uint8)
            person = cv2.dilate((rgb[..., 0] > 190).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            rows = np.arange(len(parts))[:, None]
            for part, first in ((parsing.HEAD, 0), (parsing.NECK, 40), (parsing.TORSO, 48)):
                parts[person & (rows >= first)] = part
            yield parts

    def track_head(points, valid, focal, cx, cy, canonical):
        transform = np.tile(np.eye(4, dtype=np.float32), (len(points), 1, 1))
        transform[:, 2, 3] = 0.8
        tracked = valid & (np.arange(len(valid)) != WITHOUT_POSE)
        return HeadTrack(transform, tracked, np.where(tracked, 0.5, np.nan), np.zeros((468, 3), np.float32))

    monkeypatch.setattr(steps.face_landmarks, "detect_video", detect_video)
    monkeypatch.setattr(steps.face_landmarks, "count_faces", lambda rgb: 1)
    monkeypatch.setattr(steps.covered_mouth, "covered_frames", lambda colours: np.zeros(len(colours), bool))
    monkeypatch.setattr(steps.face_parsing, "parse_video", parse_video)
    monkeypatch.setattr(steps.tracking, "track_head", track_head)
    refined = {"reprojection_px": 0.5, "kept_from_landmarks": 0}
    monkeypatch.setattr(steps, "refine_track", lambda head, *others: (head, refined))
    monkeypatch.setattr(steps, "canonical_face", lambda: np.zeros((468, 3)))
    return state


def picked(frames):
    """A stub of `Clip.pick` for a list of frames."""
    return lambda numbers: ((i, frames[i]) for i in numbers if i < len(frames))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != schema.MANIFEST
    }


def fails(capsys, *argv, status=2):
    assert main([str(a) for a in argv]) == status
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line
