"""HDR, wide gamut, ranges and interlacing: what reading makes of them, compared with the picture that was coded."""

import itertools
import os
import pathlib
import types

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from adnerf_jax.common.errors import UserError
from adnerf_jax.inference.backgrounds import background_source
from adnerf_jax.media.colour import beyond_bt709, to_bt709
from adnerf_jax.media.video import VideoWriter, probe, read_frames
from adnerf_jax.preprocessing.pipeline import prepare

HLG, PQ, BT2020, UNSPECIFIED = 18, 16, 9, 2  # code points of H.273
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593])
# The patches: greys up to diffuse white, skin, foliage, sky, of a signal below the knee but for the last two.
COLOURS = np.array(
    [(20, 20, 20), (60, 60, 60), (128, 128, 128), (200, 200, 200), (190, 140, 110), (90, 120, 50), (70, 110, 190)]
)


def patches(colours: np.ndarray = COLOURS, side: int = 16) -> np.ndarray:
    """Colours side by side, [side, side * N, 3]."""
    return np.repeat(np.repeat(colours[None], side, 0), side, 1)


def coded(sdr: np.ndarray, transfer: int, primaries: int = BT2020) -> np.ndarray:
    """The HDR signal in [0, 1] of light that an SDR display shows, white being 203 cd/m² (BT.2100, BT.2408)."""
    light = (sdr / 255.0) ** 2.4
    if primaries == BT2020:
        light = light @ TO_BT2020.T
    if transfer == PQ:
        y = (light * 203 / 10000) ** (2610 / 16384)
        return ((107 / 128 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)
    if transfer == HLG:
        nits = light * 203
        luminance = nits @ LUMINANCE_2020
        scene = nits / 1000 * (luminance[..., None] / 1000) ** (1 / 1.2 - 1)
        above = 12 * np.maximum(scene, 1 / 12)
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(above - 0.28466892) + 0.55991073)
    return light ** (1 / 2.4)


