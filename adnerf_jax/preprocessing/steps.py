"""The steps of the preparation. Each holds only a few frames in memory at a time.

A step takes the job and the records of the steps before it, and returns the facts to record in the manifest.
"""

import collections
import concurrent.futures
import dataclasses
import math
import pathlib
import types
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from adnerf_jax.common.array_files import read_array
from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import atomic_path, write_bytes, write_json
from adnerf_jax.common.progress import say, track
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.face import covered_mouth, tracking
from adnerf_jax.face import landmarks as face_landmarks
from adnerf_jax.face import parsing as face_parsing
from adnerf_jax.face.permissive_parsing import PERMISSIVE
from adnerf_jax.face.rigid import Pinhole
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.media.sound_track import sound_track
from adnerf_jax.preprocessing import background, report, transforms
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.matting import soft_alpha
from adnerf_jax.preprocessing.poses import refine_track
from adnerf_jax.preprocessing.resume import Facts
from adnerf_jax.preprocessing.survey import Survey
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.face_landmarker import FaceLandmarker
from adnerf_jax.speech import sync
from adnerf_jax.speech.features import get_encoder, load_deepspeech, speech_windows
from adnerf_jax.speech.lips import lip_shapes

MIN_SECONDS = 2.0  # length of the video
MIN_FACES = 0.5  # share of the frames in which a face must be found
MIN_OFFSET = 1 / FPS  # seconds; smaller offsets of the sound are not corrected
# Frames that a file of speech features may be shorter than the video, one second: its last row is repeated.
MAX_MISSING_ROWS = round(FPS)
PARSERS = {"bisenet": face_parsing.BISENET, "permissive": PERMISSIVE}
FRAME_QUALITY, TARGET_QUALITY = 95, 98  # JPEG
REPORT, PREVIEW = "report.json", "preview.png"
FLICKER_PLACES = 100  # places in the clip at which the flicker of the parts is measured
FACE_COUNTS = 20  # frames of the clip in which all faces are counted
LEAST_COUNTS = 2  # of these, that show as many faces as are reported
WRITERS = 2  # threads that encode images while the next frame is decoded

Item = TypeVar("Item")
Result = TypeVar("Result")
Records = dict[str, Facts]


@dataclasses.dataclass(frozen=True)
class Job:
    """The input and the options of the steps.

    Attributes:
      clip: the longest shot of the portrait video.
      out: the dataset's folder.
      focal: focal length in pixels.
      speech: name of a speech encoder, or the path of DeepSpeech features (`.npy`).
      survey: survey of the video.
      audio_offset: seconds by which the sound lags behind the lips; None: it is measured.
      parsing: a key of `PARSERS`.
    """

    clip: Clip
    out: pathlib.Path
    focal: float
    speech: str
    survey: Survey
    audio_offset: float | None = None
    parsing: str = "bisenet"

    @property
    def speech_is_file(self) -> bool:
        """Whether `speech` is a file of features."""
        return self.names_file(self.speech)

    @staticmethod
    def names_file(speech: str) -> bool:
        """Whether `speech` is the path of a file of features rather than the name of an encoder."""
        return str(speech).endswith(".npy")


def extract_frames(job: Job, records: Records) -> Facts:
    """Writes the frames at 25 fps.

    Raises:
      UserError: there are fewer than `MIN_SECONDS` of them.
    """

    def write(frame: tuple[int, np.ndarray]) -> None:
        path = job.out / schema.original_image(frame[0])
        if not path.exists():
            write_image(path, frame[1], FRAME_QUALITY)

    expected = job.clip.expected_frames
    written = overlapped(write, enumerate(job.clip.frames()))
    count = sum(1 for _ in track(written, "frames", expected))
    if count < round(MIN_SECONDS * FPS) - 1:
        raise UserError(
            f"{job.clip.video.path} has only {count} frames: give at least {MIN_SECONDS:g} s, ideally 3 to 5 minutes"
        )
    return {"frames": count}


