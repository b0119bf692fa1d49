"""Opening a media file and decoding one of its streams; shared by `video.py` and `audio.py`.

Files that were joined, and streams whose sender was restarted, begin their time stamps anew in the middle. What follows
goes on from the last stamp: a player would show it, too. `Clock` keeps picture and sound together there.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator

import av

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import given_path

# ffmpeg's demuxers for text files and single pictures: it decodes them as videos, which is never what a user means.
_STILL_FORMATS = ("tty", "image2")
# Seconds. Decoding times ascend, so a stamp that is this much lower than the one before it is of another clock; less is
# jitter. A single stamp that is off by this much, up or down, is damaged, and no restart.
_RESTART = 0.5
_LONGEST_GAP = 60.0  # seconds: a larger step forwards is damage, too, or a pause
_TAIL = 0.1  # seconds by which streams of one part may end apart without waiting for each other
# Metadata can be in any encoding: PyAV before version 19 has to be configured to replace bytes that it cannot decode.
_MUST_REPLACE = int(av.__version__.split(".")[0]) < 19


def open_media(path: str | os.PathLike) -> av.container.InputContainer:
    """Opens a sound or video file for reading; the caller closes it.

    Raises:
      UserError: there is no such file, it is a URL, or ffmpeg does not recognise it as sound or video.
      OSError: reading failed.
    """
    path = given_path(path)
    if not os.path.exists(path):
        raise UserError(f"no such file: {path}")
    if os.path.isdir(path):
        raise UserError(f"{path} is a directory: give a sound or video file")
    unknown = UserError(f"{path} is not a sound or video file that ffmpeg can read")
    try:
        url = local_url(path)
        container = av.open(url, "r", metadata_errors="replace") if _MUST_REPLACE else av.open(url, "r")
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None
    except OSError:
        raise
    except av.FFmpegError:
        raise unknown from None
    name = container.format.name
    if name in _STILL_FORMATS or name.endswith("_pipe") or not (container.streams.video or container.streams.audio):
        container.close()
        raise unknown
    return container


def local_url(path: str | os.PathLike) -> str:
    """The path as a `file:` URL of ffmpeg, so that a colon in a name is not read as a protocol."""
    return f"file:{pathlib.Path(path)}"


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream, or None; cover art inside a sound file does not count."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def audio_streams(container: av.container.InputContainer) -> list[av.AudioStream]:
    """The audio streams that ffmpeg has a decoder for."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


class Clock:
    """Time stamps of a container's streams that go on where they fall back.

    The streams of a part share one offset, whichever of them is read: the first that falls back decides it.

    Attributes:
      offsets: seconds that are added to the stamps of the first, second, … part.
    """

    def __init__(self) -> None:
        self.offsets = [0.0]
        self._streams: dict[int, _StreamClock] = {}

    def offset(self, stream: int, stamp: float, duration: float) -> float:
        """Seconds to add to the next packet of a stream; `stamp` is when it is decoded, `duration` may be 0."""
        own = self._streams.setdefault(stream, _StreamClock())
        if own.last is not None and own.before is not None and stamp < own.last - _RESTART:
            if 0 <= stamp - own.before < _RESTART:  # the last stamp alone was damaged
                own.last = own.before
            else:
                own.fell_from, own.part = own.last, own.part + 1
                if own.part == len(self.offsets):
                    latest = max(other.end for other in self._streams.values() if other.part >= own.part - 1)
                    self.offsets.append(max(own.end, latest - _TAIL) - stamp)
                own.last = None
        elif own.fell_from is not None:
            if 0 <= stamp - own.fell_from < _RESTART and own.part == len(self.offsets) - 1:  # as above
                self.offsets.pop()
                own.part, own.last = own.part - 1, own.fell_from
            own.fell_from = None
        if own.last is None or stamp - own.last < _LONGEST_GAP:
            step = duration or (stamp - own.last if own.last is not None else 0.0)
            own.before, own.last = own.last if own.last is not None else stamp, stamp
            own.end = stamp + self.offsets[own.part] + step
        return self.offsets[own.part]


@dataclasses.dataclass
class _StreamClock:
    """Where a stream is.

    Attributes:
      part: which part of the file.
      last, before: the last two credible stamps, in seconds of the part.
      fell_from: the stamp before the last packet, if that one fell back.
      end: when its last packet ends, in seconds of the whole.
    """

    part: int = 0
    last: float | None = None
    before: float | None = None
    fell_from: float | None = None
    end: float = -math.inf


def read_packets(
    container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream, clock: Clock | None = None
) -> Iterator[av.Packet]:
    """Yields the packets of one stream, with time stamps that go on where those of the file fall back.

    Args:
      container: the file; all its streams are watched.
      stream: the one whose packets are wanted.
      clock: filled while reading.
    """
    clock = clock or Clock()
    packets = container.demux(*container.streams.video, *container.streams.audio)
    while True:
        try:
            packet = next(packets, None)
        except OSError:
            raise
        except (av.FFmpegError, IndexError):  # IndexError: a packet of a stream that the header does not list
            return
        if packet is None:
            return
        # Pictures are stored in another order than they are shown, so that only decoding times ascend.
        stamp = packet.pts if packet.dts is None and packet.stream.type == "audio" else packet.dts
        base = packet.time_base
        if stamp is not None and base:
            offset = clock.offset(packet.stream.index, float(stamp * base), float((packet.duration or 0) * base))
            ticks = round(offset / base)
            if ticks:
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
        if packet.stream.index == stream.index:
            yield packet


def decode_video(
    container: av.container.InputContainer, stream: av.VideoStream, clock: Clock | None = None
) -> Iterator[av.VideoFrame]:
    """Yields the decoded pictures of a stream in presentation order, with time stamps as in `read_packets`.

    Broken packets are skipped, and a truncated file ends early, as in a player.
    """
    return (frame for frame in _decode(container, stream, clock) if isinstance(frame, av.VideoFrame))


def decode_audio(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Yields the decoded blocks of samples of a stream; broken and truncated files as in `decode_video`."""
    return (frame for frame in _decode(container, stream) if isinstance(frame, av.AudioFrame))


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream, clock: Clock | None = None
) -> Iterator[object]:
    """Yields what ffmpeg decodes of one stream, skipping broken packets."""
    for packet in read_packets(container, stream, clock):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def first_picture(path: str | os.PathLike) -> av.VideoFrame | None:
    """The first picture of a video file, or None for a file that has only sound.

    Raises:
      UserError: as `open_media`; or no picture of the video stream can be decoded.
    """
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            return None
        frame = next(decode_video(container, stream), None)
        if frame is None:
            raise UserError(f"{path} has a video track, but no picture in it can be decoded")
        return frame
