"""Audio: decoded to float samples, synchronised with the video stream, and written as WAV.

The streams of a container need not start together. Time 0 here is the first picture of a video file, or the first
sample of a file with audio alone; audio before time 0 is dropped, and audio that starts later is preceded by silence.
"""

import os
import sys
import wave
from collections.abc import Iterable, Iterator

import av
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import atomic_path
from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.media.container import audio_streams, decode_audio, first_picture, open_media
from adnerf_jax.media.sound_track import channels_of, resampler, sound_track, unmixed

# Some containers round time stamps to milliseconds, so blocks that are this close (seconds) are joined; a larger gap
# is filled with silence and a larger overlap is dropped, or the sound would drift against the picture from there on.
_JOIN_TOLERANCE = 0.03


def read_audio(
    path: str | os.PathLike,
    rate: int = SAMPLE_RATE,
    start: float = 0.0,
    duration: float | None = None,
    track: int | None = None,
) -> np.ndarray:
    """Reads a file's sound.

    Args:
      path: sound or video file, any number of channels and any rate.
      rate: samples per second of the result.
      start: seconds after the first picture (of a video) or the first sample.
      duration: maximum length in seconds; None: to the end.
      track: the sound track to use, counted from 1; None: `sound_track.sound_track` chooses.

    Returns:
      float32 [T], mono in [-1, 1].

    Raises:
      UserError: no such file or track, not a sound or video file, no sound track, or no sound after `start`.
    """
    blocks = [block[0] for block in read_blocks(path, rate, 1, start, duration, track)]
    if not blocks:
        raise UserError(f"{path} has no sound from {start:g} s on: start earlier or give a longer file")
    return np.clip(np.concatenate(blocks), -1.0, 1.0)


def read_blocks(
    path: str | os.PathLike,
    rate: int,
    channels: int,
    start: float = 0.0,
    duration: float | None = None,
    track: int | None = None,
) -> Iterator[np.ndarray]:
    """The streaming form of `read_audio`, in constant memory.

    Args:
      path, rate, start, duration, track: see `read_audio`.
      channels: 1 (mixed down) or 2.

    Yields:
      float32 [channels, t] blocks without gaps, not clipped.

    Raises:
      UserError: as `read_audio`, at the call rather than at the first block.
    """
    chosen = sound_track(path, track)
    if chosen is None:
        raise UserError(f"{path} has no sound track: give a sound file, or a video with sound")
    container = open_media(path)
    stream = audio_streams(container)[chosen.index]
    picture = first_picture(path)
    origin = None if picture is None else float(picture.time or 0.0)
    stamped = _resampled(container, stream, chosen.channel, rate, channels)
    return _aligned(stamped, rate, channels, origin, start, duration)


def has_sound(path: str | os.PathLike) -> bool:
    """Whether the file has an audio stream that can be decoded; raises UserError as `open_media`."""
    with open_media(path) as container:
        return bool(audio_streams(container))


def mono_floats(samples: np.ndarray) -> np.ndarray:
    """Samples, float or 16-bit, [T] or [channels, T], as float32 [T] in [-1, 1]; channels are averaged.

    Raises:
      UserError: another type or shape, or values that are not finite.
    """
    samples = np.asarray(samples)
    if samples.dtype not in (np.int16, np.float16, np.float32, np.float64) or samples.ndim not in (1, 2):
        raise UserError(
            f"sound must be float or int16 samples [T] or [channels, T], not {samples.dtype} {list(samples.shape)}"
        )
    if samples.ndim == 2 and len(samples) > max(samples.shape[1], 1):
        raise UserError(f"sound of shape {list(samples.shape)} has its channels last: transpose it to [channels, T]")
    # The scale that ffmpeg uses for 16-bit sound.
    floats = samples.astype(np.float32) / 32768.0 if samples.dtype == np.int16 else samples.astype(np.float32)
    if not np.isfinite(floats).all():
        raise UserError("the sound has samples that are not finite (NaN or infinite): replace or remove them")
    return floats if floats.ndim == 1 else floats.mean(0)


