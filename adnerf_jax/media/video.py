"""Video: decoded at a constant frame rate, and encoded with sound in formats that play anywhere."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.codec.context import ThreadType
from av.sidedata.sidedata import SideData
from av.video.reformatter import ColorRange, Interpolation

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import atomic_path
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.media.audio import has_sound, read_blocks, resampled_blocks, samples_as_blocks
from adnerf_jax.media.colour import colours_of, to_bt709
from adnerf_jax.media.container import (
    Clock,
    decode_video,
    first_picture,
    local_url,
    open_media,
    read_packets,
    video_stream,
)
from adnerf_jax.media.deinterlacing import deinterlaced, is_interlaced
from adnerf_jax.media.encoder_settings import LIVE_MP4, bleed_colours, video_format
from adnerf_jax.media.heif import file_is_heif

# A picture counts as shown at k/fps if its time stamp is at most this much later (seconds): containers round time
# stamps to their time base (1 ms in Matroska). The tolerance is never more than one tick of the time base.
_MAX_STAMP_ERROR = 0.002

_LONGEST_STILL = 60.0  # seconds: a larger step between two time stamps means that the second one is damaged

_SOUND_RATE = 48000
_SOUND_BITS_PER_CHANNEL = 128_000  # bits per second; transparent for speech with ffmpeg's own AAC encoder

# H.264 code points (ITU-T H.273): BT.709 primaries, transfer and matrix, limited range. Players guess the colour space
# of untagged files from the size of the picture, and show wrong reds and greens.
_BT709, _LIMITED_RANGE = 1, 1

# libswscale's faster default loses one to two levels of 255 between YUV and RGB, always downwards.
_EXACT = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
      path: the file.
      width, height: pixels, as displayed: after rotation, and with square pixels.
      fps: mean frames per second; the spacing may vary.
      duration: seconds of the video stream.
      frames: number of frames in the file, None where the container does not hold it.
      has_audio: whether there is a sound track.
      colours: the coding of colours that are converted to BT.709, such as "HLG, BT.2020"; "" for BT.709.
      interlaced: whether pictures hold two fields, of which one is kept.
      full_range: whether the file says that its luma covers 0 … 255 rather than 16 … 235.
    """

    path: pathlib.Path
    width: int
    height: int
    fps: float
    duration: float
    frames: int | None
    has_audio: bool
    colours: str = ""
    interlaced: bool = False
    full_range: bool = False

    @property
    def conversions(self) -> list[str]:
        """What reading does to the pictures beyond the usual, a sentence each without its subject."""
        hdr = "is HDR" if self.colours.startswith(("HLG", "PQ")) else "has wide-gamut colours"
        done = "tone-mapped" if hdr == "is HDR" else "converted"
        said = [f"{hdr} ({self.colours}): its colours are {done} to BT.709"] if self.colours else []
        return [*said, *(["is interlaced: it is deinterlaced"] if self.interlaced else [])]

    def say_conversions(self) -> None:
        """Prints them, a line each."""
        for text in self.conversions:
            say(f"{self.path} {text}")