def extract_sound(job: Job, records: Records) -> Facts:
    """Writes the sound and the speech windows [N, 16, C] of all frames, aligned with the lips.

    Raises:
      UserError: the file of speech features is too short for the video.
    """
    frames = records["frames"]["frames"]
    samples = job.clip.sound(SAMPLE_RATE, frames)
    if job.speech_is_file:
        windows = _load_windows(job, frames)
    else:
        windows = speech_windows(get_encoder(job.speech), samples, frames)
    seconds, facts = _choose_offset(job, windows)
    if seconds:
        samples = sync.moved_earlier(samples, seconds, SAMPLE_RATE)
        if job.speech_is_file:
            windows = windows[np.clip(np.arange(frames) + round(seconds * FPS), 0, frames - 1)]
        else:
            windows = speech_windows(get_encoder(job.speech), samples, frames)
    write_wav(job.out / schema.SOUND, samples, SAMPLE_RATE)
    _save_array(job.out / schema.AUDIO_WINDOWS, windows)
    heard = sound_track(job.clip.video.path, job.clip.audio_track)
    assert heard is not None  # videos without sound are refused before the first step
    # Counted from 1; None: all channels are mixed.
    channel = None if heard.channel is None else heard.channel + 1
    return {"features": windows.shape[-1], "track": heard.index + 1, "channel": channel, **facts}


def _load_windows(job: Job, frames: int) -> np.ndarray:
    """The windows [frames, 16, C] in the file of DeepSpeech features."""
    windows = load_deepspeech(job.speech)
    if len(windows) < frames - MAX_MISSING_ROWS:
        raise UserError(
            f"{job.speech} has features for {len(windows)} frames, but {job.clip.video.path} has {frames}: "
            f"extract them from the sound of this video"
        )
    return windows[np.minimum(np.arange(frames), len(windows) - 1)]


def _choose_offset(job: Job, windows: np.ndarray) -> tuple[float, Facts]:
    """Seconds by which to shift the sound earlier, and the facts about the offset for the manifest."""
    if job.audio_offset is not None:
        return job.audio_offset, {"moved_earlier_s": job.audio_offset}
    found = _load_landmarks(job)
    frames = min(len(windows), len(found.valid))
    shown = (found.valid & ~_load_covered(job))[:frames]
    offset = sync.measure_offset(windows[:frames], lip_shapes(found.points[:frames]), shown)
    if offset is None:
        return 0.0, {"moved_earlier_s": 0.0}
    moved = offset.seconds if offset.clear and abs(offset.seconds) > MIN_OFFSET else 0.0
    say(
        f"sound: {'lags behind' if offset.seconds > 0 else 'leads'} the lips by {abs(offset.seconds):.2f} s, "
        f"{'a reliable' if offset.clear else 'an unreliable'} measurement (fit {offset.fit:.2f}, {offset.margin:.2f} "
        f"above other offsets); {'corrected' if moved else 'not corrected'}"
    )
    return moved, {
        "moved_earlier_s": round(moved, 4),
        "offset_s": round(offset.seconds, 4),
        "offset_fit": round(offset.fit, 3),
        "offset_margin": round(offset.margin, 3),
        "offset_clear": offset.clear,
        "offset_curve": offset.curve.round(3).tolist(),
    }


def find_landmarks(job: Job, records: Records) -> Facts:
    """Writes the landmarks, the openness of the eyes and whether the mouth is covered, of all frames.

    Raises:
      UserError: too few frames show a face.
    """
    frames = records["frames"]["frames"]
    counts = []
    every = math.ceil(frames / FACE_COUNTS)

    def counting_faces() -> Iterator[np.ndarray]:
        for i, rgb in enumerate(job.clip.frames()):
            if i % every == 0:
                counts.append(face_landmarks.count_faces(rgb))
            yield rgb

    found = face_landmarks.detect_video(counting_faces(), total=frames)
    valid = np.flatnonzero(found.valid).tolist()
    if len(valid) < max(MIN_FACES * frames, 2):
        raise UserError(
            f"a face was found in {len(valid)} of {frames} frames of {job.clip.video.path}: use a video of one person "
            f"who faces the camera with the whole head in view"
        )
    for i, points in zip(valid, face_landmarks.to_ibug68(found.points[valid]), strict=True):
        rows = "".join(f"{x:.3f} {y:.3f}\n" for x, y in points)
        write_bytes(job.out / schema.landmark_file(i), rows.encode())
    _save_array(job.out / schema.EYES, face_landmarks.eye_openness(found.points).astype(np.float32))
    covered = np.zeros(len(found.valid), bool)
    covered[valid] = covered_mouth.covered_frames(
        [covered_mouth.mouth_colours(rgb, found.points[i]) for i, rgb in job.clip.pick(valid)]
    )
    _save_array(job.out / schema.MOUTH_COVERED, covered)
    with atomic_path(job.out / schema.LANDMARKS) as temporary:
        found.save(temporary)
    # What a single frame shows may be anything; a person is in the picture for longer.
    max_faces = sorted(counts)[-min(LEAST_COUNTS, len(counts))]
    return {
        "faces": len(valid),
        "max_faces": max_faces,
        "mouth_covered": int(covered.sum()),
        "lips_shown": bool(covered_mouth.shows_lips(covered[valid])),
    }


