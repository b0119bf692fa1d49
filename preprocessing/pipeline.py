"""From a portrait video to a dataset: the steps in their order.

Each step reads the video anew where it needs pixels (decoding is cheap, exact and the same every time, `ori_imgs/` is
lossy) and holds only a few frames at a time. `resume.py` says which steps a rerun skips.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from adnerf_jax import schema
from adnerf_jax.articulation import lip_shapes
from adnerf_jax.errors import UserError
from adnerf_jax.face import landmarks as face_landmarks
from adnerf_jax.face import parsing as face_parsing
from adnerf_jax.face import tracking
from adnerf_jax.files import atomic_path, read_json, write_bytes
from adnerf_jax.media.audio import read_audio, write_wav
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.media.video import VideoInfo, probe, read_frames
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.face_mesh import FaceLandmarker
from adnerf_jax.progress import duration, say, track
from adnerf_jax.speech import get_encoder, load_deepspeech, speech_windows
from preprocessing import background, sync, transforms
from preprocessing.resume import Facts, Step, run_steps

FOCAL_PER_WIDTH = 8 / 3  # 1200 at 450 pixels, as the published tracker finds for its example
SHORTEST = 1.5  # seconds
LEAST_FACES = 0.5  # of the frames
SOUND_RATE = 16000
LEAST_OFFSET = 1 / schema.FPS  # seconds: smaller ones are left as they are
MOST_OFFSET = 5.0  # seconds that can be given
SOUND_SHORTER_BY_AT_MOST = 25  # rows of a user's speech features, one second: the last row is repeated
FRAME_QUALITY, TARGET_QUALITY = 95, 98  # JPEG
WRITERS = 2  # threads that compress pictures while the next one is decoded

Item, Result = TypeVar("Item"), TypeVar("Result")
Records = dict[str, Facts]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is prepared, and how.

    Attributes:
      video: the portrait video, and what it says of itself.
      out: the dataset's folder.
      focal: focal length in pixels.
      speech: name of a speech encoder, or the path of a DeepSpeech `.npy`.
      audio_offset: seconds by which the sound is late; None: measured.
    """

    video: VideoInfo
    out: pathlib.Path
    focal: float
    speech: str
    audio_offset: float | None = None

    @property
    def speech_is_file(self) -> bool:
        """Whether the user brings the speech features."""
        return self.speech.endswith(".npy")


def prepare(
    video: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    focal: float | None = None,
    speech: str = "whisper",
    audio_offset: float | None = None,
    redo: str | None = None,
) -> None:
    """Makes a dataset of a portrait video; what an earlier run has finished is kept.

    Args:
      video: a file with one person talking before a still background, and sound.
      out: the dataset's folder (`adnerf_jax.schema` says what is in it).
      focal: focal length in pixels; 8/3 of the width by default.
      speech: "whisper", "logmel", or the path of DeepSpeech features (`.npy`).
      audio_offset: seconds by which the sound is late against the lips (negative: early), and is moved back. By
        default it is measured, and moved back where the measurement is clear and says more than a frame.
      redo: name of a step to do again; those that use its results follow.

    Raises:
      UserError: the video has no sound, no face, is too short or not a video; or `out` holds something else.
      OSError: the files cannot be written; the disk is full.
    """
    start = time.monotonic()
    info, out = probe(video), pathlib.Path(out)
    _check_video(info)
    if focal is not None and not (math.isfinite(focal) and focal > 0):
        raise UserError(f"the focal length is in pixels and greater than 0, not {focal}")
    if audio_offset is not None and not abs(audio_offset) <= MOST_OFFSET:
        raise UserError(
            f"the sound's offset is in seconds, from -{MOST_OFFSET:g} to {MOST_OFFSET:g}, not {audio_offset}"
        )
    job = Job(info, out, float(focal or FOCAL_PER_WIDTH * info.width), str(speech), audio_offset)
    header = {
        "video": {"name": info.path.name, "sha256": _digest(info.path), "width": info.width, "height": info.height},
        "focal": job.focal,
        "speech": {"encoder": "deepspeech" if job.speech_is_file else job.speech},
    }
    _check_folder(out, header["video"])
    # A misspelt name or a wrong file is to be told now, not after the first step.
    load_deepspeech(job.speech) if job.speech_is_file else get_encoder(job.speech)
    steps = make_steps(job)
    say(
        f"Preparing {info.path} into {out}: {duration(info.duration)}, {round(info.duration * schema.FPS)} frames of "
        f"{info.width}×{info.height} pixels, in {len(steps)} steps: {', '.join(step.name for step in steps)}."
    )
    records = run_steps(out / schema.MANIFEST, header, steps, redo)
    say(
        f"Wrote {out}: {records['index']['train']} training and {records['index']['val']} held-out frames of "
        f"{records['frames']['frames']}, {records['sound']['features']} {header['speech']['encoder']} features a "
        f"window, pose to {records['pose']['reprojection_px']:.2f} pixels; in {duration(time.monotonic() - start)}."
    )


