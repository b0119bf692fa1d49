"""Report pages, charts and videos: well-formed, escaped, and true to their data."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import tiny

from adnerf_jax.evaluation.reporting import page
from adnerf_jax.evaluation.reporting.charts import Line, interval_chart, line_chart, ticks
from adnerf_jax.evaluation.reporting.evaluation import error_map, summary_rows, training_log, training_seconds
from adnerf_jax.evaluation.reporting.markup import Html, element
from adnerf_jax.evaluation.reporting.videos import FrameVideo, video_positions
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.video import probe, read_frames

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('1')</script> & \"x\""


def drawing(chart: str) -> ElementTree.Element:
    """The chart's svg, read as XML."""
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", chart)[0])


def polylines(chart: str) -> list[np.ndarray]:
    """The points [N, 2] of each piece of the curves."""
    found = drawing(chart).iter(f"{SVG}polyline")
    return [np.array([pair.split(",") for pair in one.get("points").split()], float) for one in found]


def test_text_is_escaped_everywhere():
    picture = np.zeros((4, 4, 3), np.uint8)
    lines = [Line(EVIL, [0, 1], [0, 1])]
    whole = page.page(
        EVIL,
        page.section(EVIL, page.note(EVIL), page.table([EVIL], [[EVIL]]), page.definitions({EVIL: EVIL})),
        page.details(EVIL, page.picture(picture, EVIL)),
        line_chart(EVIL, lines, EVIL),
        interval_chart(EVIL, [(EVIL, 1.0, 0.5, 1.5)]),
    )
    assert "<script" not in whole and whole.count("&lt;script&gt;") > 10
    assert element("p", EVIL, title=EVIL) == (
        '<p title="&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; &quot;x&quot;">'
        "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; &quot;x&quot;</p>"
    )
    assert element("p", Html("<b>1</b>"), hidden=True, class_=None) == "<p hidden><b>1</b></p>"


def test_a_page_loads_nothing():
    whole = page.page("A", page.picture(np.zeros((4, 4, 3), np.uint8), "black"))
    assert whole.startswith("<!DOCTYPE html>") and 'name="viewport"' in whole and "@media print" in whole
    assert set(re.findall(r'(?:src|href)="([^"]{5})', whole)) == {"data:"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 10.0, [0, 2, 4, 6, 8, 10]), (27.3, 31.9, [28, 29, 30, 31]), (-0.012, 0.031, [-0.01, 0, 0.01, 0.02, 0.03])],
)
def test_ticks_are_round(low, high, expected):
    np.testing.assert_allclose(ticks(low, high), expected, atol=1e-12)


def test_curves_are_drawn_to_scale_with_their_gaps():
    y = [1.0, 2.0, np.nan, 5.0, 3.0]
    chart = line_chart("t", [Line("a", [0, 1, 2, 3, 4], y)], "x")
    first, second = polylines(chart)
    assert len(first) == len(second) == 2
    points = np.concatenate([first, second])
    x, values = np.array([0, 1, 3, 4]), np.array([1.0, 2.0, 5.0, 3.0])
    # Both axes are straight, and up is down the page.
    for drawn, given, way in ((points[:, 0], x, 1), (points[:, 1], values, -1)):
        slope, offset = np.polyfit(given, drawn, 1)
        np.testing.assert_allclose(drawn, slope * given + offset, atol=0.06)  # a tenth of a unit is written
        assert np.sign(slope) == way
    assert line_chart("t", [Line("a", [0, 1], [np.nan, np.nan])], "x").startswith("<p")
    alone = drawing(line_chart("t", [Line("a", [0, 1, 2], [np.nan, 1.0, np.nan])], "x"))
    assert len(list(alone.iter(f"{SVG}circle"))) == 1


def test_long_curves_are_averaged():
    chart = line_chart("t", [Line("a", np.arange(1000), np.arange(1000) % 2)], "x")
    (points,) = polylines(chart)
    assert len(points) == 334  # means of three
    constant = polylines(line_chart("t", [Line("a", [0, 1], [3.0, 3.0])], "x"))[0]
    assert constant[0, 1] == constant[1, 1]


