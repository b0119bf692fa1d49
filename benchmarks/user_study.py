"""The user study of the paper's section 4.3: a page that collects ratings of anonymised clips, and their analysis.

    python -m benchmarks.user_study make --method ours=A --method other=B --out study
    python -m benchmarks.user_study analyse --key study.key.json --out study_results ratings-*.csv

`make` takes every mp4 in each method's folder and writes `study/`, which can be opened from disk or served by any web
server: `index.html` shows the clips in a random order for each participant, asks for ratings from 1 to 10 of
synchronisation, fidelity and realism, and lets the participant download a csv to send back. Clips are numbered at
random and carry no metadata; `study.key.json`, beside the folder, maps them to methods for `analyse`. `analyse` prints
means with confidence intervals and draws the paper's figure 7 in `results.html`. Both take seconds.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Sequence

import av
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import atomic_path, read_json, sha256_of, write_bytes, write_json
from adnerf_jax.common.progress import exit_status, say
from adnerf_jax.evaluation.bootstrap import interval
from adnerf_jax.evaluation.reporting.charts import grid, interval_chart
from adnerf_jax.evaluation.reporting.markup import Html, element
from adnerf_jax.evaluation.reporting.page import note, page, section, table
from adnerf_jax.media.container import open_media
from adnerf_jax.media.video import probe

ASPECTS = {
    "sync": "How well do lips and speech go together?",
    "fidelity": "How good is the picture: sharp, free of flaws?",
    "realism": "How much does it look like a real recording?",
}
LOWEST, HIGHEST = 1, 10
_COLUMNS = ("participant", "position", "clip", *ASPECTS)
_RESAMPLES = 2000
_SCRIPT = """
const clips = CLIPS, aspects = ASPECTS, columns = COLUMNS, store = "study-" + STUDY;
const $ = id => document.getElementById(id);
let state = null;
try { state = JSON.parse(localStorage.getItem(store)); } catch { }  // a browser may keep nothing for such a page
if (!state) {
  const order = clips.slice();
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  state = {participant: Math.random().toString(16).slice(2, 10), order: order, ratings: []};
}
function keep() { try { localStorage.setItem(store, JSON.stringify(state)); } catch { } }
function chosen(aspect) { return document.querySelector(`input[name=${aspect}]:checked`); }
function check() { $("next").disabled = !aspects.every(chosen); }
function show() {
  const k = state.ratings.length, done = k >= state.order.length;
  $("clip").hidden = done;
  $("end").hidden = !done;
  $("count").textContent = done ? "" : `${k + 1} / ${state.order.length}`;
  document.querySelectorAll("input").forEach(input => { input.checked = false; });
  check();
  if (done) { $("film").removeAttribute("src"); return; }
  $("film").src = "clips/" + state.order[k] + ".mp4";
}
document.querySelectorAll("input").forEach(input => input.addEventListener("change", check));
$("next").addEventListener("click", () => {
  const k = state.ratings.length;
  state.ratings.push([state.participant, k + 1, state.order[k], ...aspects.map(a => chosen(a).value)]);
  keep();
  show();
  window.scrollTo(0, 0);
});
$("save").addEventListener("click", () => {
  const text = [columns, ...state.ratings].map(row => row.join(",")).join("\\n") + "\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = `ratings-${state.participant}.csv`;
  link.click();
});
keep();
show();
"""


def make(methods: Sequence[str], out: pathlib.Path, seed: int) -> pathlib.Path:
    """Writes the study.

    Args:
      methods: `NAME=FOLDER` of each method.
      out: folder of the study; the key is written beside it.
      seed: seed of the numbering of the clips.

    Returns:
      path of the key.

    Raises:
      UserError: a method without clips, a clip that is not a video, or a study that exists already.
    """
    key = out.with_name(f"{out.name}.key.json")
    if out.exists() or key.exists():
        raise UserError(f"{out} or {key} exists already, and ratings may refer to it: give another --out")
    sources = []
    for text in methods:
        name, _, folder = text.partition("=")
        found = sorted(pathlib.Path(folder).glob("*.mp4")) if folder else []
        if not name or not found:
            raise UserError(f"--method {text} names no folder with mp4 files: use --method NAME=FOLDER")
        sources += [(name, path) for path in found]
    if len({name for name, _ in sources}) != len(methods):
        raise UserError("two methods have the same name: give them different names")
    for _, path in sources:
        probe(path)  # refuses a file that is not a video before anything is written
    numbers = np.random.default_rng(seed).permutation(len(sources))
    clips = {f"{numbers[i]:03d}": {"method": name, "file": path.name} for i, (name, path) in enumerate(sources)}
    for number, (_, path) in zip(clips, sources, strict=True):
        _copy_without_metadata(path, out / "clips" / f"{number}.mp4")
    # Browsers keep unfinished ratings under this digest, so that those of another study are not mixed in.
    study = hashlib.sha256("".join(sha256_of(out / "clips" / f"{number}.mp4") for number in sorted(clips)).encode())
    write_bytes(out / "index.html", _form(sorted(clips), study.hexdigest()[:16]).encode())
    write_json(key, {"aspects": list(ASPECTS), "clips": dict(sorted(clips.items()))})
    say(
        f"wrote {out}/index.html with {len(clips)} clips of {len(methods)} methods; "
        f"keep {key}, which maps the clips to the methods"
    )
    return key


def _copy_without_metadata(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the video and audio streams without the container's metadata (names, dates, tools)."""
    with open_media(source) as given, atomic_path(target) as temporary, av.open(str(temporary), "w") as bare:
        streams = {
            stream.index: bare.add_stream_from_template(stream)
            for stream in given.streams
            if stream.type in ("video", "audio")
        }
        for packet in given.demux(*(given.streams[index] for index in streams)):
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                bare.mux(packet)