def track_pose(job: Job, records: Records) -> Facts:
    """Writes the head's poses.

    Raises:
      UserError: fewer than two frames have one.
    """
    found = _load_landmarks(job)
    camera = Pinhole(job.focal, job.clip.width / 2, job.clip.height / 2)
    head = tracking.track_head(found.points, found.valid, *camera, canonical_face())
    if head.valid.sum() < 2:
        raise UserError(
            f"the head could not be tracked in {job.clip.video.path}: check the focal length: ",
            Option("focal", f"{job.focal:g}"),
            " was used",
        )

    def head_of(i: int) -> np.ndarray:
        return face_parsing.read_parts(job.out / schema.parsing_image(i)) == face_parsing.HEAD

    head, facts = refine_track(head, found, job.clip, head_of, camera, job.out)
    _save_arrays(job.out / schema.TRACK, focal=job.focal, **dataclasses.asdict(head))
    return {"usable": int(head.valid.sum()), **facts}


def parse(job: Job, records: Records) -> Facts:
    """Writes the part maps of the frames with a face; those that an interrupted run wrote are kept.

    Returns:
      `person_agreement`, the mean IoU of the parser's person and the person network's, and `person_agreement_worst`, of
      every tenth frame that this run parsed; nothing from a parser that finds the whole person by itself.
    """
    found = _load_landmarks(job)
    missing = {i for i in np.flatnonzero(found.valid).tolist() if not (job.out / schema.parsing_image(i)).exists()}
    # Starts one frame earlier: the parts of a frame depend on its neighbours.
    first = max(min(missing, default=len(found.valid)) - 1, 0)

    def write(part: tuple[int, np.ndarray]) -> None:
        i, parts = part
        if i in missing:
            face_parsing.write_parts(job.out / schema.parsing_image(i), parts)

    agreements: list[float] = []
    if missing:
        parser, count = PARSERS[job.parsing], len(found.valid) - first
        parts = face_parsing.parse_video(job.clip.pick, found, first, parser, agreements)
        compiles = parser is face_parsing.BISENET  # the other one does not use JAX
        for _ in track(overlapped(write, enumerate(parts, first)), "parsing", count, compiles=compiles):
            pass
    if not agreements:
        return {}
    return {
        "person_agreement": round(float(np.mean(agreements)), 4),
        "person_agreement_worst": round(min(agreements), 4),
    }


def recover_background(job: Job, records: Records) -> Facts:
    """Writes the background, recovered from training frames, and how often each of its pixels is visible."""
    # Frames with a covered mouth show the background as well.
    usable, (_, held_out) = _usable(job), transforms.split(_indexed(job))
    training = usable[usable < held_out[0]]
    chosen = background.choose_frames(training, job.clip.height, job.clip.width)
    frames = (
        (rgb, face_parsing.read_parts(job.out / schema.parsing_image(i)) != face_parsing.BACKGROUND)
        for i, rgb in track(job.clip.pick(chosen), "background", len(chosen))
    )
    clean, seen = background.clean_background(frames)
    write_image(job.out / schema.LOSSLESS_BACKGROUND, clean)
    write_image(job.out / schema.BACKGROUND, clean, TARGET_QUALITY)
    write_image(job.out / schema.SEEN, np.minimum(seen, 255).astype(np.uint8))
    return {"seen": round(float((seen > 0).mean()), 4)}


def write_images(job: Job, records: Records) -> Facts:
    """Writes the training images, the person or the head over the recovered background, and the alpha mattes."""
    clean = read_image(job.out / schema.LOSSLESS_BACKGROUND)
    seen = read_image(job.out / schema.SEEN)[..., 0] > 0
    names = (schema.head_image, schema.composite_image, schema.lossless_image, schema.alpha_image)
    missing = [i for i in _usable(job) if not all((job.out / name(i)).exists() for name in names)]

    def write(frame: tuple[int, np.ndarray]) -> None:
        i, rgb = frame
        parts = face_parsing.read_parts(job.out / schema.parsing_image(i))
        alpha = soft_alpha(rgb, parts != face_parsing.BACKGROUND, clean, seen)
        parts = face_parsing.extend_to_alpha(parts, alpha)[..., None]
        # At the edge the frame itself is the composite of person and background.
        composite = np.where(parts == face_parsing.BACKGROUND, clean, rgb)
        write_image(job.out / schema.alpha_image(i), alpha)
        write_image(job.out / schema.head_image(i), np.where(parts == face_parsing.HEAD, rgb, clean), TARGET_QUALITY)
        write_image(job.out / schema.composite_image(i), composite, TARGET_QUALITY)
        write_image(job.out / schema.lossless_image(i), composite)

    for _ in track(overlapped(write, job.clip.pick(missing)), "images", len(missing)):
        pass
    return {}


