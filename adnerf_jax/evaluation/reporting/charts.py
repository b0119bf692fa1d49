"""Charts as inline SVG: line charts, optionally over a waveform, and values with confidence intervals."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from adnerf_jax.evaluation.reporting.markup import Html, element, join

Values: TypeAlias = Sequence[float] | np.ndarray

# Distinguishable with colour blindness, and by lightness in greyscale print.
COLOURS = ("#1b4f8a", "#d1610f", "#2a8c6a", "#a43a86", "#7a6a00", "#4f4f4f")
_WIDTH = 420  # width of the view box; about the width of a phone, so that text keeps its size there
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 46, 38
_MOST_POINTS = 400  # points of a line; longer lines are averaged down
_ROW = 26  # height of a row of `interval_chart`


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
      name: name in the legend.
      x, y: values [N]; NaN in y leaves a gap.
      dashed: whether it is drawn with a dashed line.
    """

    name: str
    x: Values
    y: Values
    dashed: bool = False


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round tick values from `low` to `high` in steps of 1, 2 or 5 times a power of ten; at most `most + 1`."""
    step = (high - low) / most
    power = 10.0 ** math.floor(math.log10(step))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, height: int = 200, sound: np.ndarray | None = None
) -> Html:
    """Curves over a common axis.

    Args:
      title: above the chart, with the unit.
      lines: the curves; without any finite value a note replaces the chart.
      x_label: label of the horizontal axis.
      height: height of the view box, whose width is 420.
      sound: float [T] in [-1, 1], a waveform drawn behind the curves over their whole width.
    """
    drawn = [_thinned(line) for line in lines]
    values = np.concatenate([np.asarray(line.y, float)[np.isfinite(line.y)] for line in drawn] or [np.zeros(0)])
    if not len(values):
        return element("p", f"{title}: no data", class_="note")
    x_low, x_high = _widened(min(min(line.x) for line in drawn), max(max(line.x) for line in drawn), 0.0)
    y_low, y_high = _widened(float(values.min()), float(values.max()), 0.06)

    def at_x(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        return height - _BOTTOM - (y - y_low) / (y_high - y_low) * (height - _TOP - _BOTTOM)

    parts = [_text(title, 4, 15, class_="title")]
    if sound is not None and len(sound):
        parts.append(_envelope(sound, (_TOP + height - _BOTTOM) / 2, (height - _TOP - _BOTTOM) / 2))
    for y in ticks(y_low, y_high, 5):
        parts.append(_rule(_LEFT, at_y(y), _WIDTH - _RIGHT, at_y(y)))
        parts.append(_text(_short(y), _LEFT - 5, at_y(y) + 4, text_anchor="end"))
    for x in ticks(x_low, x_high, 6):
        parts.append(_text(_short(x), at_x(x), height - _BOTTOM + 15, text_anchor="middle"))
    parts.append(_text(x_label, (_LEFT + _WIDTH - _RIGHT) / 2, height - 5, text_anchor="middle"))
    legend_x: float = _LEFT
    for colour, line in zip(_colours(), drawn, strict=False):
        dash = "5 3" if line.dashed else None
        parts.append(_rule(legend_x, 29, legend_x + 16, 29, stroke=colour, stroke_width=2.5, stroke_dasharray=dash))
        parts.append(_text(line.name, legend_x + 20, 33))
        legend_x += 32 + 7.4 * len(line.name)
        for run in _runs(line):
            points = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in run)
            if len(run) == 1:
                parts.append(element("circle", cx=points.split(",")[0], cy=points.split(",")[1], r=2, fill=colour))
            else:
                parts.append(
                    element(
                        "polyline", points=points, fill="none", stroke=colour, stroke_width=1.6, stroke_dasharray=dash
                    )
                )
    return _svg(title, height, parts)


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]]) -> Html:
    """Values with their confidence intervals, one row for each (name, value, low, high)."""
    x_low, x_high = _widened(min(low for *_, low, _ in rows), max(high for *_, high in rows), 0.08)
    height = _TOP + _ROW * len(rows) + 18

    def at(x: float) -> float:
        return 150 + (x - x_low) / (x_high - x_low) * (_WIDTH - 160)

    bottom = _TOP - 14 + _ROW * len(rows)
    parts = [_text(title, 4, 15, class_="title")]
    for x in ticks(x_low, x_high, 4):
        parts.append(_rule(at(x), _TOP - 14, at(x), bottom))
        parts.append(_text(_short(x), at(x), bottom + 15, text_anchor="middle"))
    for k, (colour, (name, value, low, high)) in enumerate(zip(_colours(), rows, strict=False)):
        y = _TOP - 14 + _ROW * (k + 0.5)
        parts.append(_text(_cut(name, 20), 4, y + 4))
        parts.append(_rule(at(low), y, at(high), y, stroke=colour, stroke_width=2.5))
        parts.append(element("circle", cx=f"{at(value):.1f}", cy=f"{y:.1f}", r=4.5, fill=colour))
    return _svg(title, height, parts)


def _svg(title: str, height: float, parts: Sequence[Html]) -> Html:
    drawing = element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {height:g}",
        role="img",
        aria_label=title,
        xmlns="http://www.w3.org/2000/svg",
    )
    return element("figure", drawing)


def _thinned(line: Line) -> Line:
    """The line averaged over neighbouring points so that at most 400 are left."""
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    if len(x) <= _MOST_POINTS:
        return dataclasses.replace(line, x=x, y=y)
    starts = np.arange(0, len(x), -(-len(x) // _MOST_POINTS))
    counts = np.diff(np.append(starts, len(x)))
    return dataclasses.replace(line, x=np.add.reduceat(x, starts) / counts, y=np.add.reduceat(y, starts) / counts)


def _runs(line: Line) -> Iterator[list[tuple[float, float]]]:
    """The contiguous pieces of a curve between its gaps."""
    run: list[tuple[float, float]] = []
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(y):
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _envelope(sound: np.ndarray, middle: float, half: float) -> Html:
    """The waveform's envelope: the peak of the samples in each half pixel, mirrored about the middle."""
    loud, columns = np.abs(sound), min(2 * (_WIDTH - _LEFT - _RIGHT), len(sound))
    heights = np.maximum.reduceat(loud, np.arange(columns) * len(loud) // columns) / max(float(loud.max()), 1e-6) * half
    xs = np.linspace(_LEFT, _WIDTH - _RIGHT, len(heights))
    above = [f"{x:.1f},{middle - h:.1f}" for x, h in zip(xs, heights, strict=True)]
    below = [f"{x:.1f},{middle + h:.1f}" for x, h in zip(xs[::-1], heights[::-1], strict=True)]
    return element("polygon", points=" ".join(above + below), fill="#d9dde3")


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """A range extended by a share of its length on both sides, never empty."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        middle, half = (low + high) / 2, max(abs(low) * 0.05, 0.5)
        return middle - half, middle + half
    return low - share * (high - low), high + share * (high - low)


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 6):g}"


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def _text(text: str, x: float, y: float, **attributes: object) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", **attributes)


def _rule(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Html:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", **ends, **({"stroke": "#e3e6ea"} | attributes))


def grid(*charts: Html) -> Html:
    """Charts in columns where the page is wide enough."""
    return element("div", join(*charts), class_="grid")
