"""Which track of a file, and which of its channels, is its sound: decided here for every reader.

Recorders write several tracks (the computer's sound first, the microphone second), and some microphones write the same
signal in opposite phase into both channels, which cancel each other when they are mixed.
"""

import dataclasses
import functools
import math
import os

import av
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import given_path
from adnerf_jax.common.progress import say
from adnerf_jax.media.container import audio_streams, decode_audio, open_media

SILENCE = -60.0  # dB of full scale (RMS): below it, a sound is silent
# dB by which a mix lies below its loudest channel where channels cancel each other: more than where only one of eight
# channels has a sound (18 dB).
_CANCELLED = 20.0

# libswresample: scale a mix-down so that it cannot exceed full scale (by default float output can).
_RESAMPLER_OPTIONS = {"rematrix_maxval": "1.0"}


@dataclasses.dataclass(frozen=True)
class SoundTrack:
    """The sound of a file.

    Attributes:
      index: the track, among `container.audio_streams`.
      channel: the channel that is used alone; None: all are mixed.
    """

    index: int
    channel: int | None = None


def sound_track(path: str | os.PathLike, track: int | None = None) -> SoundTrack | None:
    """Chooses the sound of a file, and says so once per file where there is a choice.

    Of several tracks it is the one marked as default, else the first; if it is silent, the first that is not. Channels
    are mixed unless they cancel each other; then the loudest is used alone. A file with more than one track or channel
    is decoded once for this, in constant memory; the result is remembered while the program runs.

    Args:
      path: sound or video file.
      track: the track to use, counted from 1; None: see above.

    Returns:
      None if there is no sound.

    Raises:
      UserError: there is no such track, or as `container.open_media`.
    """
    with open_media(path):  # refuses a missing file
        status = os.stat(given_path(path))
    return _chosen(os.fspath(path), track, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)
def _chosen(path: str, track: int | None, _time: int, _size: int) -> SoundTrack | None:
    """See `sound_track`; the last two arguments tell versions of a file apart."""
    with open_media(path) as container:
        streams = audio_streams(container)
        channels = [stream.codec_context.channels for stream in streams]
        marked = [bool(stream.disposition & av.stream.Disposition.default) for stream in streams]
    count = len(streams)
    if not count:
        return None
    if track is not None and not 1 <= track <= count:
        raise UserError(f"{path} has no sound track {track}: choose one of 1 to {count}")
    levels = functools.lru_cache(None)(lambda index: _measure(path, index))
    if track is not None:
        index = track - 1
    else:
        first = marked.index(True) if any(marked) else 0
        order = [first, *(i for i in range(count) if i != first)]
        index = first if count == 1 else next((i for i in order if levels(i).loudest >= SILENCE), first)
        if count > 1:
            why = "is marked as default" if any(marked) else "is the first"
            why = f"which {why}" if index == first else f"track {first + 1} is silent"
            say(f"sound: track {index + 1} of {count} of {path} is used, {why}")
    if channels[index] == 1:
        return SoundTrack(index)
    found = levels(index)
    if found.loudest < SILENCE or found.mix >= found.loudest - _CANCELLED:
        return SoundTrack(index)
    say(f"sound: the channels of {path} cancel each other; channel {found.channel + 1} alone is used")
    return SoundTrack(index, found.channel)


@dataclasses.dataclass(frozen=True)
class _Levels:
    """RMS levels of a track in dB of full scale: those of its loudest channel, and of the mix of all."""

    channel: int
    loudest: float
    mix: float


def _measure(path: str, index: int) -> _Levels:
    """Decodes and measures a track; one whose channels cannot be mixed, so that it cannot be read, counts as silent."""
    energy, mix, samples = np.zeros(1), 0.0, 0
    with open_media(path) as container:
        converters: dict[tuple[int, str, str], tuple[av.AudioResampler, av.AudioResampler]] = {}
        for frame in decode_audio(container, audio_streams(container)[index]):
            kind = frame.sample_rate, frame.layout.name, frame.format.name
            if kind not in converters:  # a broadcast recording may change its format midway
                converters = {kind: (unmixed(frame), resampler(frame.sample_rate, "mono"))}
            split, mixed = converters[kind]
            samples += frame.samples
            # Rumble for a subwoofer is no speech, and is left out of every mix.
            heard = np.array([channel.name != "LFE" for channel in frame.layout.channels])
            try:
                for floats in split.resample(frame):
                    power = np.square(channels_of(floats), dtype=np.float64).sum(1) * heard
                    energy = np.pad(energy, (0, max(len(power) - len(energy), 0)))
                    energy[: len(power)] += power
                mix += sum(float(np.square(one.to_ndarray(), dtype=np.float64).sum()) for one in mixed.resample(frame))
            except av.FFmpegError:
                return _Levels(0, -math.inf, -math.inf)
    channel = int(np.argmax(energy))
    return _Levels(channel, rms_level(float(energy[channel]), samples), rms_level(mix, samples))


def rms_level(energy: float, samples: int) -> float:
    """RMS level in dB of full scale of a sound, from its sum of squares; −inf if all samples are zero."""
    return 10 * math.log10(energy / samples) if energy > 0 and samples else -math.inf


def unmixed(frame: av.AudioFrame) -> av.AudioResampler:
    """Converts frames like this one to interleaved floats, for `channels_of`."""
    # Interleaved, since PyAV reads no more than eight planes, and crashes with more channels.
    return av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)


def channels_of(frame: av.AudioFrame) -> np.ndarray:
    """The samples of a frame of interleaved floats, float32 [channels, t]."""
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T


def resampler(rate: int, layout: str) -> av.AudioResampler:
    """Converts to float samples, [1 or 2, t], at another rate; `layout` is `mono` or `stereo`."""
    return av.AudioResampler(format="fltp", layout=layout, rate=rate, options=_RESAMPLER_OPTIONS)
