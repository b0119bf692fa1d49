"""What a person is to say: files, arrays or live chunks of sound to the speech windows of each frame."""

import collections
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import struct

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FPS, FRAMES_AFTER, FRAMES_BEFORE, SAMPLE_RATE
from adnerf_jax.media.audio import mono_floats, read_blocks, samples_as_blocks
from adnerf_jax.speech import features as speech_features

if TYPE_CHECKING:
    from adnerf_jax.inference.trained import TrainedStage

_BESIDE = FRAMES_BEFORE + FRAMES_AFTER


@struct.dataclass
class SpeechInput:
    """Something to say.

    Attributes:
      frames: how many it lasts; None where that is not known before it ends.
      windows: starts an iterator over the windows [8, 16, C] of the frames i−4 … i+3, for i = 0, 1, …
      sound: what `media.video.VideoWriter` takes as its `sound`; None for features without a sound.
      start, duration: the seconds of `sound` that are said.
    """

    frames: int | None
    windows: Callable[[], Iterator[np.ndarray]] = struct.field(pytree_node=False)
    sound: Any = None
    start: float = 0.0
    duration: float | None = None


def speech_input(
    stage: "TrainedStage",
    speech: Any,
    start: float = 0.0,
    duration: float | None = None,
    *,
    features: str | os.PathLike | None = None,
    zero_padded: bool = False,
    keep_sound: bool = False,
) -> SpeechInput:
    """Anything that can be said.

    Args:
      stage: the person, who learned from some kind of speech features.
      speech: a sound or video file of any rate and number of channels; samples, float or int16, [T] or [channels, T] at
        16 kHz, or (samples, rate); an iterable of chunks [t] of 16 kHz samples; None where there are only features.
      start, duration: seconds of a file or of an array; chunks are taken from first to last.
      features: file of DeepSpeech features of the sound (`speech_features.load_deepspeech`), for a person trained on
        those.
      zero_padded: windows of zeros before and after, as in the published code; else those of silence.
      keep_sound: chunks are kept until somebody takes them from the result's `sound`.

    Raises:
      UserError: nothing to say, no sound, or features that the person did not learn from.
    """
    check_span(start, duration)
    if features is not None:
        windows = cut_windows(speech_features.load_deepspeech(features), start, duration)
        check_features(stage, "DeepSpeech", speech_features.DEEPSPEECH_LOGITS)
        sound = None if speech is None else _known(speech)
        if isinstance(sound, pathlib.Path):
            count_frames(sound, start, duration)  # that there is sound is known before, not after
        return SpeechInput(len(windows), lambda: attention_windows(windows, zero_padded), sound, start, duration)
    if speech is None:
        raise UserError("nothing to say: give a sound or video file, samples, or chunks of them")
    encoder = _encoder(stage)
    known = _known(speech)
    if isinstance(known, pathlib.Path):
        frames = count_frames(known, start, duration)

        def blocks() -> Iterator[np.ndarray]:
            return sound_blocks(known, start, duration)
    elif isinstance(known, tuple):

        def blocks() -> Iterator[np.ndarray]:
            return (block[0] for block in samples_as_blocks(*known, SAMPLE_RATE, start, duration))

        frames = speech_features.frames_for(sum(map(len, blocks())))
        if not frames:
            raise UserError(f"the samples hold no sound from {start:g} s on: start earlier or give more of them")
    else:
        live, sound = _sounding(speech), None
        if keep_sound:
            live, heard = itertools.tee(live)
            sound = heard, SAMPLE_RATE
        return SpeechInput(None, lambda: _neighbours(encoder, live, zero_padded), sound)
    return SpeechInput(frames, lambda: _neighbours(encoder, blocks(), zero_padded), known, start, duration)


