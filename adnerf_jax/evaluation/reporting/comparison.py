"""The report of a comparison: tables, charts with confidence intervals, and the same frames side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from adnerf_jax.evaluation.reporting.charts import grid, interval_chart
from adnerf_jax.evaluation.reporting.evaluation import LABELS, SETTINGS, labelled, number
from adnerf_jax.evaluation.reporting.markup import Html
from adnerf_jax.evaluation.reporting.page import definitions, details, note, page, picture, section, table
from adnerf_jax.evaluation.scoring import MEASURES


def comparison_page(result: Mapping[str, Any], figure: Sequence[Sequence[tuple[str, np.ndarray]]]) -> str:
    """The document.

    Args:
      result: the content of `comparison.json`.
      figure: a list for each frame shown: (name, uint8 [H, W, 3]) of each run.
    """
    protocol = result["protocol"]
    sections = [section("Runs", definitions(_runs(result["runs"])), note(protocol["frames"] + "."))]
    for setting, runs in result["settings"].items():
        sections.append(section(f"{setting}: {SETTINGS[setting]}", *_setting_blocks(runs)))
    sections.append(section("The same frames", *_frames(figure)))
    facts = {name: str(value) for name, value in protocol.items()}
    sections.append(section("Protocol", definitions(facts)))
    return page("Comparison: " + ", ".join(result["runs"]), *sections)


def cell(entry: Mapping[str, float]) -> str:
    """A value with its confidence interval, where it has one."""
    if "low" not in entry:
        return number(entry["value"])
    return f"{number(entry['value'])} ({number(entry['low'])} … {number(entry['high'])})"


def _runs(runs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {name: f"{one['path']}; {one['note']}" for name, one in runs.items()}


def _setting_blocks(runs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[Html]:
    names = list(runs)
    measures = list(runs[names[0]])
    yield table(
        ["", *names],
        [[LABELS.get(measure, measure), *(cell(runs[name][measure]) for name in names)] for measure in measures],
    )
    yield note(f"Difference from {names[0]}; * marks intervals that exclude 0:")
    rows = [
        [LABELS.get(measure, measure), *(_difference(runs[name][measure]) for name in names[1:])]
        for measure in measures
    ]
    yield table(["", *names[1:]], rows)
    charts = []
    for measure in measures:
        entries = [(name, runs[name][measure]) for name in names]
        if all("low" in entry for _, entry in entries):
            points = [(name, entry["value"], entry["low"], entry["high"]) for name, entry in entries]
            charts.append(interval_chart(LABELS.get(measure, measure), points))
    yield grid(*charts)
    meanings = {name: MEASURES[name] for name in measures if name in MEASURES}
    yield details("Definitions of the metrics", definitions(labelled(meanings)))


def _difference(entry: Mapping[str, float]) -> str:
    text = f"{entry['difference']:+.4g}"
    if "difference_low" not in entry:
        return text
    low, high = entry["difference_low"], entry["difference_high"]
    star = " *" if low > 0 or high < 0 else ""
    return f"{text} ({low:+.4g} … {high:+.4g}){star}"


def _frames(figure: Sequence[Sequence[tuple[str, np.ndarray]]]) -> Iterator[Html]:
    shown = [row for row in figure if row]
    if not shown:
        yield note("No run has a video of its frames: evaluate with config.eval.report set.")
    for row in shown:
        yield picture(np.concatenate([image for _, image in row], axis=1), " | ".join(name for name, _ in row))