def write_coded(path, signal: np.ndarray, transfer: int, primaries: int, matrix: int = BT2020, full: bool = False):
    """A lossless file of 10-bit 4:4:4 with the given tags; `signal` is RGB in [0, 1], [H, W, 3]."""
    kr, kb = (0.2627, 0.0593) if matrix == BT2020 else (0.2126, 0.0722)
    luma = signal @ np.array([kr, 1 - kr - kb, kb])
    blue, red = (signal[..., 2] - luma) / (2 - 2 * kb), (signal[..., 0] - luma) / (2 - 2 * kr)
    gain, lift, chroma = (1023, 0, 1023) if full else (876, 64, 896)
    planes = [luma * gain + lift, blue * chroma + 512, red * chroma + 512]
    height, width = luma.shape
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25, width=width, height=height, pix_fmt="yuv444p10le")
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, primaries, matrix
        context.color_range = 2 if full else 1
        frame = av.VideoFrame(width, height, "yuv444p10le")
        for plane, values in zip(frame.planes, planes, strict=True):
            lines = np.zeros((height, plane.line_size // 2), "<u2")
            lines[:, :width] = np.clip(np.round(values), 0, 1023)
            plane.update(lines.tobytes())
        frame.color_trc, frame.color_primaries, frame.colorspace = transfer, primaries, matrix
        frame.color_range, frame.pts = 2 if full else 1, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("transfer", "primaries", "says"),
    [
        (HLG, BT2020, "is HDR (HLG, BT.2020): its colours are tone-mapped to BT.709"),
        (PQ, BT2020, "is HDR (PQ, BT.2020): its colours are tone-mapped to BT.709"),
        (HLG, UNSPECIFIED, "is HDR (HLG, BT.2020): its colours are tone-mapped to BT.709"),
        (14, BT2020, "has wide-gamut colours (BT.2020): its colours are converted to BT.709"),
    ],
)
def test_colours_of_hdr_are_those_that_sdr_shows(tmp_path, transfer, primaries, says):
    path, sdr = tmp_path / "phone.mkv", patches()
    write_coded(path, coded(sdr, transfer), transfer, primaries)
    (frame,) = read_frames(path)
    assert np.abs(frame.astype(int) - sdr).max() <= 3  # 10 bits in the dark
    (small,) = read_frames(path, size=(sdr.shape[1] // 2, sdr.shape[0] // 2))
    assert np.abs(small[4, 4::8].astype(int) - COLOURS).max() <= 3
    assert probe(path).conversions == [says]


def test_highlights_keep_their_order_below_white():
    nits = np.array([203.0, 300.0, 500.0, 1000.0])
    signal = coded(255 * (nits[None, :, None].repeat(3, 2) / 203) ** (1 / 2.4), PQ, 1)
    shown = to_bt709(np.round(signal * 65535).astype(np.uint16), beyond_bt709(PQ, BT2020))[0, :, 0]
    assert 225 <= shown[0] < 245 and shown[-1] == 255 and (np.diff(shown.astype(int)) >= 3).all()


def test_a_file_in_bt709_is_decoded_as_before(tmp_path):
    path, rng = tmp_path / "clip.mp4", np.random.default_rng(0)
    with VideoWriter(path, 64, 48) as out:
        for _ in range(3):
            out.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    exact = (
        Interpolation.BILINEAR
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
    )
    with av.open(str(path)) as container:
        before = [f.reformat(format="rgb24", interpolation=exact).to_ndarray() for f in container.decode(video=0)]
    np.testing.assert_array_equal(list(read_frames(path)), before)
    assert probe(path).conversions == [] and beyond_bt709(UNSPECIFIED, UNSPECIFIED) is None


@pytest.mark.parametrize("transfer", [1, HLG])
def test_full_and_limited_range_show_the_same(tmp_path, transfer):
    primaries = matrix = BT2020 if transfer == HLG else 1
    signal = coded(patches(), transfer, primaries)
    for full in (False, True):
        write_coded(tmp_path / f"{full}.mkv", signal, transfer, primaries, matrix, full)
        assert probe(tmp_path / f"{full}.mkv").full_range is full
        (frame,) = read_frames(tmp_path / f"{full}.mkv")
        assert np.abs(frame.astype(int) - patches()).max() <= 3


def test_colours_that_are_not_read_are_refused_in_one_line(tmp_path):
    write_coded(tmp_path / "ictcp.mkv", coded(patches(), PQ), PQ, BT2020, matrix=14)
    for read in (probe, lambda path: list(read_frames(path))):
        with pytest.raises(UserError, match="matrix 14 of ITU-T H.273.*convert it to BT.709"):
            read(tmp_path / "ictcp.mkv")


def moving_bar(at: float, height: int = 96, width: int = 128) -> np.ndarray:
    """A bright bar whose left edge is at column `at`, grey [H, W]."""
    picture = np.full((height, width), 60, np.uint8)
    picture[:, round(at) : round(at) + 24] = 200
    return picture


def write_fields(path, interlaced: bool, count: int = 12) -> None:
    """A bar that moves by 8 columns from field to field; progressive pictures show the first field's moment only."""
    with av.open(str(path), "w") as out:
        options = {"flags": "+ildct+ilme", "q": "2"} if interlaced else {}
        stream = out.add_stream("mpeg2video", rate=25, width=128, height=96, pix_fmt="yuv420p", options=options)
        stream.bit_rate = 4_000_000
        for k in range(count):
            picture = moving_bar(4 + 6 * k)
            if interlaced:
                picture[1::2] = moving_bar(4 + 6 * k + 3)[1::2]
            frame = av.VideoFrame.from_ndarray(picture[..., None].repeat(3, 2), "rgb24").reformat(format="yuv420p")
            frame.pts = k
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def combing(frame: np.ndarray) -> float:
    """Mean difference between lines and their neighbours, in grey levels, beyond that to the next but one."""
    lines = frame.mean(-1)
    return float((np.abs(lines[1:-1] - lines[2:])[:-1] - np.abs(lines[1:-2] - lines[3:])).clip(0).mean())


def test_interlaced_pictures_become_whole(tmp_path):
    write_fields(tmp_path / "tape.mpg", interlaced=True)
    write_fields(tmp_path / "film.mpg", interlaced=False)
    frames, film = list(read_frames(tmp_path / "tape.mpg")), list(read_frames(tmp_path / "film.mpg"))
    assert len(frames) == len(film) == 12
    with av.open(str(tmp_path / "tape.mpg")) as container:
        raw = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert min(map(combing, raw)) > 4 and max(map(combing, frames)) < 1.5
    assert probe(tmp_path / "tape.mpg").conversions == ["is interlaced: it is deinterlaced"]
    assert probe(tmp_path / "film.mpg").conversions == []
    # The picture is of the moment of one of its fields, in order of time.
    edges = [int(np.argmax(frame[48, :, 0] > 130)) for frame in frames]
    assert all(0 <= edge - (4 + 6 * k) <= 3 for k, edge in enumerate(edges))


def test_preparation_says_what_it_does_to_the_pictures(tmp_path, capsys):
    write_coded(tmp_path / "phone.mkv", coded(patches(), HLG), HLG, BT2020)
    with pytest.raises(UserError, match="no sound track"):
        prepare(tmp_path / "phone.mkv", tmp_path / "dataset")
    assert "phone.mkv is HDR (HLG, BT.2020): its colours are tone-mapped" in capsys.readouterr().err


def test_backgrounds_say_what_they_do_to_the_pictures(tmp_path, capsys):
    write_fields(tmp_path / "tape.mpg", interlaced=True)
    person = types.SimpleNamespace(background=np.zeros((96, 128, 3), np.uint8))
    assert combing(next(background_source(tmp_path / "tape.mpg", person, None)())) < 1.5
    assert "tape.mpg is interlaced: it is deinterlaced" in capsys.readouterr().err


@pytest.fixture
def cases() -> pathlib.Path:
    root = os.environ.get("ADNERF_TEST_DATA")
    if not root or not (pathlib.Path(root) / "cases").is_dir():
        pytest.skip("ADNERF_TEST_DATA does not point to the cases")
    return pathlib.Path(root)


def test_a_phones_recording_looks_like_its_original(cases):
    """The file was made from a recording, which it shows from that one's 50th picture on."""
    original = next(itertools.islice(read_frames(cases / "obama/obama_20s_450.mp4"), 50, None)).astype(float)
    shown = next(read_frames(cases / "cases/hlg.mov")).astype(float)
    assert abs(shown.std() / original.std() - 1) < 0.06  # 0.78 before
    assert np.abs(shown.mean((0, 1)) - original.mean((0, 1))).max() < 3
    assert np.abs(shown - original).mean() < 4


def test_an_interlaced_recording_is_not_combed(cases):
    path = cases / "cases/interlaced.mpg"
    frames = list(read_frames(path))
    assert len(frames) == 148 and probe(path).interlaced
    with av.open(str(path)) as container:
        raw = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert max(map(combing, raw)) > 1.5 and max(map(combing, frames)) < 0.35  # where the head moves most