def _form(clips: Sequence[str], study: str) -> str:
    scale = range(LOWEST, HIGHEST + 1)
    questions = [
        element(
            "fieldset",
            element("legend", text),
            *(element("label", element("input", type="radio", name=name, value=n), n) for n in scale),
        )
        for name, text in ASPECTS.items()
    ]
    clip = element(
        "div",
        element("video", id="film", controls=True, playsinline=True),
        *questions,
        element("p", element("button", "Next", id="next", disabled=True), " ", element("span", id="count")),
        id="clip",
    )
    end = element(
        "div",
        element("p", "That was all, thank you. Please save your ratings and send the file back."),
        element("button", "Save ratings", id="save"),
        id="end",
        hidden=True,
    )
    values = {"CLIPS": list(clips), "ASPECTS": list(ASPECTS), "COLUMNS": list(_COLUMNS), "STUDY": study}
    script = re.sub(r"\b(CLIPS|ASPECTS|COLUMNS|STUDY)\b", lambda found: _for_script(values[found[0]]), _SCRIPT)
    style = "label{display:inline-block;padding:.3rem .5rem}fieldset{margin:.6rem 0;border:1px solid #e3e6ea}"
    intro = note(f"Watch each clip with sound, as often as you like; {LOWEST} is worst, {HIGHEST} is best.")
    return page(
        "Talking heads",
        element("style", Html(style + "button{font-size:1rem;padding:.5rem 1.2rem}")),
        intro,
        clip,
        end,
        element("script", Html(script)),
    )


def _for_script(value: object) -> str:
    return json.dumps(value).replace("<", "\\u003c")


