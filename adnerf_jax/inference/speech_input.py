"""Speech as an input: the speech windows of each frame from files, arrays, live chunks of sound, or features."""

import collections
import dataclasses
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS, FRAMES_AFTER, FRAMES_BEFORE, NEIGHBOURS, SAMPLE_RATE
from adnerf_jax.media.audio import mono_floats, read_blocks, samples_as_blocks
from adnerf_jax.media.sound_track import SILENCE, rms_level
from adnerf_jax.speech import features as speech_features

if TYPE_CHECKING:  # counting frames must not wait for the import of JAX
    from adnerf_jax.inference.trained_stage import TrainedStage

_LOWEST_RATE, _HIGHEST_RATE = 1000, 768_000  # Hz, of sound given as arrays


@dataclasses.dataclass(frozen=True)
class SpeechInput:
    """The speech that a render is conditioned on.

    Attributes:
      frames: number of frames at 25 fps; None for a live stream, whose end is not known beforehand.
      windows: starts an iterator over float32 [8, 16, C], the speech windows of the frames i−4 … i+3, for i = 0, 1, ….
      sound: what `media.video.VideoWriter` takes as its `sound`; None for features without a sound.
      start, duration: seconds, the part of `sound` that belongs to the frames; duration None: to the end.
      audio_track: the track of a file, counted from 1; None: `media.sound_track` chooses.
    """

    frames: int | None
    windows: Callable[[], Iterator[np.ndarray]]
    sound: Any = None
    start: float = 0.0
    duration: float | None = None
    audio_track: int | None = None


def speech_input(
    stage: "TrainedStage",
    speech: Any,
    start: float = 0.0,
    duration: float | None = None,
    *,
    audio_track: int | None = None,
    features: str | os.PathLike | None = None,
    zero_padded: bool = False,
    keep_sound: bool = False,
) -> SpeechInput:
    """Prepares speech for a person.

    Args:
      stage: the person, whose speech encoder computes the windows.
      speech: a sound or video file of any rate and number of channels; samples, float or int16, [T] or [channels, T] at
        16 kHz, or a pair (samples, rate in Hz); an iterable of chunks [t] of 16 kHz mono samples (a live stream); None
        where only features are given.
      start, duration: seconds, the part of a file or an array; chunks are used from first to last.
      audio_track: sound track of a file, counted from 1; None: `media.sound_track` chooses.
      features: file of DeepSpeech features of the sound (`speech.features.load_deepspeech`), for a person trained on
        those.
      zero_padded: the windows beyond both ends of the speech are zeros, as in the published code, instead of those of
        silence.
      keep_sound: chunks are kept in memory until the result's `sound` is read.

    Raises:
      UserError: neither speech nor features are given, the speech has no sound, or the person was trained on other
        features.
    """
    check_span(start, duration)
    if features is not None:
        windows = cut_windows(speech_features.load_deepspeech(features), start, duration)
        check_features(stage, "DeepSpeech", speech_features.DEEPSPEECH_LOGITS)
        sound = None if speech is None else _recording(speech)
        if isinstance(sound, pathlib.Path):
            # A file without sound is refused before rendering, not after.
            count_frames(sound, start, duration, audio_track)
        return SpeechInput(
            len(windows), lambda: attention_windows(windows, zero_padded), sound, start, duration, audio_track
        )
    if speech is None:
        raise UserError("nothing to say: give a sound or video file, samples, or chunks of them")
    encoder = _encoder(stage)
    recording = _recording(speech)
    if isinstance(recording, pathlib.Path):

        def blocks() -> Iterator[np.ndarray]:
            return sound_blocks(recording, start, duration, audio_track)

        frames = _frames_of(blocks(), str(recording), start)
    elif isinstance(recording, tuple):

        def blocks() -> Iterator[np.ndarray]:
            return (block[0] for block in samples_as_blocks(*recording, SAMPLE_RATE, start, duration))

        frames = _frames_of(blocks(), None, start)
    else:
        live, live_sound = _live_samples(speech), None
        if keep_sound:
            live, kept = itertools.tee(live)
            live_sound = kept, SAMPLE_RATE
        return SpeechInput(None, lambda: _sound_windows(encoder, live, zero_padded), live_sound)
    return SpeechInput(
        frames, lambda: _sound_windows(encoder, blocks(), zero_padded), recording, start, duration, audio_track
    )


