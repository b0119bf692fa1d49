"""Folders whose names are no text: what is written in them, and about them, is whole."""

import os
import pathlib
import zlib
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from adnerf_jax.common.text import encodable
from adnerf_jax.evaluation.reporting import page
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.media.video import VideoWriter, read_frames

NAMES = {
    b"caf\xe9": r"caf\xe9",
    b"a\x01\x1b[31m": r"a\x01\x1b[31m",
    b"two\nlines": r"two\x0alines",
    "né".encode(): "né",
}
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture(params=NAMES, ids=ascii)
def folder(request, tmp_path) -> pathlib.Path:
    path = tmp_path / os.fsdecode(request.param)
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system holds names in UTF-8 only")
    return path


def shown(folder: pathlib.Path) -> str:
    return NAMES[os.fsencode(folder.name)]


def itxt(png: bytes) -> dict[str, str]:
    """The text chunks of a PNG, whose checksums hold."""
    found, at = {}, 8
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + body) == int.from_bytes(png[at + 8 + size : at + 12 + size], "big")
        if kind == b"iTXt":
            keyword, _, _, _, _, text = body.split(b"\0", 5)
            found[keyword.decode()] = text.decode()
        at += 12 + size
    return found


def test_a_png_in_any_folder_says_where_it_is_from(folder):
    write_image(folder / "a.png", PICTURE, provenance=Provenance.of("fast", folder, 3))
    np.testing.assert_array_equal(read_image(folder / "a.png"), PICTURE)
    texts = itxt((folder / "a.png").read_bytes())
    assert shown(folder) in texts["Comment"]
    ElementTree.fromstring(texts["XML:com.adobe.xmp"])  # well-formed


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov"])
def test_a_video_in_any_folder_says_where_it_is_from(folder, suffix):
    path = folder / f"a{suffix}"
    with VideoWriter(path, 16, 16, tags=Provenance.of("fast", folder, 3).tags()) as out:
        out.write(PICTURE)
    assert len(list(read_frames(path))) == 1
    with av.open(str(path)) as container:
        tags = {name.lower(): text for name, text in container.metadata.items()}
    assert shown(folder) in tags["comment"]


def test_a_page_about_any_folder_is_text(folder):
    text = page.page(f"{folder}: fast", page.note(str(folder)), page.table([""], [[folder.name]])).encode().decode()
    assert not set(text) & {"\x01", "\x1b"}
    assert text.count(encodable(str(folder), keep="\n")) >= 3


def test_ordinary_text_stays():
    text = "Zoë’s take 1 — 50 % 日本 👩‍💻\u00a0x"
    assert encodable(text) == text
    assert encodable("a\tb\n\ud83d", keep="\t\n") == "a\tb\n\\ud83d"