def make_steps(job: Job) -> list[Step]:
    """The steps, in order."""
    speech = {"speech": _digest(pathlib.Path(job.speech)) if job.speech_is_file else job.speech}

    def step(name: str, run: Callable[[Job, Records], Facts], writes: tuple[str, ...], *needs: str, **options) -> Step:
        return Step(name, functools.partial(run, job), writes, needs, options)

    return [
        step("frames", _frames, ("ori_imgs/*.jpg",)),
        step("landmarks", _landmarks, (schema.LANDMARKS, schema.EYES, "ori_imgs/*.lms"), "frames"),
        step(
            "sound",
            _sound,
            (schema.SOUND, schema.AUDIO_WINDOWS),
            "landmarks",
            **speech,
            audio_offset=job.audio_offset,
        ),
        step("pose", _pose, (schema.TRACK,), "landmarks", focal=job.focal),
        step("parsing", _parsing, ("parsing/*.png",), "landmarks"),
        step("background", _background, (schema.BACKGROUND, schema.LOSSLESS_BACKGROUND), "pose", "parsing"),
        step("images", _images, ("head_imgs/*.jpg", "com_imgs/*.jpg", "gt/[0-9]*.png"), "background"),
        # The last: a dataset with an index is whole, and any step done again takes the index back.
        step("index", _index, tuple(schema.TRANSFORMS.values()), "sound", "images"),
    ]


# --- the steps -----------------------------------------------------------------------------------------------------


def _frames(job: Job, records: Records) -> Facts:
    def write(frame: tuple[int, np.ndarray]) -> None:
        path = job.out / schema.original_image(frame[0])
        if not path.exists():
            write_image(path, frame[1], FRAME_QUALITY)

    expected = round(job.video.duration * schema.FPS)
    written = overlapped(write, enumerate(read_frames(job.video.path, schema.FPS)))
    count = sum(1 for _ in track(written, "frames", expected))
    if count < SHORTEST * schema.FPS:
        raise UserError(f"{job.video.path} has only {count} frames: give at least {SHORTEST} s, better 3 to 5 minutes")
    return {"frames": count}


def _sound(job: Job, records: Records) -> Facts:
    frames = records["frames"]["frames"]
    samples = read_audio(job.video.path, SOUND_RATE, duration=frames / schema.FPS)
    if job.speech_is_file:
        windows = load_deepspeech(job.speech)
        if len(windows) < frames - SOUND_SHORTER_BY_AT_MOST:
            raise UserError(
                f"{job.speech} has features for {len(windows)} frames and {job.video.path} has {frames}: "
                f"extract them from the sound of this video"
            )
        windows = windows[np.minimum(np.arange(frames), len(windows) - 1)]
    else:
        windows = speech_windows(get_encoder(job.speech), samples, frames)
    seconds, facts = _offset(job, windows)
    if seconds:
        samples = sync.moved_earlier(samples, seconds, SOUND_RATE)
        if job.speech_is_file:
            windows = windows[np.clip(np.arange(frames) + round(seconds * schema.FPS), 0, frames - 1)]
        else:
            windows = speech_windows(get_encoder(job.speech), samples, frames)
    write_wav(job.out / schema.SOUND, samples, SOUND_RATE)
    _save_arrays(job.out / schema.AUDIO_WINDOWS, windows)
    return {"features": windows.shape[-1], **facts}


