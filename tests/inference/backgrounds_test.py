"""Backgrounds of every kind, brought to the size of the frames."""

import itertools
import os
import pathlib
import types

import cv2
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.inference import backgrounds
from adnerf_jax.inference.backgrounds import background_source, cover
from adnerf_jax.media.image import write_image
from adnerf_jax.media.video import VideoWriter, probe
from adnerf_jax.rendering.framing import framing

ORIGINAL = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
PERSON = types.SimpleNamespace(background=ORIGINAL)


def first(given, count: int = 1, framed=None):
    return list(itertools.islice(background_source(given, PERSON, framed)(), count))


def test_words_and_colours():
    assert first("original")[0] is ORIGINAL
    assert background_source("none", PERSON, None) is None
    assert (first("#1e90ff")[0] == [0x1E, 0x90, 0xFF]).all() and (first("Magenta")[0] == [255, 0, 255]).all()
    blurred = first("blur")[0]
    assert blurred.std() < 0.7 * ORIGINAL.std() and abs(blurred.mean() - ORIGINAL.mean()) < 3


def test_pictures_of_any_size_cover_the_frame(tmp_path, capsys):
    halves = np.zeros((50, 200, 3), np.uint8)
    halves[:, 100:] = 200
    write_image(tmp_path / "wide.png", halves)
    picture = first(str(tmp_path / "wide.png"))[0]
    assert picture.shape == (32, 32, 3) and (picture[:, :14] == 0).all() and (picture[:, 18:] == 200).all()
    assert "wide.png is 200x50: it is scaled and cropped to 32x32" in capsys.readouterr().err
    write_image(tmp_path / "same.png", ORIGINAL)
    np.testing.assert_array_equal(first(tmp_path / "same.png")[0], ORIGINAL)
    assert capsys.readouterr().err == ""
    assert cover(halves, 10, 90).shape == (90, 10, 3)


def test_where_a_picture_is_transparent_the_original_shows(tmp_path, capsys):
    rgba = np.full((32, 32, 4), 255, np.uint8)
    rgba[:16, :, 3] = 0
    write_image(tmp_path / "half.png", rgba)
    picture = first(tmp_path / "half.png")[0]
    np.testing.assert_array_equal(picture[:16], ORIGINAL[:16])
    assert (picture[16:] == 255).all()
    assert "half.png is transparent in places" in capsys.readouterr().err


def test_grey_and_sixteen_bits(tmp_path):
    grey = np.full((32, 32), 90, np.uint8)
    write_image(tmp_path / "grey.png", grey)
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((32, 32, 3), 90 * 257, np.uint16))
    for name in ("grey.png", "deep.png"):
        assert (np.abs(first(tmp_path / name)[0].astype(int) - 90) <= 1).all()


def test_a_video_loops(tmp_path):
    levels = [30, 120, 210]
    with VideoWriter(tmp_path / "v.mp4", 64, 48) as writer:
        for level in levels:
            writer.write(np.full((48, 64, 3), level, np.uint8))
    frames = first(tmp_path / "v.mp4", 8)
    assert all(frame.shape == (32, 32, 3) for frame in frames)
    means = [frame.mean() for frame in frames]
    np.testing.assert_allclose(means, (levels * 3)[:8], atol=4)  # a lossy codec


def test_a_video_without_a_picture_is_refused(tmp_path, monkeypatch):
    with VideoWriter(tmp_path / "v.mp4", 64, 48) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setattr(backgrounds, "read_frames", lambda *args, **options: iter(()))
    with pytest.raises(UserError, match="v.mp4 shows no picture"):
        first(tmp_path / "v.mp4")


def test_in_another_framing():
    framed = framing(tiny.camera(), np.array([0, 0, -tiny.DEPTH]), "zoom=2", size="40x20")
    assert first("original", framed=framed)[0].shape == (20, 40, 3)
    assert first("white", framed=framed)[0].shape == (20, 40, 3)
    assert first(ORIGINAL, framed=framed)[0].shape == (20, 40, 3)


def test_invalid_backgrounds(tmp_path):
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "b.mp4").write_text("no video" * 100)
    for given, message in (
        ("beach", "there is no background 'beach': give original, blur, none"),
        ("#12345g", "there is no background"),
        (tmp_path / "b.png", "b.png: it is missing or damaged"),
        (tmp_path / "b.mp4", "b.mp4 is not a sound or video file"),
        (ORIGINAL.astype(float), r"background: expected an array uint8 \[H, W, 3\], not float64"),
        ((0, 255, 0), r"background: expected a word, a colour, a file or an array, not \(0, 255, 0\)"),
    ):
        with pytest.raises(UserError, match=message):
            background_source(given, PERSON, None)


def test_a_phones_tiles_are_put_together(capsys):
    data = os.environ.get("ADNERF_TEST_DATA")
    if not data or not pathlib.Path(data, "cases").is_dir():
        pytest.skip("ADNERF_TEST_DATA does not point to the cases")
    path = pathlib.Path(data, "cases/iphone_tiled.heic")
    picture = first(path)[0]
    assert "iphone_tiled.heic is 4032x3024" in capsys.readouterr().err
    assert picture.shape == (32, 32, 3)
    assert picture[:10].min() > 100 > picture[14:20, 12:22].min()  # a wall above a dark face, which is in another tile
    with pytest.raises(UserError, match="is a picture: give a video file"):
        probe(path)


def test_a_damaged_heif_asks_for_jpeg(tmp_path):
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x10meta" + bytes(8))
    with pytest.raises(UserError, match=r"cannot read the image .*x.heic.*convert it to JPEG"):
        first(tmp_path / "x.heic")
