"""Opening a media file and decoding one of its streams; shared by `video.py` and `audio.py`."""

import os
import pathlib
from collections.abc import Iterator

import av

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import given_path

# ffmpeg's demuxers for text files and single pictures: it decodes them as videos, which is never what a user means.
_STILL_FORMATS = ("tty", "image2")
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


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first audio stream that ffmpeg has a decoder for, or None."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def decode_video(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yields the decoded pictures of a stream in presentation order.

    Broken packets are skipped, and a truncated file ends early, as in a player.
    """
    return (frame for frame in _decode(container, stream) if isinstance(frame, av.VideoFrame))


def decode_audio(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Yields the decoded blocks of samples of a stream; broken and truncated files as in `decode_video`."""
    return (frame for frame in _decode(container, stream) if isinstance(frame, av.AudioFrame))


def _decode(container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator[object]:
    """Yields what ffmpeg decodes of one stream, skipping broken packets."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except OSError:
            raise
        except (av.FFmpegError, IndexError):  # IndexError: a packet of a stream that the header does not list
            return
        if packet is None:
            return
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
