"""HEIF pictures (HEIC, AVIF), as phones take them: the primary one, put together from its tiles.

ffmpeg shows each tile as a video stream. How they are placed is in the file's boxes (ISO/IEC 23008-12).
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np

from adnerf_jax.media.colour import colours_of, to_bt709

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")
_MAX_PIXELS, _MAX_TILES = 200_000_000, 4096
Boxes = Sequence[tuple[bytes, bytes]]  # kinds and contents


class _Layout(NamedTuple):
    """Where the tiles of a picture are.

    Attributes:
      tiles: ids of the items, row by row.
      columns: tiles in a row.
      width, height: pixels, before it is turned; None: those of its only tile.
      turns: what to do with it then, in order: boxes `irot` and `imir`.
    """

    tiles: tuple[int, ...]
    columns: int
    width: int | None
    height: int | None
    turns: Boxes


def is_heif(data: bytes) -> bool:
    """Whether these first bytes of a file (12 or more) are those of a still picture of this kind."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def file_is_heif(path: str | os.PathLike) -> bool:
    """`is_heif` of a file."""
    with open(path, "rb") as file:
        return is_heif(file.read(12))


def decode_heif(url: str, data: bytes) -> np.ndarray:
    """The primary picture, upright, uint8 RGB [H, W, 3].

    Args:
      url: the file, for ffmpeg.
      data: its contents.

    Raises:
      ValueError: it is damaged, or of a kind that is not read.
    """
    try:
        layout = _layout(data)
        picture = _composed(_decoded(url, set(layout.tiles)), layout)
    except (av.FFmpegError, struct.error, IndexError, KeyError) as error:
        raise ValueError(f"not a HEIF picture that can be read: {error}") from None
    for kind, content in layout.turns:
        if kind == b"irot":
            picture = np.rot90(picture, content[0] & 3)  # anticlockwise
        else:
            picture = picture[::-1] if content[0] & 1 else picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _decoded(url: str, wanted: set[int]) -> dict[int, np.ndarray]:
    """The pictures of items by their ids."""
    found: dict[int, np.ndarray] = {}
    with av.open(url, "r") as container:
        streams = [stream for stream in container.streams.video if stream.id in wanted]
        if not streams:
            raise ValueError("the picture's tiles are missing")
        for packet in container.demux(streams):
            for frame in packet.decode():
                if not isinstance(frame, av.VideoFrame):
                    continue
                colours = colours_of(frame)
                rgb = frame.reformat(format="rgb24" if colours is None else "gbrp16le").to_ndarray()
                found[packet.stream.id] = rgb if colours is None else to_bt709(rgb, colours)
    return found


def _composed(pictures: dict[int, np.ndarray], layout: _Layout) -> np.ndarray:
    rows = [layout.tiles[k : k + layout.columns] for k in range(0, len(layout.tiles), layout.columns)]
    if len({pictures[tile].shape for tile in layout.tiles}) != 1:
        raise ValueError("the picture's tiles have different sizes")
    whole = np.concatenate([np.concatenate([pictures[tile] for tile in row], 1) for row in rows])
    if whole.shape[0] < (layout.height or 0) or whole.shape[1] < (layout.width or 0):
        raise ValueError("the picture is larger than its tiles")
    return whole[: layout.height, : layout.width]


def _layout(data: bytes) -> _Layout:
    meta = dict(_boxes(dict(_boxes(data))[b"meta"][4:]))
    wide = meta[b"pitm"][0] > 0
    (primary,) = struct.unpack_from(">I" if wide else ">H", meta[b"pitm"], 4)
    turns = [(kind, content) for kind, content in _properties(meta[b"iprp"], primary) if kind in (b"irot", b"imir")]
    if _kind(meta[b"iinf"], primary) != b"grid":
        return _Layout((primary,), 1, None, None, turns)
    grid = _content(meta, data, primary)
    rows, columns = grid[2] + 1, grid[3] + 1
    width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
    tiles = _references(meta[b"iref"], primary)
    if len(tiles) != rows * columns or len(tiles) > _MAX_TILES or not 0 < width * height <= _MAX_PIXELS:
        raise ValueError("the picture's grid of tiles is not one that can be read")
    return _Layout(tiles, columns, width, height, turns)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and contents of the boxes one after the other."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,), start = struct.unpack_from(">Q", data, start), at + 16
        end = at + size if size else len(data)
        if end < start:
            return
        yield kind, data[start:end]
        at = end


def _kind(iinf: bytes, item: int) -> bytes:
    """The type of an item, such as `hvc1` or `grid`."""
    for kind, box in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        form = ">IH4s" if box[0] == 3 else ">HH4s"
        if kind == b"infe" and box[0] >= 2 and struct.unpack_from(form, box, 4)[0] == item:
            return struct.unpack_from(form, box, 4)[2]
    raise KeyError("no entry for the primary picture")


def _references(iref: bytes, item: int) -> tuple[int, ...]:
    """Ids of the items that an item is derived from."""
    letter = "I" if iref[0] else "H"
    for kind, box in _boxes(iref[4:]):
        source, count = struct.unpack_from(f">{letter}H", box)
        if kind == b"dimg" and source == item:
            return struct.unpack_from(f">{count}{letter}", box, struct.calcsize(f">{letter}H"))
    return ()


def _properties(iprp: bytes, item: int) -> Boxes:
    """The properties of an item, in order."""
    parts = dict(_boxes(iprp))
    known, ipma = list(_boxes(parts[b"ipco"])), parts[b"ipma"]
    form, large = (">IB" if ipma[0] else ">HB"), ipma[3] & 1
    (entries,) = struct.unpack_from(">I", ipma, 4)
    at = 8
    for _ in range(entries):
        own, count = struct.unpack_from(form, ipma, at)
        at += struct.calcsize(form)
        indices = struct.unpack_from(f">{count}{'H' if large else 'B'}", ipma, at)
        at += count * (2 if large else 1)
        if own == item:
            masked = [index & (0x7FFF if large else 0x7F) for index in indices]
            return [known[index - 1] for index in masked if index]
    return []


def _content(meta: dict[bytes, bytes], data: bytes, item: int) -> bytes:
    """The bytes of an item, from the file or from the box `idat`; those in several extents are not read."""
    iloc = meta[b"iloc"]
    version, sizes = iloc[0], [iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4, iloc[5] & 15]
    at = 6

    def take(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(iloc[at - size : at], "big")

    for _ in range(take(4 if version == 2 else 2)):
        own = take(4 if version == 2 else 2)
        method = take(2) & 15 if version else 0
        take(2)  # the file that it is in: this one
        base = take(sizes[2])
        for _ in range(take(2)):
            take(sizes[3] if version else 0)
            offset, length = take(sizes[0]), take(sizes[1])
            if own == item:
                source = meta[b"idat"] if method == 1 else data
                return source[base + offset : base + offset + length]
    raise KeyError("the primary picture is nowhere")
