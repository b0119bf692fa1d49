"""Opening a media file and decoding one of its tracks: what `video.py` and `audio.py` share."""

import os
import pathlib
from collections.abc import Iterator

import av

from adnerf_jax.common.errors import UserError

# What ffmpeg makes of a text file or of a single picture: it shows them as a video, which no user means.
_STILL_FORMATS = ("tty", "image2")
# Titles come in any encoding, which PyAV has to be told before its version 19.
_ANY_TITLE = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_media(path: str | os.PathLike) -> av.container.InputContainer:
    """Opens a sound or video file for reading; the caller closes it.

    Raises:
      UserError: there is no such file, or ffmpeg does not know it as sound or video.
      OSError: the machine failed to read it.
    """
    if not os.path.exists(path):
        raise UserError(f"no such file: {path}")
    if os.path.isdir(path):
        raise UserError(f"{path} is a directory: give a sound or video file")
    unknown = UserError(f"{path} is not a sound or video file that ffmpeg can read")
    try:
        container = av.open(local_url(path), **_ANY_TITLE)
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
    """The path as ffmpeg's address of a local file, so that a colon in a name is not read as a protocol."""
    return f"file:{pathlib.Path(path)}"


def video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The first moving picture, or None; cover art inside a sound file does not count."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def audio_stream(container: av.container.InputContainer) -> av.audio.stream.AudioStream | None:
    """The first sound track that ffmpeg has a decoder for, or None."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def decoded(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[av.frame.Frame]:
    """Yields the decoded frames of `stream` in presentation order.

    Broken packets are dropped, and a file that is cut off just ends sooner, as in a player.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except OSError:
            raise
        except (av.FFmpegError, IndexError):  # IndexError: a track that the file's beginning does not have
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
      UserError: as `open_media`; or there is a video track and nothing in it can be decoded.
    """
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            return None
        frame = next(decoded(container, stream), None)
        if frame is None:
            raise UserError(f"{path} has a video track, but no picture in it can be decoded")
        return frame