def _offset(job: Job, windows: np.ndarray) -> tuple[float, Facts]:
    """Seconds by which the sound is to be moved earlier, and what the manifest says of it."""
    if job.audio_offset is not None:
        return job.audio_offset, {"moved_earlier_s": job.audio_offset}
    found = _load_landmarks(job)
    frames = min(len(windows), len(found.valid))
    offset = sync.measure_offset(windows[:frames], lip_shapes(found.points[:frames]), found.valid[:frames])
    if offset is None:
        return 0.0, {"moved_earlier_s": 0.0}
    moved = offset.seconds if offset.clear and abs(offset.seconds) > LEAST_OFFSET else 0.0
    late = "late" if offset.seconds > 0 else "early"
    say(
        f"sound: {abs(offset.seconds):.2f} s {late} against the lips, a {'clear' if offset.clear else 'doubtful'} "
        f"measurement (fit {offset.fit:.2f}, {offset.margin:.2f} above other lags); "
        f"{'moved back' if moved else 'left as it is'}"
    )
    return moved, {
        "moved_earlier_s": round(moved, 4),
        "offset_s": round(offset.seconds, 4),
        "offset_fit": round(offset.fit, 3),
        "offset_margin": round(offset.margin, 3),
    }


def _landmarks(job: Job, records: Records) -> Facts:
    frames = records["frames"]["frames"]
    found = face_landmarks.detect_video(read_frames(job.video.path, schema.FPS), total=frames)
    valid = np.flatnonzero(found.valid)
    if len(valid) < max(LEAST_FACES * frames, 2):
        raise UserError(
            f"a face was found in {len(valid)} of {frames} frames of {job.video.path}: use a video of one person "
            f"who faces the camera, the whole head in view"
        )
    for i, points in zip(valid, face_landmarks.to_ibug68(found.points[valid]), strict=True):
        rows = "".join(f"{x:.3f} {y:.3f}\n" for x, y in points)
        write_bytes(job.out / schema.landmark_file(i), rows.encode())
    _save_arrays(job.out / schema.EYES, face_landmarks.eye_openness(found.points).astype(np.float32))
    with atomic_path(job.out / schema.LANDMARKS) as temporary:
        found.save(temporary)
    return {"faces": len(valid)}


def _pose(job: Job, records: Records) -> Facts:
    found = _load_landmarks(job)
    centre = job.video.width / 2, job.video.height / 2
    head = tracking.track_head(found.points, found.valid, job.focal, *centre, canonical_face())
    if head.valid.sum() < 2:
        raise UserError(
            f"the head could not be tracked in {job.video.path}: check the focal length, {job.focal:g} pixels"
        )
    _save_arrays(job.out / schema.TRACK, focal=job.focal, **dataclasses.asdict(head))
    return {"usable": int(head.valid.sum()), "reprojection_px": round(float(np.nanmean(head.reprojection_px)), 3)}


def _parsing(job: Job, records: Records) -> Facts:
    found = _load_landmarks(job)
    missing = {i for i in np.flatnonzero(found.valid).tolist() if not (job.out / schema.parsing_image(i)).exists()}
    # One before: the parts of a frame depend on its neighbours.
    first = max(min(missing, default=len(found.valid)) - 1, 0)

    def write(part: tuple[int, np.ndarray]) -> None:
        i, parts = part
        if i in missing:
            face_parsing.write_parts(job.out / schema.parsing_image(i), parts)

    if missing:
        frames = (rgb for _, rgb in _decode(job, range(first, len(found.valid))))
        parts = face_parsing.parse_video(frames, found, start=first)
        for _ in track(overlapped(write, enumerate(parts, first)), "parsing", len(found.valid) - first):
            pass
    return {}


def _background(job: Job, records: Records) -> Facts:
    training, _ = transforms.split(_usable(job))
    chosen = background.choose_frames(training, job.video.height, job.video.width)
    frames = (
        (rgb, face_parsing.read_parts(job.out / schema.parsing_image(i)) != face_parsing.BACKGROUND)
        for i, rgb in track(_decode(job, chosen), "background", len(chosen))
    )
    clean, seen = background.clean_background(frames)
    write_image(job.out / schema.LOSSLESS_BACKGROUND, clean)
    write_image(job.out / schema.BACKGROUND, clean, TARGET_QUALITY)
    return {"seen": round(float((seen > 0).mean()), 4)}


