"""Pictures: decoded at a constant rate, and encoded with sound as a video that plays anywhere."""

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
from av.video.reformatter import Interpolation

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import atomic_path
from adnerf_jax.media.audio import has_sound, read_blocks, resampled_blocks, samples_as_blocks
from adnerf_jax.media.container import decoded, first_picture, local_url, open_media, video_stream
from adnerf_jax.media.formats import LIVE_MP4, bled, video_format

# A picture counts as shown at k/fps if its time stamp is at most this much later (seconds): containers round stamps
# to their tick (1 ms in Matroska). Never more than one tick.
_MAX_STAMP_ERROR = 0.002

_LONGEST_STILL = 60.0  # seconds: a picture that comes later than so after the one before has a damaged time stamp

_SOUND_RATE = 48000
_SOUND_BITS_PER_CHANNEL = 128_000  # bits per second; transparent for speech with ffmpeg's own AAC encoder

# H.264 code points (ITU-T H.273): BT.709 primaries, transfer and matrix, limited range. Untagged files are shown with
# the wrong reds and greens by players that guess from the size.
_BT709, _LIMITED_RANGE = 1, 1

# libswscale's quicker default loses one to two levels of 255 between YUV and RGB, always downwards.
_EXACT = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself, as it is shown (turned and with square pixels).

    Attributes:
      path: the file.
      width, height: pixels.
      fps: mean pictures per second; the spacing may vary.
      duration: seconds of picture.
      frames: number of pictures in the file, None where the container does not tell.
      has_audio: there is a sound track.
    """

    path: pathlib.Path
    width: int
    height: int
    fps: float
    duration: float
    frames: int | None
    has_audio: bool


def probe(path: str | os.PathLike) -> VideoInfo:
    """Looks at a video file without decoding more than its first picture.

    Raises:
      UserError: no such file, not a video that ffmpeg can read, or a file with sound only.
    """
    with _open_video(path) as container:
        stream = video_stream(container)
        fps = stream.average_rate or stream.guessed_rate or stream.base_rate
        fps = float(fps) if fps else 25.0
        frames = stream.frames or None
        if stream.duration is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        else:
            seconds, fps = _counted(container, stream, fps)
        shape = _to_rgb(first_picture(path), stream.sample_aspect_ratio).shape
    return VideoInfo(pathlib.Path(path), shape[1], shape[0], fps, seconds, frames, has_sound(path))


def read_frames(
    path: str | os.PathLike,
    fps: float = 25.0,
    start: float = 0.0,
    duration: float | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[np.ndarray]:
    """Decodes a video at a constant rate, in constant memory.

    Frame k is the picture on screen at `start + k / fps` seconds after the first picture: pictures that come too
    fast are left out, slow ones are repeated, the last one stays for its own duration. Pictures before `start` are
    decoded and passed over, which is exact in every container.

    Args:
      path: a video file; rotation, mirroring and non-square pixels are undone.
      fps: frames per second of the result.
      start: seconds.
      duration: at most so many seconds.
      size: width and height that every picture is brought to, by the mean over areas; by default their own. Of a large
        picture this takes a sixth of the time that shrinking it afterwards takes.

    Yields:
      uint8 RGB [H, W, 3], a new array each.

    Raises:
      UserError: as `probe`, at the call rather than at the first frame.
    """
    return _frames(_open_video(path), fps, start, math.inf if duration is None else duration, size)


class VideoWriter:
    """Writes pictures (BT.709) and sound (48 kHz) into a video file, in constant memory.

    The name's ending says how: `.mp4` H.264 and AAC, `.webm` VP9 and Opus, `.mov` ProRes 4444 and AAC. The sound is cut
    to the length of the pictures, or followed by silence where it is shorter, so that both tracks begin and end
    together. Use as a context manager: the file appears at the end, whole, and not at all if there was an exception. A
    side with an odd number of pixels, which yuv420p cannot hold, gets its last row or column twice.

    Args:
      path: the file to write; a binary file that is open for writing gets a live stream instead (`formats.LIVE_MP4`).
      width, height: of the frames, pixels.
      fps: frames per second.
      sound: None, a sound or video file, or (float32 [T] mono samples or an iterator of pieces of them, samples per
        second).
      sound_start: the second of `sound` that belongs to the first frame.
      duration: use at most so many seconds of `sound`.
      alpha: frames are RGBA with straight colours.
      tags: of the container.

    Raises:
      UserError: `sound` cannot be read, or a format that is unknown or has no opacity.
      OSError: the file cannot be written, the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike | BinaryIO,
        width: int,
        height: int,
        fps: float = 25.0,
        sound: str | os.PathLike | tuple[np.ndarray | Iterator[np.ndarray], int] | None = None,
        sound_start: float = 0.0,
        duration: float | None = None,
        alpha: bool = False,
        tags: Mapping[str, str] | None = None,
    ):
        self._live = None if isinstance(path, (str, os.PathLike)) else path
        self.path = pathlib.Path(path) if self._live is None else pathlib.Path("-")
        self._format = LIVE_MP4 if self._live is not None else video_format(self.path, alpha)
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
            self._blocks = read_blocks(sound, _SOUND_RATE, self._channels, sound_start, duration)
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
            self._video = self._container.add_stream(
                form.codec,
                rate=self._rate,
                width=self.width + self.width % 2,
                height=self.height + self.height % 2,
                pix_fmt=self._pixels,
                options=dict(form.options),
            )
            if self._alpha:
                self._video.metadata["alpha_mode"] = "1"  # WebM's way to say that opacity comes beside the colours
            context = self._video.codec_context
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _LIMITED_RANGE
            if self._blocks is not None:
                self._audio = self._container.add_stream(
                    form.sound,
                    rate=_SOUND_RATE,
                    layout="mono" if self._channels == 1 else "stereo",
                    bit_rate=_SOUND_BITS_PER_CHANNEL * self._channels,
                )
                self._block = np.zeros((self._channels, 0), np.float32)
            self._exit = stack.pop_all()
        return self

    def write(self, picture: np.ndarray) -> None:
        """Appends one frame, uint8 RGB [height, width, 3], or RGBA [height, width, 4] where there is opacity."""
        shape = self.height, self.width, 4 if self._alpha else 3
        if picture.shape != shape or picture.dtype != np.uint8:
            raise ValueError(f"a frame is uint8 {shape}, not {picture.dtype} {picture.shape}")
        even = np.pad(picture, ((0, self.height % 2), (0, self.width % 2), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(bled(even) if self._alpha else even, "rgba" if self._alpha else "rgb24")
        frame = frame.reformat(
            format=self._pixels, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation=_EXACT
        )
        frame.pts, frame.time_base = self.frames, 1 / self._rate
        self._container.mux(self._video.encode(frame))
        self.frames += 1
        if self._blocks is not None:
            self._write_sound(round(self.frames / self._rate * _SOUND_RATE))

    def __exit__(self, kind, error, trace) -> None:
        if error is not None:
            self._exit.__exit__(kind, error, trace)
            return
        with self._exit:  # closes the container, then renames the file or, if closing fails, removes it
            if not self.frames:
                raise ValueError(f"no frames were written to {self.path}")
            self._container.mux(self._video.encode(None))
            if self._blocks is not None:
                self._container.mux(self._audio.encode(None))

    def _write_sound(self, until: int) -> None:
        """Encodes the sound up to sample `until`, with silence after its end."""
        while self._samples < until:
            if not self._block.shape[1]:
                missing = np.zeros((self._channels, until - self._samples), np.float32)
                self._block = next(self._blocks, missing)
            piece, self._block = np.split(self._block, [until - self._samples], axis=1)
            piece = np.ascontiguousarray(np.clip(piece, -1.0, 1.0))
            frame = av.AudioFrame.from_ndarray(*self._as_codec_wants(piece), self._audio.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = _SOUND_RATE, self._samples, Fraction(1, _SOUND_RATE)
            self._container.mux(self._audio.encode(frame))
            self._samples += piece.shape[1]

    def _as_codec_wants(self, piece: np.ndarray) -> tuple[np.ndarray, str]:
        """Samples [channels, t] in the codec's arrangement, and ffmpeg's name of it."""
        if self._audio.codec_context.format.is_planar:
            return piece, "fltp"
        return np.ascontiguousarray(piece.T).reshape(1, -1), "flt"


def _open_video(path: str | os.PathLike) -> av.container.InputContainer:
    container = open_media(path)
    if video_stream(container) is None:
        container.close()
        raise UserError(f"{path} has no picture: give a video file")
    return container


def _counted(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, fps: float
) -> tuple[float, float]:
    """Seconds and rate of a file that tells neither: recorded by a browser, or without a container.

    Args:
      fps: where the pictures have no time stamps.
    """
    packets = [packet.pts for packet in container.demux(stream) if packet.size]
    stamps = [pts for pts in packets if pts is not None]
    if len(stamps) > 1 and max(stamps) > min(stamps):
        fps = (len(stamps) - 1) / float((max(stamps) - min(stamps)) * stream.time_base)
    return len(packets) / fps, fps


def _frames(
    container: av.container.InputContainer,
    fps: float,
    start: float,
    duration: float,
    size: tuple[int, int] | None,
) -> Iterator[np.ndarray]:
    """See `read_frames`; closes the container."""
    with container:
        stream = video_stream(container)
        stream.thread_type = "AUTO"
        interval = 1.0 / float(stream.average_rate or stream.guessed_rate or fps)
        tolerance = min(float(stream.time_base), _MAX_STAMP_ERROR)
        stated_end = math.inf  # a file cut without re-encoding can hold a stray picture after the end in its index
        if stream.frames and stream.duration:
            stated_end = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        shown, origin, time, count = None, None, 0.0, 0

        def due(now: float) -> bool:
            """Whether frame `count` falls before `now`, seconds after the first picture."""
            at = count / fps
            return at < duration - tolerance and start + at < min(now, stated_end - origin) - tolerance

        for picture in decoded(container, stream):
            if origin is not None and picture.time is not None and picture.time - time > _LONGEST_STILL:
                continue
            time = time + interval if picture.time is None else picture.time
            origin = time if origin is None else origin
            while shown is not None and due(time - origin):
                yield _to_rgb(shown, stream.sample_aspect_ratio, size)
                count += 1
            if count / fps >= duration - tolerance:
                return
            shown = picture
        if shown is not None:
            last = float(shown.duration * shown.time_base) if shown.duration else interval
            while due(time - origin + last):
                yield _to_rgb(shown, stream.sample_aspect_ratio, size)
                count += 1


def _to_rgb(frame: av.VideoFrame, pixel_aspect: Fraction | None, size: tuple[int, int] | None = None) -> np.ndarray:
    """The picture as it is to be seen: uint8 RGB [H, W, 3], square pixels, turned upright; `size` as `read_frames`."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    # x' = a x + c y, y' = b x + d y with y down (libavutil/display.h), 16.16 fixed point; quarter turns and mirrors.
    a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    turned = abs(b) > abs(a)
    width, height = frame.width, frame.height
    if pixel_aspect and abs(round(width * pixel_aspect) - width) > 1:
        width = round(width * pixel_aspect)
    how = _EXACT
    if size is not None and (wanted := size[::-1] if turned else size) != (width, height):
        (width, height), how = wanted, _EXACT & ~Interpolation.BILINEAR | Interpolation.AREA
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation=how).to_ndarray()
    if turned:
        rgb = rgb.swapaxes(0, 1)
        a, d = c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