def samples_as_blocks(
    samples: np.ndarray, rate_in: int, rate: int, start: float = 0.0, duration: float | None = None
) -> Iterator[np.ndarray]:
    """Resamples mono float32 [T] samples in memory to [1, t] blocks; `start` and `duration` as in `read_blocks`."""
    begin = round(start * rate_in)
    end = len(samples) if duration is None else begin + round(duration * rate_in)
    samples = np.ascontiguousarray(samples[begin:end], np.float32)
    return resampled_blocks(
        (samples[position : position + rate_in] for position in range(0, len(samples), rate_in)), rate_in, rate
    )


def resampled_blocks(blocks: Iterable[np.ndarray], rate_in: int, rate: int) -> Iterator[np.ndarray]:
    """Resamples consecutive mono float32 [t] blocks to [1, t] blocks, in constant memory."""
    converter = resampler(rate, "mono")
    for block in blocks:
        if not len(block):
            continue
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block)[None], "fltp", "mono")
        frame.sample_rate = rate_in
        for out in converter.resample(frame):
            yield out.to_ndarray()
    for out in converter.resample(None):
        yield out.to_ndarray()


def write_wav(path: str | os.PathLike, samples: np.ndarray, rate: int) -> None:
    """Writes mono float samples [T] in [-1, 1] as 16-bit PCM, atomically; values outside are clipped."""
    pcm = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.tobytes())


def _resampled(
    container: av.container.InputContainer, stream: av.AudioStream, channel: int | None, rate: int, channels: int
) -> Iterator[tuple[float | None, np.ndarray]]:
    """Yields (time stamp in the file in seconds, float32 [channels, t]); closes the container at the end."""
    with container:
        layout = "mono" if channels == 1 else "stereo"
        converter, template = resampler(rate, layout), None
        frames = decode_audio(container, stream)
        for frame in frames if channel is None else _one_channel(frames, channel):
            properties = (frame.sample_rate, frame.layout.name, frame.format.name)
            if template not in (None, properties):  # a broadcast recording may change its format midway
                yield from ((out.time, out.to_ndarray()) for out in converter.resample(None))
                converter = resampler(rate, layout)
            template = properties
            try:
                resampled = converter.resample(frame)
            except av.error.FFmpegError:
                raise UserError(
                    f"the sound of {container.name} has {frame.layout.nb_channels} channels in a layout that cannot be "
                    f"mixed down: give it in one or two channels"
                ) from None
            yield from ((out.time, out.to_ndarray()) for out in resampled)
        yield from ((out.time, out.to_ndarray()) for out in converter.resample(None))


def _one_channel(frames: Iterator[av.AudioFrame], channel: int) -> Iterator[av.AudioFrame]:
    """One channel of each frame; the last where a frame has fewer."""
    kind, splitter = None, None
    for frame in frames:
        if kind != (kind := (frame.sample_rate, frame.layout.name, frame.format.name)) or splitter is None:
            splitter = unmixed(frame)
        for floats in splitter.resample(frame):
            samples = channels_of(floats)
            one = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[min(channel, len(samples) - 1)][None]), "fltp", "mono"
            )
            one.sample_rate, one.pts, one.time_base = floats.sample_rate, floats.pts, floats.time_base
            yield one


def _aligned(
    stamped: Iterator[tuple[float | None, np.ndarray]],
    rate: int,
    channels: int,
    origin: float | None,
    start: float,
    duration: float | None,
) -> Iterator[np.ndarray]:
    """Concatenates time-stamped blocks from `origin + start` on: gaps become silence, overlaps are dropped."""
    end = sys.maxsize if duration is None else round(duration * rate)
    done = 0  # samples yielded so far
    expected = None  # position of the next block in the result, in samples, if there is no gap
    for time, block in stamped:
        if origin is None:
            origin = time or 0.0
        if time is None:
            position = -round(start * rate) if expected is None else expected
        else:
            position = round((time - origin - start) * rate)
            if expected is not None and abs(position - expected) <= _JOIN_TOLERANCE * rate:
                position = expected
        expected = position + block.shape[1]
        while done < min(position, end):
            silence = np.zeros((channels, min(min(position, end) - done, rate)), np.float32)
            done += silence.shape[1]
            yield silence
        block = block[:, max(done - position, 0) : max(end - position, 0)]
        done += block.shape[1]
        if block.shape[1]:
            yield block
        if done >= end:
            return