def _images(job: Job, records: Records) -> Facts:
    clean = read_image(job.out / schema.LOSSLESS_BACKGROUND)
    names = (schema.head_image, schema.composite_image, schema.lossless_image)
    missing = [i for i in _usable(job) if not all((job.out / name(i)).exists() for name in names)]

    def write(frame: tuple[int, np.ndarray]) -> None:
        i, rgb = frame
        parts = face_parsing.read_parts(job.out / schema.parsing_image(i))[..., None]
        composite = np.where(parts == face_parsing.BACKGROUND, clean, rgb)
        write_image(job.out / schema.head_image(i), np.where(parts == face_parsing.HEAD, rgb, clean), TARGET_QUALITY)
        write_image(job.out / schema.composite_image(i), composite, TARGET_QUALITY)
        write_image(job.out / schema.lossless_image(i), composite)

    for _ in track(overlapped(write, _decode(job, missing)), "images", len(missing)):
        pass
    return {}


def _index(job: Job, records: Records) -> Facts:
    usable = _usable(job)
    lms = face_landmarks.to_ibug68(_load_landmarks(job).points[usable])
    with np.load(job.out / schema.TRACK) as saved:
        poses = saved["transform"][usable]
    transforms.write_index(job.out, usable, poses, lms, job.focal, job.video.width, job.video.height)
    train, val = transforms.split(usable)
    return {"train": len(train), "val": len(val)}


# --- checks --------------------------------------------------------------------------------------------------------


def _check_video(info: VideoInfo) -> None:
    if not info.has_audio:
        raise UserError(f"{info.path} has no sound track: the head learns lips from sound; use a video with sound")
    if info.duration < SHORTEST:
        raise UserError(
            f"{info.path} lasts {info.duration:.1f} s: give at least {SHORTEST} s of one person talking, "
            f"better 3 to 5 minutes"
        )


def _check_folder(out: pathlib.Path, video: Facts) -> None:
    """Refuses a folder that belongs to something else, whose files would be mixed with or replaced by ours."""
    remedy = f"choose another --out, or delete {out}"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: {remedy}")
    manifest = out / schema.MANIFEST
    if manifest.exists():
        other = read_json(manifest, "dataset manifest").get("video", {})
        if other.get("sha256") != video["sha256"]:
            raise UserError(f"{out} was made from another video ({other.get('name', 'unknown')}): {remedy}")
    elif any((out / name).exists() for name in (*schema.TRANSFORMS.values(), "ori_imgs", "head_imgs", "com_imgs")):
        raise UserError(f"{out} holds a dataset that this program did not make: {remedy}")


# --- pictures and arrays -------------------------------------------------------------------------------------------


def overlapped(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Maps in a few threads, results in order, never more than a few items ahead: constant memory for long videos."""
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * WRITERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _decode(job: Job, ids: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The video's frames of these numbers, in order of time: (number, uint8 RGB [H, W, 3])."""
    wanted = {int(i) for i in ids}
    last = max(wanted, default=-1)
    with contextlib.closing(read_frames(job.video.path, schema.FPS)) as frames:
        for i, rgb in zip(range(last + 1), frames, strict=False):
            if i in wanted:
                yield i, rgb


def canonical_face() -> np.ndarray:
    """The mesh that the landmarks are vertices of: float [468, 3] cm."""
    return FaceLandmarker(weights.path("face_landmarker")).canonical


def _usable(job: Job) -> np.ndarray:
    """Numbers of the frames that have a pose, in order of time."""
    with np.load(job.out / schema.TRACK) as saved:
        return np.flatnonzero(saved["valid"])


def _load_landmarks(job: Job) -> face_landmarks.Landmarks:
    return face_landmarks.Landmarks.load(job.out / schema.LANDMARKS)


def _save_arrays(path: pathlib.Path, array: np.ndarray | None = None, **arrays: Any) -> None:
    """Writes an `.npy` of one array or an `.npz` of several, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array) if array is not None else np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def _digest(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
