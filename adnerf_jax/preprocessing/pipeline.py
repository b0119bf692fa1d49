"""From a portrait video to a dataset: which steps there are, and what is refused before the first.

`steps.py` holds the steps themselves; `resume.py` says which of them a rerun skips.
"""

import functools
import hashlib
import math
import pathlib
import time
from collections.abc import Callable

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json
from adnerf_jax.common.progress import duration, say
from adnerf_jax.common.timing import FPS
from adnerf_jax.data import schema
from adnerf_jax.media.video import VideoInfo, probe
from adnerf_jax.preprocessing import steps
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.report import judge
from adnerf_jax.preprocessing.resume import Facts, Step, run_steps
from adnerf_jax.preprocessing.steps import SHORTEST, Job, Records
from adnerf_jax.preprocessing.survey import Survey, survey_video
from adnerf_jax.speech.features import get_encoder, load_deepspeech

FOCAL_PER_WIDTH = 8 / 3  # 1200 at 450 pixels, as the published tracker finds for its example
WHOLE = 0.95  # of the frames that a file announces: with fewer it is taken to be cut off
MOST_OFFSET = 5.0  # seconds that can be given
# Of the longer side, in pixels: the published clips have 450, and what a head needs is on about a third of the picture.
MAX_SIDE, LEAST_SIDE = 1024, 64


