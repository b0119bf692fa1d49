"""From a portrait video to a dataset: the checks of the input and the list of steps.

`steps.py` implements the steps; `resume.py` decides which of them a rerun skips.
"""

import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import read_json, sha256_of
from adnerf_jax.common.progress import duration, say
from adnerf_jax.common.timing import FPS
from adnerf_jax.data import schema
from adnerf_jax.media.sound_track import sound_track
from adnerf_jax.media.video import VideoInfo, probe
from adnerf_jax.preprocessing import steps
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.report import video_checks
from adnerf_jax.preprocessing.resume import Facts, Step, run_steps
from adnerf_jax.preprocessing.steps import MIN_SECONDS, Job, Records
from adnerf_jax.preprocessing.survey import Survey, survey_video
from adnerf_jax.speech.features import get_encoder, load_deepspeech

FOCAL_PER_WIDTH = 8 / 3  # default focal length: 1200 at 450 pixels, as the published tracker finds for its example
COMPLETE_SHARE = 0.95  # of the frames that the file's header announces; with fewer the file is taken as truncated
MAX_OFFSET = 5.0  # seconds, of a given offset of the sound
# Of the longer side, in pixels. The published clips have 450; the head covers about a third of the picture.
MAX_SIDE, MIN_SIDE = 1024, 64


def prepare(
    video: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    focal: float | None = None,
    speech: str = "whisper",
    parsing: str = "bisenet",
    audio_offset: float | None = None,
    audio_track: int | None = None,
    max_side: int = MAX_SIDE,
    redo: str | None = None,
) -> None:
    """Makes a dataset of a portrait video. Steps that an earlier run finished are skipped.

    Args:
      video: a file with sound that shows one person talking in front of a static background.
      out: the dataset's folder (`adnerf_jax.data.schema` documents its files).
      focal: focal length in pixels of the dataset's frames; 8/3 of their width by default.
      speech: "whisper", "logmel", or the path of DeepSpeech features (`.npy`).
      parsing: "bisenet", or "permissive", which avoids weights that are for non-commercial use only.
      audio_offset: seconds by which the sound lags behind the lips (negative: leads); the sound is shifted by it. By
        default it is measured, and corrected if the measurement is reliable and exceeds one frame.
      audio_track: the video's sound track, counted from 1; by default the one marked as default, or the first that is
        not silent.
      max_side: maximum of the frames' longer side in pixels; larger videos are downscaled.
      redo: name of a step to run again; the steps that use its results follow.

    Raises:
      UserError: the file is not a video, is too short, has no sound or a silent one, or shows no face; an option is out
        of range; or `out` holds something else.
      OSError: the files cannot be written, or the disk is full.
    """
    start = time.monotonic()
    info, out = probe(video), pathlib.Path(out)
    info.say_conversions()
    _check_video(info)
    _check_options(focal, audio_offset, max_side, parsing)
    sound_track(info.path, audio_track)  # a track that does not exist fails here, and a choice is said
    identity = {"name": info.path.name, "sha256": sha256_of(info.path), "width": info.width, "height": info.height}
    _check_folder(out, identity)
    # A misspelt encoder or a wrong file fails here rather than after the first steps.
    load_deepspeech(speech) if Job.names_file(speech) else get_encoder(speech)
    survey = _load_or_make_survey(info, out, audio_track)
    _check_survey(info, survey)
    crop = _crop(info, survey)
    size = (info.width, info.height) if crop is None else crop[2:]
    scale = min(max_side / max(size), 1.0)
    width, height = (max(round(n * scale), 1) for n in size)
    clip = Clip(info, survey.start, survey.duration, width, height, crop, audio_track)
    job = Job(clip, out, float(focal or FOCAL_PER_WIDTH * clip.width), str(speech), survey, audio_offset, parsing)
    encoder = "deepspeech" if job.speech_is_file else job.speech
    header = {
        "video": identity | {"conversions": info.conversions},
        "survey": survey.to_json(),
        "focal": job.focal,
        "speech": {"encoder": encoder},
        **({} if audio_track is None else {"audio_track": audio_track}),
    }
    todo = make_steps(job)
    say(
        f"Preparing {info.path} into {out}: {duration(clip.duration)}, {clip.expected_frames} frames of "
        f"{clip.width}×{clip.height} pixels, in {len(todo)} steps: {', '.join(step.name for step in todo)}."
    )
    records = run_steps(out / schema.MANIFEST, header, todo, redo)
    say(
        f"Wrote {out}: {records['index']['train']} training and {records['index']['val']} held-out frames of "
        f"{records['frames']['frames']}, {records['sound']['features']}-dimensional {encoder} "
        f"features, poses with a reprojection error of {records['pose']['reprojection_px']:.2f} pixels; took "
        f"{duration(time.monotonic() - start)}."
    )