def analyse(key: pathlib.Path, files: Sequence[pathlib.Path], out: pathlib.Path, seed: int) -> dict:
    """Mean ratings of the methods with intervals; writes `results.json` and `results.html` and prints the table.

    Args:
      key: written by `make`.
      files: csv files of the participants.
      out: folder of the results.
      seed: seed of the bootstrap over the participants.

    Raises:
      UserError: a file that is not a csv of this study, or ratings that occur twice.
    """
    content = read_json(key, "key")
    if not isinstance(content, dict) or not isinstance(content.get("clips"), dict):
        raise UserError(f"{key} is not the key of a study: give the one that `make` wrote beside its folder")
    clips = content["clips"]
    ratings = [row for path in files for row in _ratings(path, clips)]
    seen = [(row["participant"], row["clip"]) for row in ratings]
    if len(set(seen)) != len(seen):
        twice = next(pair for pair in seen if seen.count(pair) > 1)
        raise UserError(f"participant {twice[0]} rated clip {twice[1]} twice: leave one of the files out")
    people = sorted({row["participant"] for row in ratings})
    methods = list(dict.fromkeys(clip["method"] for clip in clips.values()))
    draws = np.random.default_rng(seed).integers(0, len(people), (_RESAMPLES, len(people)))
    means = {}
    for method in methods:
        means[method] = {}
        for aspect in ASPECTS:
            sums, counts = np.zeros(len(people)), np.zeros(len(people))
            for row in ratings:
                if clips[row["clip"]]["method"] == method:
                    sums[people.index(row["participant"])] += row[aspect]
                    counts[people.index(row["participant"])] += 1
            if not counts.sum():
                raise UserError(f"no clip of {method} was rated: give more ratings")
            drawn = counts[draws].sum(1)
            resampled = sums[draws].sum(1) / np.where(drawn > 0, drawn, np.nan)
            low, high = interval(resampled)
            mean = float(sums.sum() / counts.sum())
            means[method][aspect] = {"mean": mean, "low": low, "high": high, "ratings": int(counts.sum())}
    result = {"participants": len(people), "methods": means}
    write_json(out / "results.json", result)
    write_bytes(out / "results.html", _results(result).encode())
    print(f"{'':>20}" + "".join(f"{aspect:>22}" for aspect in ASPECTS))
    for method, values in means.items():
        print(f"{method:>20}" + "".join(f"{_cell(values[aspect]):>22}" for aspect in ASPECTS))
    say(f"wrote {out}/results.json, results.html")
    return result


def _ratings(path: pathlib.Path, clips: dict) -> list[dict]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte-order mark
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the ratings {path}: {error}") from None
    if not rows or set(rows[0]) != set(_COLUMNS):
        raise UserError(f"{path} holds no ratings: its columns must be {', '.join(_COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if row["clip"] not in clips:
            raise UserError(f"{path}, line {number}: clip {row['clip']} is not in this study: check --key")
        for aspect in ASPECTS:
            if not re.fullmatch(r"\d{1,2}", row[aspect] or "") or not LOWEST <= int(row[aspect]) <= HIGHEST:
                raise UserError(
                    f"{path}, line {number}: {aspect} is {row[aspect]}, not a whole number from {LOWEST} to {HIGHEST}"
                )
            row[aspect] = int(row[aspect])
    return rows


def _results(result: dict) -> str:
    methods = result["methods"]
    rows = [[name, *(_cell(values[aspect]) for aspect in ASPECTS)] for name, values in methods.items()]
    charts = []
    for aspect in ASPECTS:
        points = [(name, *(values[aspect][end] for end in ("mean", "low", "high"))) for name, values in methods.items()]
        charts.append(interval_chart(aspect, points))
    text = f"{result['participants']} participants; 95 % bootstrap intervals over the participants."
    return page("User study", section("Ratings, 1 to 10", note(text), table(["", *ASPECTS], rows), grid(*charts)))


def _cell(value: dict) -> str:
    return f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})"


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.user_study", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make", help="writes the page and its clips")
    one.add_argument("--method", action="append", required=True, metavar="NAME=FOLDER", help="once for each method")
    one.add_argument("--out", type=pathlib.Path, required=True)
    one.add_argument("--seed", type=int, default=0)
    two = commands.add_parser("analyse", help="means and intervals of the ratings")
    two.add_argument("ratings", type=pathlib.Path, nargs="+", help="csv files of the participants")
    two.add_argument("--key", type=pathlib.Path, required=True)
    two.add_argument("--out", type=pathlib.Path, required=True)
    two.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.command == "make":
        return exit_status(lambda: make(options.method, options.out, options.seed))
    return exit_status(lambda: analyse(options.key, options.ratings, options.out, options.seed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
