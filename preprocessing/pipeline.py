"""From a portrait video to a dataset: which steps there are, and what is refused before the first.

`steps.py` holds the steps themselves; `resume.py` says which of them a rerun skips.
"""

import functools
import hashlib
import math
import pathlib
import time
from collections.abc import Callable

from adnerf_jax import schema
from adnerf_jax.errors import UserError
from adnerf_jax.files import read_json
from adnerf_jax.media.video import VideoInfo, probe
from adnerf_jax.progress import duration, say
from adnerf_jax.speech import get_encoder, load_deepspeech
from preprocessing import steps
from preprocessing.clip import Clip
from preprocessing.resume import Facts, Step, run_steps
from preprocessing.steps import SHORTEST, Job, Records

FOCAL_PER_WIDTH = 8 / 3  # 1200 at 450 pixels, as the published tracker finds for its example
MOST_OFFSET = 5.0  # seconds that can be given


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
    clip = Clip(info, 0.0, info.duration, info.width, info.height)
    job = Job(clip, out, float(focal or FOCAL_PER_WIDTH * clip.width), str(speech), audio_offset)
    header = {
        "video": {"name": info.path.name, "sha256": _digest(info.path), "width": info.width, "height": info.height},
        "focal": job.focal,
        "speech": {"encoder": "deepspeech" if job.speech_is_file else job.speech},
    }
    _check_folder(out, header["video"])
    # A misspelt name or a wrong file is to be told now, not after the first step.
    load_deepspeech(job.speech) if job.speech_is_file else get_encoder(job.speech)
    todo = make_steps(job)
    say(
        f"Preparing {info.path} into {out}: {duration(info.duration)}, {round(info.duration * schema.FPS)} frames of "
        f"{info.width}×{info.height} pixels, in {len(todo)} steps: {', '.join(step.name for step in todo)}."
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
        step("frames", steps.extract_frames, ("ori_imgs/*.jpg",)),
        step("landmarks", steps.find_landmarks, (schema.LANDMARKS, schema.EYES, "ori_imgs/*.lms"), "frames"),
        step(
            "sound",
            steps.extract_sound,
            (schema.SOUND, schema.AUDIO_WINDOWS),
            "landmarks",
            **speech,
            audio_offset=job.audio_offset,
        ),
        step("parsing", steps.parse, ("parsing/*.png",), "landmarks"),
        step("pose", steps.track_pose, (schema.TRACK,), "landmarks", "parsing", focal=job.focal),
        step(
            "background", steps.recover_background, (schema.BACKGROUND, schema.LOSSLESS_BACKGROUND), "pose", "parsing"
        ),
        step("images", steps.write_images, ("head_imgs/*.jpg", "com_imgs/*.jpg", "gt/[0-9]*.png"), "background"),
        # The last: a dataset with an index is whole, and any step done again takes the index back.
        step("index", steps.write_index, tuple(schema.TRANSFORMS.values()), "sound", "images"),
    ]


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


def _digest(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