def make_steps(job: Job) -> list[Step]:
    """The steps, in order, with the options that invalidate their results."""
    speech = sha256_of(job.speech) if job.speech_is_file else job.speech
    crop: dict[str, Any] = {} if job.clip.crop is None else {"crop": list(job.clip.crop)}
    track: dict[str, Any] = {} if job.clip.audio_track is None else {"audio_track": job.clip.audio_track}

    def step(
        name: str,
        run: Callable[[Job, Records], Facts],
        writes: tuple[str, ...],
        *needs: str,
        version: int = 1,
        **options,
    ) -> Step:
        return Step(name, functools.partial(run, job), writes, needs, options, version)

    return [
        step(
            "frames",
            steps.extract_frames,
            ("ori_imgs/*.jpg",),
            shot=[job.clip.start, job.clip.duration],
            size=[job.clip.width, job.clip.height],
            **crop,
        ),
        step(
            "landmarks",
            steps.find_landmarks,
            (schema.LANDMARKS, schema.EYES, schema.MOUTH_COVERED, "ori_imgs/*.lms"),
            "frames",
            version=3,  # which frames have a covered mouth
        ),
        step(
            "sound",
            steps.extract_sound,
            (schema.SOUND, schema.AUDIO_WINDOWS),
            "landmarks",
            speech=speech,
            audio_offset=job.audio_offset,
            version=2,  # the track and the channels that are heard
            **track,
        ),
        step(
            "parsing",
            steps.parse,
            ("parsing/*.png",),
            "landmarks",
            parsing=job.parsing,
            version=2,  # the whole person
        ),
        step(
            "pose",
            steps.track_pose,
            (schema.TRACK,),
            "landmarks",
            "parsing",
            focal=job.focal,
            version=3,  # never worse than the landmarks' poses, in the axes of the face
        ),
        step(
            "background",
            steps.recover_background,
            (schema.BACKGROUND, schema.LOSSLESS_BACKGROUND, schema.SEEN),
            "pose",
            "parsing",
        ),
        step(
            "images",
            steps.write_images,
            ("head_imgs/*.jpg", "com_imgs/*.jpg", "gt/[0-9]*.png", "alpha/*.png"),
            "background",
        ),
        # The index is the last of the data: its presence means a complete dataset, and rerunning any step removes it.
        step("index", steps.write_index, tuple(schema.TRANSFORMS.values()), "sound", "images"),
        step("report", steps.write_report, (steps.REPORT, steps.PREVIEW), "index"),
    ]


def _check_video(info: VideoInfo) -> None:
    if not info.has_audio:
        raise UserError(f"{info.path} has no sound track: the head is trained from speech; use a video with sound")
    _check_length(info, info.duration, "lasts")


def _check_options(focal: float | None, audio_offset: float | None, max_side: int, parsing: str) -> None:
    if focal is not None and not (math.isfinite(focal) and focal > 0):
        raise UserError(Option("focal"), f" is {focal}: give the focal length in pixels, greater than 0")
    if audio_offset is not None and not abs(audio_offset) <= MAX_OFFSET:
        raise UserError(
            Option("audio_offset"), f" is {audio_offset}: give seconds from -{MAX_OFFSET:g} to {MAX_OFFSET:g}"
        )
    if not max_side >= MIN_SIDE:
        raise UserError(Option("max_side"), f" is {max_side}: give at least {MIN_SIDE} pixels")
    if parsing not in steps.PARSERS:
        raise UserError(Option("parsing"), f" is {parsing!r}: choose one of {', '.join(steps.PARSERS)}")