def prepare(
    video: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    focal: float | None = None,
    speech: str = "whisper",
    parsing: str = "bisenet",
    audio_offset: float | None = None,
    max_side: int = MAX_SIDE,
    redo: str | None = None,
) -> None:
    """Makes a dataset of a portrait video; what an earlier run has finished is kept.

    Args:
      video: a file with one person talking before a still background, and sound.
      out: the dataset's folder (`adnerf_jax.data.schema` says what is in it).
      focal: focal length in pixels; 8/3 of the width by default.
      speech: "whisper", "logmel", or the path of DeepSpeech features (`.npy`).
      parsing: "bisenet", or "permissive" to do without weights for non-commercial use only.
      audio_offset: seconds by which the sound is late against the lips (negative: early), and is moved back. By
        default it is measured, and moved back where the measurement is clear and says more than a frame.
      max_side: pixels of the frames' longer side at most; larger videos are shrunk.
      redo: name of a step to do again; those that use its results follow.

    Raises:
      UserError: the video has no sound or silence, no face, is too short or not a video; or `out` holds something
        else.
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
    if not max_side >= LEAST_SIDE:
        raise UserError(f"the longer side is at least {LEAST_SIDE} pixels, not {max_side}")
    if parsing not in steps.PARSERS:
        raise UserError(f"no parsing named {parsing!r}: choose one of {', '.join(steps.PARSERS)}")
    identity = {"name": info.path.name, "sha256": _digest(info.path), "width": info.width, "height": info.height}
    _check_folder(out, identity)
    # A misspelt name or a wrong file is to be told now, not after the first step.
    load_deepspeech(speech) if Job.names_file(speech) else get_encoder(speech)
    survey = _survey(info, out)
    _check_survey(info, survey)
    scale = min(max_side / max(info.width, info.height), 1.0)
    clip = Clip(info, survey.start, survey.duration, *(max(round(n * scale), 1) for n in (info.width, info.height)))
    job = Job(clip, out, float(focal or FOCAL_PER_WIDTH * clip.width), str(speech), survey, audio_offset, parsing)
    header = {
        "video": identity,
        "survey": survey.to_json(),
        "focal": job.focal,
        "speech": {"encoder": "deepspeech" if job.speech_is_file else job.speech},
    }
    todo = make_steps(job)
    say(
        f"Preparing {info.path} into {out}: {duration(clip.duration)}, {clip.expected_frames} frames of "
        f"{clip.width}×{clip.height} pixels, in {len(todo)} steps: {', '.join(step.name for step in todo)}."
    )
    records = run_steps(out / schema.MANIFEST, header, todo, redo)
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
        step(
            "frames",
            steps.extract_frames,
            ("ori_imgs/*.jpg",),
            shot=[job.clip.start, job.clip.duration],
            size=[job.clip.width, job.clip.height],
        ),
        step("landmarks", steps.find_landmarks, (schema.LANDMARKS, schema.EYES, "ori_imgs/*.lms"), "frames"),
        step(
            "sound",
            steps.extract_sound,
            (schema.SOUND, schema.AUDIO_WINDOWS),
            "landmarks",
            **speech,
            audio_offset=job.audio_offset,
        ),
        step("parsing", steps.parse, ("parsing/*.png",), "landmarks", parsing=job.parsing),
        step("pose", steps.track_pose, (schema.TRACK,), "landmarks", "parsing", focal=job.focal),
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
        # The last of the data: a dataset with an index is whole, and any step done again takes the index back.
        step("index", steps.write_index, tuple(schema.TRANSFORMS.values()), "sound", "images"),
        step("report", steps.write_report, (steps.REPORT, steps.PREVIEW), "index"),
    ]


def _check_video(info: VideoInfo) -> None:
    if not info.has_audio:
        raise UserError(f"{info.path} has no sound track: the head learns lips from sound; use a video with sound")
    _check_length(info, info.duration, "lasts")


def _survey(info: VideoInfo, out: pathlib.Path) -> Survey:
    """Of an earlier run, if there was one."""
    manifest = out / schema.MANIFEST
    saved = read_json(manifest, "dataset manifest").get("survey") if manifest.exists() else None
    return (Survey.from_json(saved) if isinstance(saved, dict) else None) or survey_video(info)


def _check_survey(info: VideoInfo, survey: Survey) -> None:
    """Refuses what cannot be learnt from; warns of what can be learnt from badly."""
    if survey.silent:
        raise UserError(f"the sound of {info.path} is silent: the head learns lips from sound; use a video with speech")
    if survey.frames < WHOLE * info.duration * FPS:
        say(
            f"warning: {info.path} ends after {survey.frames / FPS:.1f} of {info.duration:.1f} s, "
            f"it may be damaged: what is there is used"
        )
    if survey.cuts:
        shots = "at " + ", ".join(f"{cut:.2f}" for cut in survey.cuts[:5]) + (" s …" if len(survey.cuts) > 5 else " s")
        say(
            f"{info.path} has {len(survey.cuts)} cuts ({shots}): only its longest shot is used, from "
            f"{survey.start:.2f} to {survey.start + survey.duration:.2f} s"
        )
    _check_length(info, survey.duration, "its longest shot lasts" if survey.cuts else "lasts")
    for check in judge(survey, info.fps, info.width, info.height):
        if not check.ok and check.name not in ("length", "cuts"):
            say(f"warning: {check.name} {check.value:g} {check.unit}: {check.advice}")


def _check_length(info: VideoInfo, seconds: float, lasts: str) -> None:
    if seconds < SHORTEST - 1.5 / FPS:  # what rounding and a last frame's own length can take away
        raise UserError(
            f"{info.path}: {lasts} {seconds:.1f} s: give at least {SHORTEST:g} s of one person talking, "
            f"better 3 to 5 minutes"
        )


def _check_folder(out: pathlib.Path, video: Facts) -> None:
    """Refuses a folder that belongs to something else, whose files would be mixed with or replaced by ours."""
    remedy = f"choose another --out, or delete {out}"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: {remedy}")
    manifest = out / schema.MANIFEST
    if manifest.exists():
        saved = read_json(manifest, "dataset manifest")
        other = saved.get("video") if isinstance(saved, dict) else None
        if not isinstance(other, dict) or not isinstance(saved.get("steps", {}), dict):
            raise UserError(f"{manifest} is not of this program: {remedy}")
        if other.get("sha256") != video["sha256"]:
            raise UserError(f"{out} was made from another video ({other.get('name', 'unknown')}): {remedy}")
    elif any((out / name).exists() for name in (*schema.TRANSFORMS.values(), "ori_imgs", "head_imgs", "com_imgs")):
        raise UserError(f"{out} holds a dataset that this program did not make: {remedy}")


def _digest(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
