"""`--mode=render`: any speech to a talking video, resumable and in parts: `synthesize(config, workdir)`."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import sha256_of
from adnerf_jax.common.progress import Bar, say
from adnerf_jax.common.timing import FPS
from adnerf_jax.common.types import Conditions
from adnerf_jax.data.person import Person
from adnerf_jax.inference.avatar import Avatar
from adnerf_jax.inference.output import check_not_source, check_output, write_output
from adnerf_jax.inference.pose_sequences import mirrored_index
from adnerf_jax.inference.shards import discard, job_of, kept_frame, kept_frames, read_kept, shard
from adnerf_jax.inference.speech_input import count_frames
from adnerf_jax.inference.trained import TrainedStage
from adnerf_jax.media.image import read_image, read_rgba, write_image

# Of `config.render`: what decides a frame, beside the contents of files that it names.
_LOOK = ("pose", "offset", "smooth", "clamp", "background", "camera", "eyes", "size", "crop", "seed")
_WHEN = ("start", "duration")


def synthesize(config: ConfigDict, workdir: str | pathlib.Path) -> pathlib.Path:
    """Renders the person of a workdir saying a recording, and writes a video with sound.

    Frames are kept as PNG in `<out>.frames/` until the video is written, so an interrupted render goes on where it
    stopped, and several processes can render parts of it (`config.render.shard`). Memory does not grow with the length
    of the speech.

    Args:
      config: the stage's configuration, with `render` set.
      workdir: the stage's folder.

    Returns:
      the video's path; for a part, the folder of the frames.

    Raises:
      UserError: no checkpoint, no sound, a sound that the person's speech features cannot be made from, or a pose,
        background, camera or eyes that cannot be.
    """
    workdir = pathlib.Path(workdir)
    settings = config.render
    given = settings.audio or settings.features
    if not given:
        raise UserError("nothing to say: give a sound or video file with --config.render.audio=FILE")
    audio = pathlib.Path(settings.audio) if settings.audio else None
    out = pathlib.Path(settings.out) if settings.out else workdir / f"{pathlib.Path(given).stem}.mp4"
    part, parts = shard(settings.shard, "config.render.shard")
    target = check_output(out, alpha=settings.background == "none")
    check_not_source(target, settings.audio, settings.features, *(settings[name] for name in _LOOK))
    if audio and not settings.features:
        count_frames(audio, settings.start, settings.duration)  # a sound is looked at before a model is loaded
    avatar = Avatar.load(workdir, config)
    look = {name: settings[name] for name in (*_LOOK, *_WHEN)}
    rendering = avatar.render(audio, features=settings.features, **look)

    frames = len(rendering)
    folder = out.with_name(out.name + ".frames")
    done = kept_frames(folder, render_job(avatar.stage, workdir, config))
    mine = range(frames)[part::parts]
    say(
        f"rendering {len(mine)} frames of {rendering.width}x{rendering.height} ({frames / FPS:.1f} s) to "
        f"{target if parts == 1 else folder}"
    )
    provenance = avatar.provenance if settings.label else None
    bar = Bar("render", len(mine), done=sum(i in done for i in mine), compiles=True)
    for i, frame in rendering.selected(lambda i: i in mine and i not in done):
        write_image(kept_frame(folder, i), frame, provenance=provenance)
        bar.update()
    bar.close()
    if parts > 1:
        say(
            f"wrote part {part + 1} of {parts} into {folder}; the same command without --config.render.shard joins them"
        )
        return folder

    read = read_rgba if rendering.alpha else read_image
    made = write_output(
        out,
        (read_kept(folder, i, read) for i in range(frames)),
        rendering.width,
        rendering.height,
        alpha=rendering.alpha,
        speech=rendering.speech,
        provenance=provenance,
    )
    discard(folder)
    say(f"wrote {made}")
    return made


def training_pose_and_conditions(person: Person, i: int, audio_windows: np.ndarray) -> tuple[np.ndarray, Conditions]:
    """Pose [4, 4] and conditions of frame `i` of any speech: the training video's poses and eyes, back and forth."""
    row = mirrored_index(i, len(person.transforms))
    return person.transforms[row], Conditions(audio=audio_windows[None], eyes=person.eyes[row : row + 1])


def render_job(stage: TrainedStage, workdir: pathlib.Path, config: ConfigDict) -> dict:
    """What decides every frame of a render; frames of another job are not reused."""
    settings = config.render
    files = {name: settings[name] for name in ("audio", "features", *_LOOK)}
    digests = {name: sha256_of(value) for name, value in files.items() if _is_file(value)}
    asked = {name: settings[name] for name in (*_LOOK, *_WHEN, "label")}
    return job_of(stage, workdir, config) | {"files": digests} | asked


def _is_file(value) -> bool:
    return isinstance(value, str) and pathlib.Path(value).is_file()
