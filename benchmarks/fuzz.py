"""Fuzzing of dataset and workdir files: each mutated file must be read, or refused with a one-line error.

    python -m benchmarks.fuzz --data D --workdir W/head [--count 2000] [--seed 0]

copies a small dataset and a trained stage, mutates one file at a time at random (by the seed), and reads it as
training, rendering and evaluation do; sometimes it renders and evaluates. Prints how many files were read and refused;
everything else (another exception, a warning of NumPy, a hang, a message of several lines, a file written or deleted
elsewhere) is listed. The dataset and a folder beside the workdir, to which links and saved settings point, are watched.
"""

import argparse
import json
import pathlib
import random
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.configuration import base
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import load_dataset, load_frames
from adnerf_jax.data.person import Person
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.evaluation.evaluate import evaluate
from adnerf_jax.evaluation.reporting.evaluation import training_log
from adnerf_jax.inference.shards import parse_shard
from adnerf_jax.inference.synthesize import synthesize
from adnerf_jax.inference.trained_stage import fitting_stage
from adnerf_jax.media.audio import write_wav
from adnerf_jax.models.codes.registry import CODES
from adnerf_jax.preprocessing.survey import Survey
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.batches import RaySampler
from adnerf_jax.training.logs import MetricWriter
from adnerf_jax.training.runs import apply_overrides, check_continues, load_config

JUNK = (
    None, True, -1, 0, 3.7, 1e308, float("nan"), float("inf"), 2**31, 10**30, "", "0", "../../x", "/etc/passwd", "a\nb",
    "'; rm -rf x", "²/4", "x", "Grüße 你好", [], {}, [[]], {"a": 1}, [1, 2, 3], "x" * 10_000,
)  # fmt: skip
SLOW = 60.0  # seconds after which reading a file counts as a hang
# What an evaluation and a render in a workdir may write, and the folders of it that a link may replace.
OUTPUTS = ("eval", "eval.frames", "speech.mp4", "speech.mp4.frames")
LINKED = ("eval", "eval/frames", "eval.frames", "speech.mp4.frames")


def mutate_json(text: bytes, rng: random.Random) -> bytes:
    """Replaces, removes or duplicates a random value; sometimes mutates the bytes instead."""
    if rng.random() < 0.2:
        return mutate_bytes(text, rng)
    tree = json.loads(text)
    node, places = tree, []
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        places.append((node, key))
        node = node[key]
    if not places:
        return json.dumps(rng.choice(JUNK)).encode()
    holder, key = rng.choice(places)
    how = rng.random()
    if how < 0.25:
        del holder[key]
    elif how < 0.35 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = rng.choice(JUNK)
    return json.dumps(tree).encode()


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flips bits, truncates, repeats or inserts bytes."""
    data = bytearray(content)
    how = rng.randrange(4)
    if how == 0:
        for _ in range(rng.choice((1, 8))):
            # Half of the flips hit the first 128 bytes, since headers are short.
            place = rng.randrange(min(len(data), 128) if rng.random() < 0.5 else len(data)) if data else 0
            if data:
                data[place] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[rng.randrange(len(data) + 1) :]
    elif how == 2:
        data += data[: rng.randrange(len(data) + 1)]
    else:
        data[rng.randrange(len(data) + 1) : 0] = bytes(rng.randrange(256) for _ in range(16))
    return bytes(data)


def mutate_log(content: bytes, rng: random.Random) -> bytes:
    """Adds a line that is JSON, but no step's; sometimes mutates the bytes instead."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    junk = rng.choice((5, "abc", *JUNK))
    lines = content.splitlines()
    lines.insert(rng.randrange(len(lines) + 1), json.dumps(rng.choice((junk, {"step": junk}))).encode())
    return b"\n".join(lines) + b"\n"