def _live_samples(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Chunks as float32 [t].

    Raises:
      UserError: when the stream ends before its first sample.
    """
    samples = 0
    for chunk in map(mono_floats, chunks):
        samples += len(chunk)
        yield chunk
    if not samples:
        raise UserError("no sound was received: the stream ended before its first sample")


def _recording(speech: Any) -> pathlib.Path | tuple[np.ndarray, int] | None:
    """Speech of known length: the path of a file, or samples float32 [T] and their rate in Hz; None for chunks.

    Raises:
      UserError: an array that is not a sound, or a rate that no sound has.
    """
    if isinstance(speech, (str, os.PathLike)):
        return pathlib.Path(speech)
    if isinstance(speech, np.ndarray):
        speech = speech, SAMPLE_RATE
    if isinstance(speech, tuple) and len(speech) == 2 and np.ndim(speech[1]) == 0:
        samples, rate = np.asarray(speech[0]), int(speech[1])
        if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
            raise UserError(f"a sample rate of {rate} Hz: give {_LOWEST_RATE} to {_HIGHEST_RATE}")
        return mono_floats(samples), rate
    return None


def _encoder(stage: "TrainedStage") -> speech_features.Encoder:
    """The encoder whose features the person was trained on.

    Raises:
      UserError: it is not one that this library computes.
    """
    if stage.person.speech not in speech_features.ENCODERS:
        raise UserError(
            f"this person was trained on {stage.person.speech} features, which cannot be computed here: give those of "
            f"the sound with ",
            Option("render.features", "FILE.npy"),
        )
    encoder = speech_features.get_encoder(stage.person.speech)
    check_features(stage, encoder.name, encoder.dim)
    return encoder


def _sound_windows(
    encoder: speech_features.Encoder, blocks: Iterable[np.ndarray], zero_padded: bool
) -> Iterator[np.ndarray]:
    """Speech windows [8, 16, C] of the frames i−4 … i+3 of a sound, for i = 0, 1, …; silence or zeros around it."""
    if zero_padded:
        yield from attention_windows(speech_features.stream_windows(encoder, blocks), zero_padded=True)
        return
    held: collections.deque[np.ndarray] = collections.deque(maxlen=NEIGHBOURS)
    for window in speech_features.stream_windows(encoder, blocks, FRAMES_BEFORE, FRAMES_AFTER):
        held.append(window)
        if len(held) == held.maxlen:
            yield np.stack(held)


def sound_blocks(
    audio: pathlib.Path, start: float, duration: float | None, audio_track: int | None = None
) -> Iterator[np.ndarray]:
    """A file's sound at 16 kHz, mono, in blocks float32 [t]."""
    return (block[0] for block in read_blocks(audio, SAMPLE_RATE, 1, start, duration, audio_track))


def count_frames(audio: pathlib.Path, start: float, duration: float | None, audio_track: int | None = None) -> int:
    """Number of frames at 25 fps that a part of a file's sound lasts; the last one may be incomplete.

    Raises:
      UserError: the file has no sound there or no such track, or start or duration are out of range.
    """
    check_span(start, duration)
    return _frames_of(sound_blocks(audio, start, duration, audio_track), str(audio), start, warn=False)


def _frames_of(blocks: Iterable[np.ndarray], name: str | None, start: float, warn: bool = True) -> int:
    """Number of frames that blocks of 16 kHz sound last.

    Args:
      blocks: float32 [t] each.
      name: the file that they are from; None for samples in memory.
      start: seconds, for the message.
      warn: say if they are silent.

    Raises:
      UserError: there are no samples.
    """
    samples, energy = 0, 0.0
    for block in blocks:
        samples += len(block)
        energy += float(np.square(block, dtype=np.float64).sum())
    if not samples and name is None:
        raise UserError(f"the samples hold no sound from {start:g} s on: start earlier or give more of them")
    if not samples:
        raise UserError(f"{name} has no sound from {start:g} s on: start earlier or give a longer file")
    if warn and rms_level(energy, samples) < SILENCE:
        say(f"warning: {name or 'the sound'} is silent: the lips will stay at rest; check the recording")
    return speech_features.frames_for(samples)


def check_span(start: float, duration: float | None) -> None:
    """Raises UserError for a negative start, a duration that is not positive, or seconds that are not finite."""
    if not 0 <= start < math.inf:
        raise UserError(f"a start at {start:g} s: it must be 0 or later")
    if duration is not None and not 0 < duration < math.inf:
        raise UserError(f"a duration of {duration:g} s: it must be longer than 0")


def cut_windows(windows: np.ndarray, start: float, duration: float | None) -> np.ndarray:
    """Those of the windows [N, 16, C], one a frame, that belong to a part of the speech (seconds).

    Raises:
      UserError: there are none.
    """
    first = round(start * FPS)
    last = len(windows) if duration is None else first + round(duration * FPS)
    if not len(windows[first:last]):
        raise UserError(f"the features last {len(windows) / FPS:g} s: nothing is left of them from {start:g} s on")
    return windows[first:last]


def attention_windows(windows: Iterable[np.ndarray], zero_padded: bool = False) -> Iterator[np.ndarray]:
    """Speech windows of single frames to those of the frames i−4 … i+3, [8, 16, C], for i = 0, 1, ….

    The streaming form of `datasets.neighbours_in_time`.

    Args:
      windows: [16, C] of frame 0, 1, ….
      zero_padded: windows beyond both ends are zeros, as in the published code; else the first and last one repeat.
    """
    held: collections.deque[np.ndarray] = collections.deque(maxlen=NEIGHBOURS)
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
    """Raises UserError where a person was trained on speech features with another number of channels.

    Args:
      stage: the person.
      name: name of the given features, for the message.
      channels: C of the given features.
    """
    expected = stage.person.channels
    if channels != expected:
        raise UserError(
            f"this person was trained on speech features with {expected} channels, {name} features have {channels}: "
            f"prepare and train again with one encoder"
        )
