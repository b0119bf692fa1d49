"""A trained person and any speech to a talking video with sound: `synthesize(config, workdir)`."""

import collections
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax import speech
from adnerf_jax.errors import UserError
from adnerf_jax.files import write_json
from adnerf_jax.media.audio import read_blocks
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.media.video import VideoWriter
from adnerf_jax.person import Person
from adnerf_jax.progress import Bar, say
from adnerf_jax.rendering import to_uint8
from adnerf_jax.runs import flatten
from adnerf_jax.schema import FPS
from adnerf_jax.trained import TrainedStage
from adnerf_jax.types import Conditions

_JOB = "job.json"


def synthesize(config: ConfigDict, workdir: str | pathlib.Path) -> pathlib.Path:
    """Renders the person of a workdir saying a recording, and writes an mp4 with sound.

    Frames are kept as PNG in `<out>.frames/` until the video is written, so an interrupted render goes on where it
    stopped. Memory does not grow with the length of the speech.

    Args:
      config: the stage's configuration, with `render` set.
      workdir: the stage's folder.

    Returns:
      the video's path.

    Raises:
      UserError: no checkpoint, no sound, or a sound that the person's speech features cannot be made from.
    """
    workdir = pathlib.Path(workdir)
    settings = config.render
    given = settings.audio or settings.features
    if not given:
        raise UserError("nothing to say: give a sound or video file with --config.render.audio=FILE")
    audio = pathlib.Path(settings.audio) if settings.audio else None
    out = pathlib.Path(settings.out) if settings.out else workdir / f"{pathlib.Path(given).stem}.mp4"
    if audio and out.resolve() == audio.resolve():
        raise UserError(
            f"the video would replace the sound it is made from: give another --config.render.out than {out}"
        )
    if settings.features:
        windows = cut_windows(speech.load_deepspeech(settings.features), settings.start, settings.duration)
        frames = len(windows)
        if audio:
            count_frames(audio, settings.start, settings.duration)  # that there is sound is known before, not after
    else:
        frames = count_frames(audio, settings.start, settings.duration)
    stage = TrainedStage.load(workdir, config)
    person = stage.person
    if settings.features:
        check_features(stage, "DeepSpeech", speech.DEEPSPEECH_LOGITS)
    else:
        windows = encoded(stage, audio, settings.start, settings.duration)

    folder = out.with_name(out.name + ".frames")
    done = resume(folder, render_job(stage, workdir, config))
    say(f"rendering {frames} frames of {person.camera.width}x{person.camera.height} ({frames / FPS:.1f} s) to {out}")
    background = person.background.astype(np.float32) / 255.0
    compose = jax.jit(lambda layers: to_uint8(layers.person_over(background)))
    bar = Bar("render", frames, done=sum(1 for i in range(frames) if i in done))
    for i, audio_windows in enumerate(attention_windows(windows, config.compat.zero_padding)):
        if i in done:
            continue
        write_image(folder / f"{i:06d}.png", np.asarray(compose(stage.layers(*driven(person, i, audio_windows)))))
        bar.update()
    bar.close()

    with VideoWriter(
        out,
        person.camera.width,
        person.camera.height,
        FPS,
        sound=audio,
        sound_start=settings.start,
        duration=settings.duration,
    ) as writer:
        for i in range(frames):
            writer.write(read_image(folder / f"{i:06d}.png"))
    shutil.rmtree(folder)
    say(f"wrote {out}")
    return out


def encoded(stage: TrainedStage, audio: pathlib.Path, start: float, duration: float | None) -> Iterator[np.ndarray]:
    """Speech windows [16, C] of a recording, frame by frame, in the features that the person learned from.

    Raises:
      UserError: they cannot be computed here.
    """
    if stage.person.speech not in speech.ENCODERS:
        raise UserError(
            f"this person learned from {stage.person.speech} features, which cannot be computed here: give those of "
            f"the sound with --config.render.features=FILE.npy"
        )
    encoder = speech.get_encoder(stage.person.speech)
    check_features(stage, encoder.name, encoder.dim)
    return speech.stream_windows(encoder, sound_blocks(audio, start, duration))