def write_index(job: Job, records: Records) -> Facts:
    """Writes the index of training and held-out frames."""
    usable = _indexed(job)
    lms = face_landmarks.to_ibug68(_load_landmarks(job).points[usable])
    poses = _load_arrays(job.out / schema.TRACK)["transform"][usable]
    transforms.write_index(job.out, usable, poses, lms, job.focal, job.clip.width, job.clip.height)
    train, val = transforms.split(usable)
    return {"train": len(train), "val": len(val)}


def write_report(job: Job, records: Records) -> Facts:
    """Writes `report.json` and `preview.png`, and prints the checks that failed."""
    usable, found = _usable(job), _load_landmarks(job)
    transforms = _load_arrays(job.out / schema.TRACK)["transform"]
    points = found.points[..., :2]
    face_share = float(np.ptp(points[usable, :, 1], axis=1).mean() / job.clip.height)
    checks = [
        *report.head_checks(
            report.share_cut(points[usable], job.clip.width),
            report.video_checks(job.survey, job.clip.video.fps, job.clip.width, job.clip.height),
        ),
        *report.result_checks(records, transforms[usable], job.focal, face_share, _measure_flicker(job, usable)),
    ]
    middle = int(usable[len(usable) // 2])
    (_, rgb), *_ = job.clip.pick([middle])
    picture = report.preview(
        rgb,
        points[middle],
        face_parsing.read_parts(job.out / schema.parsing_image(middle)),
        read_image(job.out / schema.LOSSLESS_BACKGROUND),
        transforms[middle],
        Pinhole(job.focal, job.clip.width / 2, job.clip.height / 2),
        records["sound"].get("offset_curve"),
    )
    write_image(job.out / PREVIEW, picture)
    write_json(job.out / REPORT, report.to_json(job.survey, checks))
    for check in checks:
        if not check.ok:
            measured = "" if check.value is None else f"{check.value:g} "
            say(f"report: {check.name} {measured}{check.unit}: ", *check.advice)
    return {"warnings": sum(not check.ok for check in checks)}


def _measure_flicker(job: Job, usable: np.ndarray) -> float:
    """`report.flicker` at evenly spaced places where three consecutive frames are usable."""

    def parts(i: int) -> np.ndarray:
        return face_parsing.read_parts(job.out / schema.parsing_image(i))

    middle = usable[np.isin(usable - 1, usable) & np.isin(usable + 1, usable)]
    if len(middle):
        middle = middle[np.unique(np.linspace(0, len(middle) - 1, FLICKER_PLACES).astype(int))]
    return report.flicker((parts(i - 1), parts(i), parts(i + 1)) for i in middle.tolist())


# --- images and arrays -----------------------------------------------------------------------------------------------


def overlapped(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Maps in a few threads with the results in order, at most a few items ahead: constant memory for long videos."""
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * WRITERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def canonical_face() -> np.ndarray:
    """The canonical mesh whose vertices the landmarks are: float [468, 3] cm."""
    return FaceLandmarker(weights.path("face_landmarker")).canonical


def _usable(job: Job) -> np.ndarray:
    """Indices of the frames that have a pose, in order of time."""
    return np.flatnonzero(_load_arrays(job.out / schema.TRACK)["valid"])


def _indexed(job: Job) -> np.ndarray:
    """Indices of the frames that are trained on or held out, in order of time.

    Those with a covered mouth are left out, unless too few remain.
    """
    usable = _usable(job)
    covered = _load_covered(job)[usable]
    shown = usable[~covered]
    return shown if covered_mouth.shows_lips(covered) and len(shown) >= 2 else usable


def _load_covered(job: Job) -> np.ndarray:
    """Whether the mouth is covered in each frame, bool [N]."""
    return read_array(job.out / schema.MOUTH_COVERED, (None,)) > 0


def _load_landmarks(job: Job) -> face_landmarks.Landmarks:
    return face_landmarks.Landmarks(**_load_arrays(job.out / schema.LANDMARKS))


def _load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays in an `.npz` file, by name."""
    try:
        with np.load(path) as saved:
            return dict(saved)
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path} is damaged: delete it and run the same command again") from None


def _save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an `.npy` file, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        # NumPy writes to a real file directly, which hides the cause of a failure, such as a full disk.
        np.save(types.SimpleNamespace(write=file.write), array)


def _save_arrays(path: pathlib.Path, **arrays: Any) -> None:
    """Writes an `.npz` file, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