def _sounding(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Chunks as float32 [t].

    Raises:
      UserError: all of them together hold no sample, seen when they end.
    """
    samples = 0
    for chunk in map(mono_floats, chunks):
        samples += len(chunk)
        yield chunk
    if not samples:
        raise UserError("no sound came: the stream ended before its first sample")


def _known(speech: Any) -> pathlib.Path | tuple[np.ndarray, int] | None:
    """A file, or samples [T] with their rate; None for chunks.

    Raises:
      UserError: an array that is no sound.
    """
    if isinstance(speech, (str, os.PathLike)):
        return pathlib.Path(speech)
    if isinstance(speech, np.ndarray):
        speech = speech, SAMPLE_RATE
    if isinstance(speech, tuple) and len(speech) == 2 and np.ndim(speech[1]) == 0:
        samples, rate = np.asarray(speech[0]), int(speech[1])
        if not 1000 <= rate <= 768_000:
            raise UserError(f"{rate} samples a second are no rate of a sound: give 1000 to 768000")
        return mono_floats(samples), rate
    return None


def _encoder(stage: "TrainedStage") -> speech_features.Encoder:
    """The encoder that the person learned from.

    Raises:
      UserError: it cannot be had here.
    """
    if stage.person.speech not in speech_features.ENCODERS:
        raise UserError(
            f"this person learned from {stage.person.speech} features, which cannot be computed here: give those of "
            f"the sound with --config.render.features=FILE.npy"
        )
    encoder = speech_features.get_encoder(stage.person.speech)
    check_features(stage, encoder.name, encoder.dim)
    return encoder


def _neighbours(
    encoder: speech_features.Encoder, blocks: Iterable[np.ndarray], zero_padded: bool
) -> Iterator[np.ndarray]:
    """Windows [8, 16, C] of each frame of a sound, silence or zeros around it."""
    if zero_padded:
        yield from attention_windows(speech_features.stream_windows(encoder, blocks), zero_padded=True)
        return
    held: collections.deque[np.ndarray] = collections.deque(maxlen=_BESIDE + 1)
    for window in speech_features.stream_windows(encoder, blocks, FRAMES_BEFORE, FRAMES_AFTER):
        held.append(window)
        if len(held) == held.maxlen:
            yield np.stack(held)


def sound_blocks(audio: pathlib.Path, start: float, duration: float | None) -> Iterator[np.ndarray]:
    """The sound's samples at 16 kHz, mono, [t] at a time."""
    return (block[0] for block in read_blocks(audio, SAMPLE_RATE, 1, start, duration))


def count_frames(audio: pathlib.Path, start: float, duration: float | None) -> int:
    """Frames that the sound lasts.

    Raises:
      UserError: the file has no sound there, or start or duration cannot be.
    """
    check_span(start, duration)
    samples = sum(len(block) for block in sound_blocks(audio, start, duration))
    if not samples:
        raise UserError(f"{audio} has no sound from {start:g} s on: start earlier or give a longer file")
    return speech_features.frames_for(samples)


def check_span(start: float, duration: float | None) -> None:
    """Raises UserError for seconds that are no start or no duration."""
    if not 0 <= start < math.inf:
        raise UserError(f"a start at {start:g} s: it must be 0 or later")
    if duration is not None and not 0 < duration < math.inf:
        raise UserError(f"a duration of {duration:g} s: it must be longer than 0")


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
    held: collections.deque[np.ndarray] = collections.deque(maxlen=_BESIDE + 1)
    beyond = np.zeros_like if zero_padded else np.asarray
    for window in windows:
        if not held:
            held.extend([beyond(window)] * FRAMES_BEFORE)
        held.append(window)
        if len(held) == held.maxlen:
            yield np.stack(held)
    for _ in range(FRAMES_AFTER if held else 0):
        held.append(beyond(held[-1]))
        if len(held) == held.maxlen:
            yield np.stack(held)


def check_features(stage: "TrainedStage", name: str, channels: int) -> None:
    """Raises UserError where a person learned from other speech features than those of `channels` channels."""
    expected = len(stage.scene.audio_mean)
    if channels != expected:
        raise UserError(
            f"this person learned from speech features with {expected} channels, {name} features have {channels}: "
            f"prepare and train again with one encoder"
        )