def test_the_waveform_is_behind_the_curves():
    sound = np.concatenate([np.zeros(800), np.ones(800)]).astype(np.float32)
    root = drawing(line_chart("t", [Line("a", [0, 1], [0, 1])], "x", sound=sound))
    order = [child.tag.removeprefix(SVG) for child in root]
    assert order.index("polygon") < order.index("polyline")
    points = np.array([p.split(",") for p in root.find(f"{SVG}polygon").get("points").split()], float)
    top = points[: len(points) // 2]
    silent, loud = top[: len(top) // 2 - 1], top[len(top) // 2 + 1 :]
    assert np.ptp(silent[:, 1]) == 0 and loud[:, 1].max() < silent[:, 1].min()


def test_intervals_are_drawn_around_their_values():
    root = drawing(interval_chart("t", [("a", 2.0, 1.0, 4.0), ("b", 3.0, 3.0, 3.0)]))
    circles = [float(c.get("cx")) for c in root.iter(f"{SVG}circle")]
    whiskers = [(float(r.get("x1")), float(r.get("x2"))) for r in root.iter(f"{SVG}line") if r.get("stroke-width")]
    (low, high), (same, same_too) = whiskers
    unit = (high - low) / 3
    assert circles == pytest.approx([low + unit, low + 2 * unit], abs=0.2)
    assert same == same_too == circles[1]


def test_the_summary_has_the_ground_truths_scores_in_brackets():
    rows = summary_rows(
        {"full": {"psnr": 31.234, "jitter_px": 0.5, "jitter_px_truth": 0.25}, "cross": {"jitter_px": 2}}
    )
    assert rows == [["PSNR, dB", "31.23", ""], ["jitter, px", "0.5000 (0.2500)", "2"]]


def test_error_maps_are_scaled_by_four():
    truth = np.full((4, 4, 3), 100, np.uint8)
    image = truth.copy()
    image[0, 0] += 10
    image[0, 1] += 200 - 100
    shown = error_map(image, truth)
    scale = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    np.testing.assert_array_equal(shown[0, 0], scale[40])
    np.testing.assert_array_equal(shown[0, 1], scale[255])
    np.testing.assert_array_equal(shown[1, 1], scale[0])


def test_an_incomplete_last_line_of_a_training_log_is_skipped(tmp_path):
    assert training_log(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "psnr": 20.5}\n{"step": 2, "loss": 0.1}\n{"step": 3, "ps')
    log = training_log(tmp_path)
    np.testing.assert_array_equal(log["step"], [1, 2])
    np.testing.assert_array_equal(log["psnr"], [20.5, np.nan])


def test_a_video_of_every_other_frame_keeps_time(tmp_path):
    times = [0, 3, 6, 8]  # dropped frames shift every other frame to odd indices
    assert video_positions(times, 2).tolist() == [0, 1, 3, 4]
    with FrameVideo(tmp_path / "f.mp4", 16, 16, times, 2, None) as video:
        for level in (40, 100, 160, 220):
            video.add(np.full((16, 16, 3), level, np.uint8))
    shown = [round(float(frame.mean()), -1) for frame in read_frames(tmp_path / "f.mp4", 12.5)]
    assert shown == [40, 100, 100, 160, 220]


def test_a_video_of_distant_frames_repeats_them(tmp_path):
    assert video_positions([0, 100], 100).tolist() == [0, 4]
    for name, times in (("two", [0, 100]), ("one", [7])):
        with FrameVideo(tmp_path / f"{name}.mp4", 16, 16, times, 100_000, None) as video:
            for _ in times:
                video.add(np.zeros((16, 16, 3), np.uint8))
    assert probe(tmp_path / "two.mp4").duration == 5 and probe(tmp_path / "one.mp4").duration == 1


def test_seconds_of_an_interrupted_training(tmp_path):
    assert training_seconds(tmp_path) == 0.0
    (tmp_path / "config.json").write_text(json.dumps(tiny.config("head", rays=100).to_dict()))
    lines = [{"step": 10, "rays_per_s": 50.0}, {"step": 20, "rays_per_s": 100.0}, {"step": 25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_seconds(tmp_path) == 20 + 10


class Balanced(HTMLParser):
    """Fails where an element is closed that is not the one open, or is never closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        if tag not in ("img", "meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_pages_are_well_formed():
    rows = [{"frame": k, "time": k, "setting": "full", "psnr": 20.0 + k} for k in range(3)]
    Balanced(
        page.page(
            EVIL,
            page.section("a", page.note(EVIL), page.table([EVIL], [[EVIL]]), page.definitions({EVIL: EVIL})),
            page.picture(np.zeros((4, 4, 3), np.uint8), EVIL),
            line_chart("t", [Line("a", [0, 1], [0, 1])], "x"),
            interval_chart("t", [("a", 1.0, 0.5, 1.5)]),
            page.table(["", "full"], summary_rows({"full": {"psnr": rows[0]["psnr"]}})),
        )
    )


def test_a_video_keeps_time(tmp_path):
    write_wav(tmp_path / "s.wav", np.ones(16000) * 0.1, 16000)
    with FrameVideo(tmp_path / "f.mp4", 32, 16, [4, 6, 12], 2, tmp_path / "s.wav") as video:
        for level in (40, 120, 200):
            half = np.full((16, 16, 3), level, np.uint8)
            video.add(half, half)
    shown = [round(float(frame.mean()), -1) for frame in read_frames(tmp_path / "f.mp4", 12.5)]
    assert shown == [40, 120, 120, 120, 200]  # two are missing after the second
    info = probe(tmp_path / "f.mp4")
    assert info.has_audio and info.duration == pytest.approx(5 / 12.5, abs=0.02)
    with FrameVideo(tmp_path / "silent.mp4", 16, 16, [0], 1, tmp_path / "none.wav") as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
    assert not probe(tmp_path / "silent.mp4").has_audio
    with pytest.raises(RuntimeError), FrameVideo(tmp_path / "no.mp4", 16, 16, [0], 1, None):
        raise RuntimeError
    assert not (tmp_path / "no.mp4").exists()


def test_a_damaged_training_log_is_read_as_far_as_it_goes(tmp_path):
    lines = ["5", '"abc"', "[1]", "null", '{"step": "x"}', '{"step": 1, "psnr": "?", "loss": 1e999}', "[" * 100_000]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join([*lines, '{"step": 3, "psnr": 20}']).encode() + b"\n\xff")
    log = training_log(tmp_path)
    np.testing.assert_array_equal(log["step"], [1, 3])
    np.testing.assert_array_equal(log["psnr"], [np.nan, 20])
    assert set(log) == {"step", "psnr"}