def mutate_array(content: bytes, rng: random.Random) -> bytes:
    """Changes shape, type or values (object arrays would need unpickling); sometimes mutates the bytes instead."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        array = np.load(file, allow_pickle=False)
        choices = (
            array[: rng.randrange(len(array) + 1)], array[..., :0], array.T, array[None], array.astype(object),
            array.astype("U"), array.astype(complex), array * np.nan, array * np.inf, array.astype(np.float16),
            np.zeros(()), array * 1e38,
        )  # fmt: skip
        file.seek(0)
        file.truncate()
        np.save(file, rng.choice(choices), allow_pickle=True)
        file.seek(0)
        return file.read()


def read_data(data: pathlib.Path) -> None:
    """Reads a dataset as training does before its first step."""
    dataset = load_dataset(data)
    frames = load_frames(dataset, dataset.train)
    model, count = base.get_config("head", "fast").model.head, len(dataset.windows)
    usable = [code for name, code in CODES.items() if code.check(dataset.tracks_of(name), count) is None]
    make_scene(dataset, frames, [code.from_settings(model) for code in usable], 6)
    regions = {"head": 0.4, "face": 0.2, "mouth": 0.3, "outside": 0.1}
    settings = dict(frames_per_step=4, rays_per_frame=32, regions=regions, random_background=True, subject=(1,), seed=0)
    RaySampler(dataset, frames, **settings).batch(0)


def read_settings(workdir: pathlib.Path, given: ConfigDict, person: Person, parts: dict[str, Any]) -> None:
    """Reads settings as rendering and resumed training do, and builds the models for the parameters in `parts`."""
    config = apply_overrides(load_config(workdir), given, {}, workdir)
    for part in ("render", "eval"):
        parse_shard(config[part].shard, f"{part}.shard")
    fitting_stage(config, person, parts, workdir)
    check_continues(given, workdir)


def read_checkpoint(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads a checkpoint as rendering does."""
    return checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))[1]


def read_manifest(data: pathlib.Path) -> None:
    """Reads a manifest as training and a resumed preparation do."""
    read_data(data)
    survey = schema.load_manifest(data).get("survey")
    if isinstance(survey, dict):
        Survey.from_json(survey)


def read_log(workdir: pathlib.Path) -> None:
    """Reads a log as the report and a resumed training do."""
    training_log(workdir)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(workdir / "metrics.jsonl", folder)
        with MetricWriter(pathlib.Path(folder), 10):
            pass


def use(workdir: pathlib.Path, given: ConfigDict, data: pathlib.Path, mode: str) -> None:
    """Renders two frames, or evaluates, as the command line does."""
    sound = data.parent / "speech.wav"
    options = {"data": str(data), "eval.lpips": "", "eval.faces": False, "eval.syncnet": None, "eval.shard": None}
    options |= {"render.audio": str(sound), "render.features": None, "render.shard": None, "render.duration": None}
    config = apply_overrides(load_config(workdir), given, options, workdir)
    (evaluate if mode == "eval" else synthesize)(config, workdir)


def mutate_used(content: bytes, rng: random.Random) -> bytes:
    """Leaves most files as they are, so that they are used."""
    if rng.random() < 0.7:
        return content
    return mutate_bytes(content, rng) if content.startswith(b"PK") else mutate_json(content, rng)


def misdirect(workdir: pathlib.Path, elsewhere: pathlib.Path, rng: random.Random) -> None:
    """Has a workdir point elsewhere, by a link in place of a folder or a saved setting; or adds a stray picture."""
    how = rng.choice(("link", "setting", "stray"))
    if how == "link":
        path = workdir / rng.choice(LINKED)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(elsewhere)
    elif how == "setting":
        saved = load_config(workdir).to_dict()
        saved["render"]["out"] = str(elsewhere / "precious.mp4")
        (workdir / "config.json").write_text(json.dumps(saved))
    else:
        folder = workdir / "eval.frames"
        folder.mkdir()
        for name in ("job.json", "000001 copy.png"):
            (folder / name).write_text("{}")