def probe(path: str | os.PathLike) -> VideoInfo:
    """Reads the properties of a video file; decodes only its first picture.

    Raises:
      UserError: no such file, not a video that ffmpeg can read, or a file with sound only.
    """
    container, stream = _open_video(path)
    with container:
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        fps = float(rate) if rate else FPS
        frames = stream.frames or None
        seconds = None
        if stream.duration is not None:
            seconds = _seconds(stream.duration, stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        if seconds is None or not frames:  # a header without the number of frames knows the first clock alone
            whole, measured, parts = _measure_packets(container, stream, fps)
            if seconds is None or parts > 1:
                seconds, fps = whole, measured
        picture = first_picture(path)
        assert picture is not None  # there is a video stream
        shape = _to_rgb(picture, stream.sample_aspect_ratio).shape
        return VideoInfo(
            pathlib.Path(path),
            shape[1],
            shape[0],
            fps,
            seconds,
            frames,
            has_sound(path),
            colours=str(colours_of(picture) or ""),
            interlaced=is_interlaced(stream, picture),
            full_range=picture.color_range == ColorRange.JPEG or picture.format.name.startswith("yuvj"),
        )


def read_frames(
    path: str | os.PathLike,
    fps: float = FPS,
    start: float = 0.0,
    duration: float | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[np.ndarray]:
    """Decodes a video at a constant rate, in constant memory.

    Frame k is the picture on screen at `start + k / fps` seconds after the first picture: surplus pictures are
    dropped, missing ones are repeated, and the last one is shown for its own duration. Pictures before `start` are
    decoded and discarded rather than sought, which is exact in every container.

    Args:
      path: a video file; rotation, mirroring and non-square pixels are undone.
      fps: frames per second of the result.
      start: seconds.
      duration: maximum length in seconds; None: to the end.
      size: (width, height) to which every picture is resized by averaging over areas; None: its own. For large pictures
        this takes a sixth of the time of resizing afterwards.

    Yields:
      uint8 RGB [H, W, 3], a new array for each frame.

    Raises:
      UserError: as `probe`, at the call rather than at the first frame.
    """
    return _frames(*_open_video(path), fps, start, math.inf if duration is None else duration, size)


class VideoWriter:
    """Writes frames (BT.709) and sound (48 kHz) into a video file, in constant memory.

    The extension selects the format: `.mp4` H.264 and AAC, `.webm` VP9 and Opus, `.mov` ProRes 4444 and AAC. The sound
    is cut to the length of the frames or padded with silence, so that both streams begin and end together. Use as a
    context manager: the complete file appears at the end, and no file if there was an exception. yuv420p needs even
    sides: the last row or column of a frame with an odd side is repeated.

    Args:
      path: the file to write; a binary file object gets a live stream instead (`formats.LIVE_MP4`).
      width, height: frame size in pixels.
      fps: frames per second.
      sound: None, a sound or video file, or (mono samples, sample rate in Hz), the samples being float32 [T] or an
        iterator of consecutive float32 [t] blocks.
      sound_start: time in `sound`, in seconds, of the first frame; not for an iterator.
      duration: use at most this many seconds of `sound`; not for an iterator.
      sound_track: the track of a file that is `sound`, counted from 1; None: `media.sound_track` chooses.
      alpha: frames are RGBA with straight alpha.
      tags: metadata of the container.

    Raises:
      UserError: `sound` cannot be read, the format is unknown, or it has no alpha channel and `alpha` is set.
      OSError: the file cannot be written, for example because the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike | BinaryIO,
        width: int,
        height: int,
        fps: float = FPS,
        sound: str | os.PathLike | tuple[np.ndarray | Iterator[np.ndarray], int] | None = None,
        sound_start: float = 0.0,
        duration: float | None = None,
        sound_track: int | None = None,
        alpha: bool = False,
        tags: Mapping[str, str] | None = None,
    ):
        self._live: BinaryIO | None = None
        if isinstance(path, (str, os.PathLike)):
            self.path = pathlib.Path(path)
            self._format = video_format(self.path, alpha)
        else:
            self._live, self.path, self._format = path, pathlib.Path("-"), LIVE_MP4
        self.width, self.height, self._alpha, self._tags = width, height, alpha, dict(tags or {})
        self.frames = 0
        self._rate = Fraction(fps).limit_denominator(1001)
        self._blocks: Iterator[np.ndarray] | None = None
        if isinstance(sound, tuple):
            samples, rate = sound
            if isinstance(samples, np.ndarray):
                self._blocks = samples_as_blocks(samples, rate, _SOUND_RATE, sound_start, duration)
            else:
                self._blocks = resampled_blocks(samples, rate, _SOUND_RATE)
            self._channels = 1
        elif sound is not None:
            self._channels = 2
            self._blocks = read_blocks(sound, _SOUND_RATE, self._channels, sound_start, duration, sound_track)
        self._samples = 0
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> "VideoWriter":
        with contextlib.ExitStack() as stack:
            form = self._format
            target = self._live or local_url(stack.enter_context(atomic_path(self.path)))
            self._container = stack.enter_context(
                av.open(target, "w", format=form.container, container_options=form.container_options)
            )
            self._container.metadata.update(self._tags)
            self._pixels = form.pixels_with_alpha if self._alpha else form.pixels
            video = self._container.add_stream(
                form.codec,
                rate=self._rate,
                width=self.width + self.width % 2,
                height=self.height + self.height % 2,
                pix_fmt=self._pixels,
                options=dict(form.options),
            )
            assert isinstance(video, av.VideoStream)
            self._video = video
            if self._alpha:
                self._video.metadata["alpha_mode"] = "1"  # WebM: the alpha channel is in a second bit stream
            context = self._video.codec_context
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _LIMITED_RANGE
            if self._blocks is not None:
                audio = self._container.add_stream(
                    form.sound,
                    rate=_SOUND_RATE,
                    layout="mono" if self._channels == 1 else "stereo",
                    bit_rate=_SOUND_BITS_PER_CHANNEL * self._channels,
                )
                assert isinstance(audio, av.AudioStream)
                self._audio = audio
                self._block: np.ndarray = np.zeros((self._channels, 0), np.float32)
            self._exit = stack.pop_all()
        return self

    def write(self, picture: np.ndarray) -> None:
        """Appends one frame, uint8 RGB [height, width, 3], or RGBA [height, width, 4] with `alpha`."""
        shape = self.height, self.width, 4 if self._alpha else 3
        if picture.shape != shape or picture.dtype != np.uint8:
            raise ValueError(f"a frame must be uint8 {shape}, not {picture.dtype} {picture.shape}")
        even = np.pad(picture, ((0, self.height % 2), (0, self.width % 2), (0, 0)), "edge")
        pixels, layout = (bleed_colours(even), "rgba") if self._alpha else (even, "rgb24")
        frame = av.VideoFrame.from_ndarray(pixels, layout).reformat(
            format=self._pixels, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation=_EXACT
        )
        frame.pts, frame.time_base = self.frames, 1 / self._rate
        self._container.mux(self._video.encode(frame))
        self.frames += 1
        if self._blocks is not None:
            self._write_sound(self._blocks, round(self.frames / self._rate * _SOUND_RATE))

    def __exit__(self, kind, error, trace) -> None:
        if error is not None:
            # What closing meets then follows from the error, which it must not replace: a player that closed its pipe.
            with contextlib.suppress(Exception):
                self._exit.__exit__(kind, error, trace)
            return
        try:
            if not self.frames:
                raise ValueError(f"no frames were written to {self.path}")
            self._container.mux(self._video.encode(None))
            if self._blocks is not None:
                self._container.mux(self._audio.encode(None))
        except BaseException as flushing:
            self.__exit__(type(flushing), flushing, flushing.__traceback__)
            raise
        self._exit.close()  # closes the container, then renames the temporary file or, if closing fails, removes it

    def _write_sound(self, blocks: Iterator[np.ndarray], until: int) -> None:
        """Encodes `blocks` up to sample `until`, with silence after their end."""
        while self._samples < until:
            if not self._block.shape[1]:
                silence = np.zeros((self._channels, until - self._samples), np.float32)
                self._block = next(blocks, silence)
            piece, self._block = np.split(self._block, [until - self._samples], axis=1)
            piece = np.ascontiguousarray(np.clip(piece, -1.0, 1.0))
            frame = av.AudioFrame.from_ndarray(*self._codec_layout(piece), self._audio.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = _SOUND_RATE, self._samples, Fraction(1, _SOUND_RATE)
            self._container.mux(self._audio.encode(frame))
            self._samples += piece.shape[1]

    def _codec_layout(self, piece: np.ndarray) -> tuple[np.ndarray, str]:
        """Samples [channels, t] in the memory layout of the codec (planar or interleaved), and its sample format."""
        if self._audio.codec_context.format.is_planar:
            return piece, "fltp"
        return np.ascontiguousarray(piece.T).reshape(1, -1), "flt"


def _open_video(path: str | os.PathLike) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Opens a video file; the caller closes the container."""
    container = open_media(path)
    if file_is_heif(path):  # ffmpeg takes it for a video of one tile
        container.close()
        raise UserError(f"{path} is a picture: give a video file")
    stream = video_stream(container)
    if stream is None:
        container.close()
        raise UserError(f"{path} has no picture: give a video file")
    return container, stream


def _seconds(ticks: int, time_base: Fraction | None) -> float:
    """A time stamp or duration in seconds."""
    assert time_base is not None  # ffmpeg sets it wherever there are time stamps
    return float(ticks * time_base)


def _measure_packets(
    container: av.container.InputContainer, stream: av.VideoStream, fps: float
) -> tuple[float, float, int]:
    """Duration in seconds, frame rate, and number of clocks of a file whose header does not hold them.

    Recordings of a browser have neither duration nor rate; files that were joined (`container.Clock`) last longer.

    Args:
      container, stream: the file, which is read to its end.
      fps: the frame rate to assume if the packets have no time stamps.
    """
    clock = Clock()
    packets = [packet.pts for packet in read_packets(container, stream, clock) if packet.size]
    stamps = [pts for pts in packets if pts is not None]
    if len(stamps) > 1 and max(stamps) > min(stamps):
        fps = (len(stamps) - 1) / _seconds(max(stamps) - min(stamps), stream.time_base)
    return len(packets) / fps, fps, len(clock.offsets)


def _frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    fps: float,
    start: float,
    duration: float,
    size: tuple[int, int] | None,
) -> Iterator[np.ndarray]:
    """See `read_frames`; closes the container."""
    with container:
        stream.thread_type = ThreadType.AUTO
        interval = 1.0 / float(stream.average_rate or stream.guessed_rate or fps)
        tolerance = min(_seconds(1, stream.time_base), _MAX_STAMP_ERROR)
        stated_end = math.inf  # a file cut without re-encoding can hold a stray picture after the end in its index
        if stream.frames and stream.duration:
            stated_end = _seconds((stream.start_time or 0) + stream.duration, stream.time_base)
        clock = Clock()
        shown: av.VideoFrame | None = None  # the latest picture
        origin: float | None = None  # time stamp of the first picture
        time, count = 0.0, 0  # time stamp of the latest picture; frames yielded

        def due(now: float, origin: float) -> bool:
            """Whether frame `count` falls before `now`, seconds after the first picture."""
            at = count / fps
            end = stated_end if len(clock.offsets) == 1 else math.inf  # stated for the first of several parts
            return at < duration - tolerance and start + at < min(now, end - origin) - tolerance

        for picture in deinterlaced(decode_video(container, stream, clock)):
            if origin is not None and picture.time is not None and picture.time - time > _LONGEST_STILL:
                continue
            time = time + interval if picture.time is None else picture.time
            origin = time if origin is None else origin
            while shown is not None and due(time - origin, origin):
                yield _to_rgb(shown, stream.sample_aspect_ratio, size)
                count += 1
            if count / fps >= duration - tolerance:
                return
            shown = picture
        if shown is not None and origin is not None:
            last = _seconds(shown.duration, shown.time_base) if shown.duration else interval
            while due(time - origin + last, origin):
                yield _to_rgb(shown, stream.sample_aspect_ratio, size)
                count += 1


def _to_rgb(frame: av.VideoFrame, pixel_aspect: Fraction | None, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture as displayed: uint8 RGB [H, W, 3] in BT.709, square pixels, upright; `size` as in `read_frames`."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    # x' = a x + c y, y' = b x + d y with y down (libavutil/display.h), 16.16 fixed point; quarter turns and mirrors.
    a, b, _, c, d = (
        np.frombuffer(bytes(matrix), np.int32)[:5].tolist() if isinstance(matrix, SideData) else (1, 0, 0, 0, 1)
    )
    turned = abs(b) > abs(a)
    width, height = frame.width, frame.height  # before the rotation
    if pixel_aspect and abs(round(width * pixel_aspect) - width) > 1:
        width = round(width * pixel_aspect)
    interpolation = _EXACT
    if size is not None and (target := size[::-1] if turned else size) != (width, height):
        (width, height), interpolation = target, _EXACT & ~Interpolation.BILINEAR | Interpolation.AREA
    colours = colours_of(frame)
    pixels = "rgb24" if colours is None else "gbrp16le"  # not rgb48: libswscale 9 decodes it wrongly with `_EXACT`
    rgb = frame.reformat(width=width, height=height, format=pixels, interpolation=interpolation).to_ndarray()
    if colours is not None:
        rgb = to_bt709(rgb, colours)
    if turned:
        rgb = rgb.swapaxes(0, 1)
        a, d = c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