def driven(person: Person, i: int, audio_windows: np.ndarray) -> tuple[np.ndarray, Conditions]:
    """Pose [4, 4] and conditions of frame `i` of any speech: the training video's poses and eyes, back and forth."""
    row = mirrored(i, len(person.transforms))
    return person.transforms[row], Conditions(audio=audio_windows[None], eyes=person.eyes[row : row + 1])


def sound_blocks(audio: pathlib.Path, start: float, duration: float | None) -> Iterator[np.ndarray]:
    """The sound's samples at 16 kHz, mono, [t] at a time."""
    return (block[0] for block in read_blocks(audio, speech.SAMPLE_RATE, 1, start, duration))


def count_frames(audio: pathlib.Path, start: float, duration: float | None) -> int:
    """Frames that the sound lasts.

    Raises:
      UserError: the file has no sound there.
    """
    samples = sum(len(block) for block in sound_blocks(audio, start, duration))
    if not samples:
        raise UserError(f"{audio} has no sound from {start:g} s on: start earlier or give a longer file")
    return speech.frames_for(samples)


def cut_windows(windows: np.ndarray, start: float, duration: float | None) -> np.ndarray:
    """The windows [N, 16, C] of some seconds.

    Raises:
      UserError: there are none.
    """
    first = round(start * FPS)
    last = len(windows) if duration is None else first + round(duration * FPS)
    if not len(windows[first:last]):
        raise UserError(f"the features last {len(windows) / FPS:g} s: nothing is left of them from {start:g} s on")
    return windows[first:last]


def attention_windows(windows: Iterable[np.ndarray], zero_padded: bool = False) -> Iterator[np.ndarray]:
    """Windows of frames 0, 1, … to the windows [8, 16, C] of the frames i−4 … i+3, the ends' repeated.

    The streaming form of `datasets.neighbours_in_time`.

    Args:
      windows: [16, C] each.
      zero_padded: zeros past the ends, as in the published code.
    """
    held: collections.deque[np.ndarray] = collections.deque(maxlen=8)
    beyond = np.zeros_like if zero_padded else np.asarray
    for window in windows:
        if not held:
            held.extend([beyond(window)] * 4)
        held.append(window)
        if len(held) == 8:
            yield np.stack(held)
    for _ in range(3 if held else 0):
        held.append(beyond(held[-1]))
        if len(held) == 8:
            yield np.stack(held)


def mirrored(i: int, length: int) -> int:
    """Index 0, 1, … length−1, length−2, … 0, 1, …: a sequence played back and forth."""
    i %= max(2 * length - 2, 1)
    return i if i < length else 2 * length - 2 - i


def check_features(stage: TrainedStage, name: str, channels: int) -> None:
    """Raises UserError where a person learned from other speech features than those of `channels` channels."""
    expected = len(stage.scene.audio_mean)
    if channels != expected:
        raise UserError(
            f"this person learned from speech features with {expected} channels, {name} features have {channels}: "
            f"prepare and train again with one encoder"
        )


def render_job(stage: TrainedStage, workdir: pathlib.Path, config: ConfigDict) -> dict:
    """What decides every frame of a render; frames of another job are not reused."""
    settings, digests = config.render, {}
    for name in ("audio", "features"):
        if settings[name]:
            with open(settings[name], "rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "workdir": str(workdir.absolute()),
        "stage": stage.name,
        "step": stage.step,
        **digests,
        "start": settings.start,
        "duration": settings.duration,
        "occupancy": settings.occupancy,
        # The command line may override these for a render.
        **{part: flatten(config[part].to_dict()) for part in ("model", "compat")},
    }


def resume(folder: pathlib.Path, job: dict) -> set[int]:
    """Numbers of the frames that an interrupted render of the same job left; those of another job are deleted."""
    path = folder / _JOB
    try:
        same = json.loads(path.read_text()) == job
    except (OSError, json.JSONDecodeError):
        same = False
    if not same:
        if folder.exists() and not path.exists():
            raise UserError(
                f"{folder} is in the way and no render made it: move it, or give another --config.render.out"
            )
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, job)
    return {int(frame.stem) for frame in folder.glob("[0-9]*.png")}