def fuzz(data: pathlib.Path, workdir: pathlib.Path, count: int, seed: int, folder: pathlib.Path) -> Counter:
    """Mutates `count` files, one at a time, in copies below `folder`.

    Returns:
      counts of (kind of file, outcome); the outcome is `read`, `refused` or a description that begins with WRONG.
    """
    sandbox, elsewhere = folder / "sandbox", folder / "elsewhere"
    data = shutil.copytree(data, sandbox / "data", ignore=shutil.ignore_patterns(".frames"))
    unneeded = shutil.ignore_patterns("events.*", "validation", *OUTPUTS)
    workdir = shutil.copytree(workdir, sandbox / "run", ignore=unneeded)
    (elsewhere / "frames").mkdir(parents=True)
    for name in ("precious.mp4", "report.html", "job.json", "000001.png", "frames/000001.png"):
        (elsewhere / name).write_text("{}")
    write_wav(sandbox / "speech.wav", np.random.default_rng(0).normal(size=SAMPLE_RATE // 12) * 0.1, SAMPLE_RATE)
    given, person, parts = load_config(workdir), Person.load(workdir), read_checkpoint(workdir)
    newest = checkpoints.directory(workdir) / str(checkpoints.latest_step(workdir))
    config = workdir / "config.json"
    targets: list[tuple[str, list[pathlib.Path], Callable, Callable]] = [
        ("index", [data / name for name in schema.TRANSFORMS.values()], mutate_json, lambda: read_data(data)),
        ("manifest", [data / schema.MANIFEST], mutate_json, lambda: read_manifest(data)),
        ("array", [data / schema.AUDIO_WINDOWS, data / schema.EYES], mutate_array, lambda: read_data(data)),
        ("landmarks", [data / schema.LANDMARKS], mutate_bytes, lambda: read_data(data)),
        ("log", [workdir / "metrics.jsonl"], mutate_log, lambda: read_log(workdir)),
        ("settings", [config], mutate_json, lambda: read_settings(workdir, given, person, parts)),
        ("person", [workdir / "person.npz"], mutate_bytes, lambda: Person.load(workdir)),
        ("checkpoint", [p for p in newest.rglob("*") if p.is_file()], mutate_bytes, lambda: read_checkpoint(workdir)),
        ("render", [config, workdir / "person.npz"], mutate_used, lambda: use(workdir, given, data, "render")),
        ("eval", [config, workdir / "person.npz"], mutate_used, lambda: use(workdir, given, data, "eval")),
    ]
    # Files that are slow to read, such as checkpoints, are chosen rarely.
    weights = [6, 3, 5, 2, 3, 6, 2, 2, 1, 1]
    rng, seen = random.Random(seed), Counter()
    before = _listing(folder, workdir)
    for number in range(count):
        kind, paths, mutate, read = rng.choices(targets, weights)[0]
        path = rng.choice(sorted(p for p in paths if p.exists()) or [None])
        if path is None:
            continue
        content, contents = path.read_bytes(), config.read_bytes()
        path.write_bytes(mutate(content, rng))
        start = time.monotonic()
        try:
            if kind in ("render", "eval"):
                misdirect(workdir, elsewhere, rng)
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                read()
            outcome = "read"
        except UserError as error:
            outcome = "refused" if "\n" not in str(error) else f"several lines: {str(error)[:100]!r}"
        except Exception as error:  # the user would see a traceback
            outcome = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        finally:
            config.write_bytes(contents)
            path.write_bytes(content)
            _remove_outputs(workdir)
        if time.monotonic() - start > SLOW:
            outcome = f"{time.monotonic() - start:.0f} seconds"
        fine = outcome in ("read", "refused")
        seen[(kind, outcome if fine else f"WRONG, number {number}, {path.name}: {outcome}")] += 1
        after = _listing(folder, workdir)
        if after != before:
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            seen[(kind, f"WRONG, number {number}: wrote or deleted {changed[:3]}")] += 1
            before = after
    return seen


def _remove_outputs(workdir: pathlib.Path) -> None:
    """Removes what a render and an evaluation have written, without following a link."""
    for name in LINKED + OUTPUTS:
        path = workdir / name
        if path.is_symlink() or path.is_file():
            path.unlink()
    for name in OUTPUTS:
        shutil.rmtree(workdir / name, ignore_errors=True)


def _listing(folder: pathlib.Path, workdir: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Sizes and, but for the workdir, whose files are mutated, times of change of all files below a folder."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        mutated = path.is_relative_to(workdir.parent) or path.is_dir()
        found[str(path.relative_to(folder))] = (
            status.st_size if path.is_file() else 0,
            0 if mutated else status.st_mtime_ns,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a small dataset")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a stage trained on it")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = fuzz(arguments.data, arguments.workdir, arguments.count, arguments.seed, pathlib.Path(folder))
    for (kind, outcome), times in sorted(seen.items()):
        print(f"{kind:12}{times:6}  {outcome}")
    wrong = sum(times for (_, outcome), times in seen.items() if outcome.startswith("WRONG"))
    print(f"{sum(seen.values())} mutations: {wrong} tracebacks, hangs or writes elsewhere")


if __name__ == "__main__":
    main()
