"""Interlaced pictures made whole: each holds two fields, of alternate lines, that were filmed one after the other."""

from collections.abc import Iterable, Iterator

import av
import av.filter

_FIELD_ORDERS = (2, 3, 4, 5)  # ffmpeg's codes of interlaced streams (AVFieldOrder)
_LEAST_SIDE = 4  # pixels that the filter needs


def is_interlaced(stream: av.VideoStream, picture: av.VideoFrame) -> bool:
    """Whether a stream is interlaced by its header, or by the flag of its first picture."""
    return picture.interlaced_frame or getattr(stream.codec_context, "field_order", 0) in _FIELD_ORDERS


def deinterlaced(pictures: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The same number of pictures with the same time stamps; those that are flagged as interlaced become whole.

    The first field of such a picture is kept, and the lines between are filled from it, and from the neighbouring
    pictures where nothing moves (ffmpeg's `bwdif`). Other pictures pass through unchanged.
    """
    graph: av.filter.Graph | None = None
    kind: tuple[int, int, str] | None = None
    for picture in pictures:
        own = picture.width, picture.height, picture.format.name
        if graph is not None and own != kind:
            yield from _pushed(graph, None)
            graph = None
        if graph is None and picture.interlaced_frame and min(own[:2]) >= _LEAST_SIDE:
            graph, kind = _graph(picture), own
        if graph is None:
            yield picture
        else:
            yield from _pushed(graph, picture)
    if graph is not None:
        yield from _pushed(graph, None)


def _graph(picture: av.VideoFrame) -> av.filter.Graph:
    """A filter for pictures like this one."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _pushed(graph: av.filter.Graph, picture: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """What comes out of the filter for one more picture; None is the end."""
    graph.vpush(picture)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