def _load_or_make_survey(info: VideoInfo, out: pathlib.Path, audio_track: int | None) -> Survey:
    """The survey in the manifest of an earlier run; a new one if there is none, or for another sound track."""
    manifest = out / schema.MANIFEST
    earlier = read_json(manifest, "dataset manifest") if manifest.exists() else {}
    saved = earlier.get("survey") if earlier.get("audio_track") == audio_track else None
    return (Survey.from_json(saved) if isinstance(saved, dict) else None) or survey_video(info, audio_track)


def _crop(info: VideoInfo, survey: Survey) -> tuple[int, int, int, int] | None:
    """Left, top, width and height in pixels of what is inside black bars or a blurred copy; None without those."""
    if survey.content is None:
        return None
    left, top, right, bottom = survey.content
    x, y = math.ceil(left * info.width), math.ceil(top * info.height)
    crop = x, y, max(int(right * info.width) - x, 1), max(int(bottom * info.height) - y, 1)
    say(
        f"{info.path} has bars or a blurred copy of the picture at its sides: they are cut off, {crop[2]}×{crop[3]} "
        f"pixels from column {x} and row {y} on are used"
    )
    return crop


def _check_survey(info: VideoInfo, survey: Survey) -> None:
    """Refuses videos that cannot be trained on; warns of what will reduce the quality."""
    if survey.silent:
        raise UserError(f"the sound of {info.path} is silent: the head is trained from speech; use a video with speech")
    if survey.frames < COMPLETE_SHARE * info.duration * FPS:
        say(
            f"warning: {info.path} ends after {survey.frames / FPS:.1f} of {info.duration:.1f} s: the file may be "
            f"damaged; the part that can be read is used"
        )
    if survey.cuts:
        shots = "at " + ", ".join(f"{cut:.2f}" for cut in survey.cuts[:5]) + (" s …" if len(survey.cuts) > 5 else " s")
        say(
            f"{info.path} has {len(survey.cuts)} cuts ({shots}): only the longest shot is used, from "
            f"{survey.start:.2f} to {survey.start + survey.duration:.2f} s"
        )
    if survey.left_out:
        say(
            f"{info.path} has {survey.left_out} frames of dissolves, fades or blackness: they are left out; from "
            f"{survey.start:.2f} to {survey.start + survey.duration:.2f} s is used"
        )
    _check_length(info, survey.duration, "its longest shot lasts" if survey.cuts or survey.left_out else "lasts")
    # Whether the camera moves or the head fills the picture is known once the face is found.
    for check in video_checks(survey, info.fps, info.width, info.height):
        if not check.ok and check.name not in ("length", "cuts", "camera motion"):
            say(f"warning: {check.name} {check.value:g} {check.unit}: ", *check.advice)


def _check_length(info: VideoInfo, seconds: float, lasts: str) -> None:
    if seconds < MIN_SECONDS - 1.5 / FPS:  # tolerance for rounding and for the duration of the last frame
        raise UserError(
            f"{info.path}: {lasts} {seconds:.1f} s: give at least {MIN_SECONDS:g} s of one person talking, "
            f"ideally 3 to 5 minutes"
        )


def _check_folder(out: pathlib.Path, video: Facts) -> None:
    """Refuses a folder that holds something else, whose files would be overwritten or mixed with the dataset's."""
    remedy = ("choose another ", Option("out"), f", or delete {out}")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: ", *remedy)
    manifest = out / schema.MANIFEST
    if manifest.exists():
        saved = read_json(manifest, "dataset manifest")
        other = saved.get("video") if isinstance(saved, dict) else None
        if not isinstance(other, dict) or not isinstance(saved.get("steps", {}), dict):
            raise UserError(f"{manifest} was not written by this program: ", *remedy)
        if other.get("sha256") != video["sha256"]:
            raise UserError(f"{out} was made from another video ({other.get('name', 'unknown')}): ", *remedy)
    elif any((out / name).exists() for name in (*schema.TRANSFORMS.values(), "ori_imgs", "head_imgs", "com_imgs")):
        raise UserError(f"{out} holds a dataset that this program did not make: ", *remedy)
