"""Renders a talking video from a recording, resumable and split into shards: `synthesize(config, workdir)`."""

import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import sha256_of
from adnerf_jax.common.progress import Bar, say
from adnerf_jax.common.timing import FPS
from adnerf_jax.common.types import Conditions
from adnerf_jax.data.person import Person
from adnerf_jax.inference.avatar import Avatar
from adnerf_jax.inference.output import check_not_source, check_output, write_output
from adnerf_jax.inference.pose_sequences import mirrored_index
from adnerf_jax.inference.shards import (
    discard_frames,
    finished_frames,
    frame_path,
    parse_shard,
    read_frame,
    stage_job,
)
from adnerf_jax.inference.speech_input import count_frames
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.image import read_image, read_rgba, write_image
from adnerf_jax.models.codes.registry import driven_codes

# Settings of `config.render` that are passed on to `Avatar.render`: how frames look, and which part of the speech.
_APPEARANCE = ("pose", "offset", "smooth", "clamp", "background", "camera", "size", "crop", "seed")
_SPAN = ("start", "duration", "audio_track")


def synthesize(config: ConfigDict, workdir: str | pathlib.Path) -> pathlib.Path:
    """Renders the person of a workdir speaking a recording, and writes a video with sound (`--mode=render`).

    Frames are kept as PNG files in `<out>.frames/` until the video is written, so that an interrupted render continues
    where it stopped, and several processes can render a shard each (`config.render.shard`). Memory does not grow with
    the length of the speech.

    Args:
      config: the stage's configuration, with `render` set.
      workdir: the stage's folder.

    Returns:
      the path of the video; for a shard, the folder of the frames.

    Raises:
      UserError: there is no checkpoint or no sound, the person's speech features cannot be computed from the sound, or
        a setting of `config.render` is invalid.
    """
    workdir = pathlib.Path(workdir)
    settings = config.render
    recording = settings.audio or settings.features
    if not recording:
        raise UserError("nothing to say: give a sound or video file with ", Option("render.audio", "FILE"))
    audio = pathlib.Path(settings.audio) if settings.audio else None
    out = pathlib.Path(settings.out) if settings.out else workdir / f"{pathlib.Path(recording).stem}.mp4"
    shard, shards = parse_shard(settings.shard, "render.shard")
    target = check_output(out, alpha=settings.background == "none")
    check_not_source(target, settings.audio, settings.features, *(settings[name] for name in _appearance(settings)))
    if audio and not settings.features:
        # A sound is checked before a model is loaded.
        count_frames(audio, settings.start, settings.duration, settings.audio_track)
    avatar = Avatar.load(workdir, config)
    options = {name: settings[name] for name in (*_appearance(settings), *_SPAN)}
    rendering = avatar.render(audio, features=settings.features, **options)

    frames = len(rendering)
    folder = out.with_name(out.name + ".frames")
    finished = finished_frames(folder, render_job(avatar.stage, workdir, config))
    of_shard = range(frames)[shard::shards]
    say(
        f"rendering {len(of_shard)} frames of {rendering.width}x{rendering.height} ({frames / FPS:.1f} s) to "
        f"{target if shards == 1 else folder}"
    )
    provenance = avatar.provenance if settings.label else None
    bar = Bar("render", len(of_shard), done=sum(i in finished for i in of_shard), compiles=True)
    for i, frame in rendering.selected(lambda i: i in of_shard and i not in finished):
        write_image(frame_path(folder, i), frame, provenance=provenance)
        bar.update()
    bar.close()
    if shards > 1:
        say(
            f"wrote shard {shard + 1} of {shards} into {folder}; run the same command without ",
            Option("render.shard"),
            " to join them",
        )
        return folder

    read = read_rgba if rendering.alpha else read_image
    written = write_output(
        out,
        (read_frame(folder, i, read) for i in range(frames)),
        rendering.width,
        rendering.height,
        alpha=rendering.alpha,
        speech=rendering.speech,
        provenance=provenance,
    )
    discard_frames(folder)
    say(f"wrote {written}")
    return written


def training_pose_and_conditions(person: Person, i: int, audio_windows: np.ndarray) -> tuple[np.ndarray, Conditions]:
    """Pose and conditions of frame `i` of any speech, with the training video's poses and eyes, played back and forth.

    Args:
      person: the person whose training video is used.
      i: number of the frame.
      audio_windows: float32 [8, 16, C], speech windows of the frames i−4 … i+3.

    Returns:
      float32 [4, 4], camera-to-head, and the conditions of one frame.
    """
    row = mirrored_index(i, len(person.transforms))
    return person.transforms[row], Conditions(
        audio_windows[None], {name: track[row : row + 1] for name, track in person.tracks.items()}
    )


def render_job(stage: TrainedStage, workdir: pathlib.Path, config: ConfigDict) -> dict[str, Any]:
    """Everything that decides how the frames of a render look, as JSON values; frames of another job are not reused."""
    settings = config.render
    files = {name: settings[name] for name in ("audio", "features", *_appearance(settings))}
    digests = {name: sha256_of(value) for name, value in files.items() if _is_file(value)}
    values = {name: settings[name] for name in (*_appearance(settings), *_SPAN, "label")}
    return stage_job(stage, workdir, config) | {"files": digests} | values


def _appearance(settings: ConfigDict) -> tuple[str, ...]:
    """Names of the settings that decide how frames look: those of every person, and those of the driven codes."""
    return (*_APPEARANCE, *(name for name in driven_codes() if name in settings))


def _is_file(value: object) -> bool:
    return isinstance(value, str) and pathlib.Path(value).is_file()
