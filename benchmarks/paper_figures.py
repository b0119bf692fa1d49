"""Reproduces the paper's figures 3, 4, 9 and 10 with their metrics, one command for each.

    python -m benchmarks.paper_figures figure3 --data D --workdir W      # audio code | audio-estimated expression code
    python -m benchmarks.paper_figures figure3 --data D --workdir W --family fast      # both without the lips code
    python -m benchmarks.paper_figures figure4 --data D --workdir W      # two fields | one field, and SSIM of all three
    python -m benchmarks.paper_figures figure4 --data D --workdir W --family fast
    python -m benchmarks.paper_figures figure9 --stage S/torso --voices A.wav B.wav C.wav --workdir W
    python -m benchmarks.paper_figures figure10 --stage S/torso --workdir W [--backgrounds A.jpg B.jpg]

Each writes `W/figureN.html`, `.png` and `.json`. Figures 3 and 4 train the settings that they compare in the folders of
`benchmarks.ablations`, which takes hours with `--family small` on two cores; a rerun continues. Figures 9 and 10
render a trained torso within minutes.
"""

import argparse
import pathlib
import sys
from collections.abc import Collection, Sequence

import cv2
import jax
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_bytes, write_json
from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.progress import exit_status, say
from adnerf_jax.data.datasets import dataset_of
from adnerf_jax.evaluation.evaluate import evaluate, score_cross
from adnerf_jax.evaluation.face_metrics import ExpectedLips
from adnerf_jax.evaluation.held_out import HeldOutFrames
from adnerf_jax.evaluation.metrics import crop
from adnerf_jax.evaluation.protocol import curves, fit_expected_lips, frames_to_evaluate, read_table
from adnerf_jax.evaluation.reporting import page
from adnerf_jax.evaluation.reporting.evaluation import error_map, number
from adnerf_jax.evaluation.scoring import make_scorer
from adnerf_jax.inference.speech_input import speech_input
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.media.video import read_frames
from benchmarks.ablations import SETTINGS, STEPS, in_family, setting_folder, settings_of, train_setting

_FRAMES = 5  # columns of figures 3 and 9
_LIP_MEASURES = (
    "faces_found",
    "lmd_px",
    "lip_correlation",
    "lip_lag_frames",
    "lip_amplitude",
    "av_offset_s",
    "psnr_face",
    "ssim",
)
_PAPER_SSIM = "SSIM in the paper"


def held_out(workdir: pathlib.Path) -> HeldOutFrames:
    """The held-out frames of a trained stage."""
    config = settings_of(workdir)
    dataset = dataset_of(config)
    _, split, _ = frames_to_evaluate(config, dataset)
    return HeldOutFrames(config, TrainedStage.load(workdir, config), dataset, split)


def compared(
    numbers: Sequence[int],
    data: pathlib.Path,
    workdir: pathlib.Path,
    family: str,
    steps: int | None,
    without: Collection[str] = (),
) -> dict[str, pathlib.Path]:
    """Trains settings of the ablation in a family; the folders of their last stages by the settings' names.

    Args:
      numbers: indices of the settings.
      data, workdir, steps: as in `benchmarks.ablations.train_setting`.
      family: small or fast.
      without: condition codes that the heads of the fast family are trained without; the paper's have one code.
    """
    if steps is None and family == "small":
        steps = STEPS
    found = {}
    for k in numbers:
        name, variants, _ = SETTINGS[k]
        variants = in_family(variants, family)
        left_out = without if family == "fast" else ()
        folder = setting_folder(workdir, ",".join([variants, *(f"no_{code}" for code in left_out)]))
        found[name] = list(train_setting(variants, data, folder, steps, left_out).values())[-1]
    return found


def figure3(data: pathlib.Path, workdir: pathlib.Path, family: str, steps: int | None) -> None:
    """Lips conditioned on the audio code, and on an expression code estimated from the audio.

    In the fast family both are trained without the lips code, which would otherwise move the lips in both.
    """
    stages = compared((0, 1), data, workdir, family, steps, without=("lips",))
    table = {}
    for name, folder in stages.items():
        values = evaluate(settings_of(folder, lpips="", faces=True, report=True), folder)["settings"]["full"]
        table[name] = {measure: values[measure] for measure in _LIP_MEASURES if measure in values}
    first = next(iter(stages.values()))
    opening = curves(read_table(first / "eval" / "frames.csv"), "full")["lip_opening_truth"]
    known = np.flatnonzero(np.isfinite(opening))
    if not len(known):
        raise UserError(f"the landmark network finds no face in the held-out frames of {data}: give another --data")
    # Frames from closed to wide open lips.
    order = known[np.argsort(opening[known], kind="stable")]
    chosen = np.sort(order[np.linspace(0, len(order) - 1, min(_FRAMES, len(order))).astype(int)])
    rows: dict[str, list[np.ndarray]] = {"truth": []}
    for name, folder in stages.items():
        frames = held_out(folder)
        for i in chosen:
            image, truth = (_cropped(x, frames.split.face_rect[chosen[0]]) for x in frames.frame(int(i)).pairs["full"])
            rows.setdefault(name, []).append(image)
            if folder == first:
                rows["truth"].append(truth)
    title = "Audio code against audio-estimated expression" + (", both without the lips code" * (family == "fast"))
    _write(workdir, "figure3", title, table, rows)


def figure4(data: pathlib.Path, workdir: pathlib.Path, family: str, steps: int | None) -> None:
    """The seam between head and torso with two fields and with one, and the SSIM of all three settings."""
    stages = compared((0, 1, 2), data, workdir, family, steps)
    table = {}
    for (name, folder), (_, _, paper) in zip(stages.items(), SETTINGS, strict=True):
        values = evaluate(settings_of(folder, lpips="", faces=False, report=True), folder)["settings"]["full"]
        table[name] = {name: values[name] for name in ("ssim", "psnr", "seam_error")} | {_PAPER_SSIM: paper}
    rows: dict[str, list[np.ndarray]] = {"truth": []}
    for name in (SETTINGS[0][0], SETTINGS[2][0]):
        frames = held_out(stages[name])
        for i in np.unique(np.linspace(0, len(frames) - 1, 3).astype(int)):
            image, truth = map(to_uint8, frames.frame(int(i)).pairs["full"])
            if name == SETTINGS[0][0]:
                rows["truth"].append(truth)
            rows.setdefault(name, []).append(image)
            rows.setdefault(f"error, {name}", []).append(error_map(image, truth))
    _write(workdir, "figure4", "Two fields against one", table, rows)


def figure9(stage: pathlib.Path, voices: Sequence[pathlib.Path], workdir: pathlib.Path, seconds: float) -> None:
    """One person rendered with the speech of others."""
    config = settings_of(stage)
    trained = TrainedStage.load(stage, config)
    dataset = dataset_of(config)
    expected = fit_expected_lips(dataset, frames_to_evaluate(config, dataset)[0])
    table, rows, videos = {}, {}, {}
    for path in voices:
        name = path.stem
        if name in table:
            raise UserError(f"two voices are called {name}: rename one of the files")
        speech = speech_input(trained, path, duration=seconds, zero_padded=config.compat.zero_padding)
        scorer, _ = make_scorer("", True, min(dataset.camera.height, dataset.camera.width))
        videos[name] = workdir / "figure9" / f"{name}.mp4"
        _, windows = score_cross(trained, speech, scorer, None, videos[name], trained.provenance)
        by_setting = {} if expected is None else {"cross": ExpectedLips(expected.model, expected.face, windows)}
        table[name] = scorer.finish(by_setting, {})[0]["cross"]
        shown = set(np.linspace(0, len(windows) - 1, _FRAMES + 2).astype(int)[1:-1])
        rows[name] = [image for i, image in enumerate(read_frames(videos[name])) if i in shown]
    _write(workdir, "figure9", "The speech of others", table, rows, videos)


def figure10(stage: pathlib.Path, backgrounds: Sequence[pathlib.Path], workdir: pathlib.Path) -> None:
    """Frames in their own pose over their own background, over other backgrounds, and in two turned poses."""
    frames = held_out(stage)
    camera, person = frames.dataset.camera, frames.stage.person
    size = camera.width, camera.height
    behind = [_covering(read_image(path), *size) for path in backgrounds] or _studio(*size)
    own = frames.dataset.background.astype(np.float32) / 255
    turns = np.arctan2(person.transforms[:, 0, 2], person.transforms[:, 2, 2])
    sides = [person.transforms[k] for k in (turns.argmin(), turns.argmax())]  # the extreme poses of the training frames
    titles = ("truth", "reconstruction", *(f"background {k + 1}" for k in range(len(behind))), "turned", "turned back")
    rows: dict[str, list[np.ndarray]] = {title: [] for title in titles}
    for i in np.unique(np.linspace(0, len(frames) - 1, 3).astype(int)):
        frame = frames.frame(int(i))
        conditions = frames.dataset.conditions(frames.split.aud_id[i : i + 1])
        layers = jax.device_get(frames.stage.layers(frames.split.transforms[i], conditions))
        images = [frame.truth, layers.person_over(own), *(layers.person_over(b) for b in behind)]
        images += [jax.device_get(frames.stage.layers(pose, conditions)).person_over(own) for pose in sides]
        for title, image in zip(titles, images, strict=True):
            rows[title].append(to_uint8(np.asarray(image)))
    angles = np.degrees(turns[[turns.argmin(), turns.argmax()]])
    table = {"turned": {"degrees about the vertical axis": float(angles[0])}}
    table["turned back"] = {"degrees about the vertical axis": float(angles[1])}
    _write(workdir, "figure10", "Background and pose", table, rows)


def _cropped(image: np.ndarray, rect: np.ndarray) -> np.ndarray:
    return to_uint8(crop(image, rect))


def _covering(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image scaled and centre-cropped to a size, float in [0, 1]."""
    scale = max(width / image.shape[1], height / image.shape[0])
    scaled = cv2.resize(image, None, fx=scale + 1e-6, fy=scale + 1e-6, interpolation=cv2.INTER_AREA)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return scaled[top : top + height, left : left + width].astype(np.float32) / 255


def _studio(width: int, height: int) -> list[np.ndarray]:
    """Two plain backgrounds: a grey wall lit from above, and a blue one."""
    light = np.linspace(0.9, 0.4, height, dtype=np.float32)[:, None, None] * np.ones((1, width, 1), np.float32)
    return [light * np.array(colour, np.float32) for colour in ((0.9, 0.9, 0.88), (0.35, 0.5, 0.8))]


def _write(
    workdir: pathlib.Path,
    name: str,
    title: str,
    table: dict[str, dict[str, float]],
    rows: dict[str, list[np.ndarray]],
    videos: dict[str, pathlib.Path] | None = None,
) -> None:
    """Writes the page, an image of all rows, and the metrics."""
    strips = {who: np.concatenate(images, axis=1) for who, images in rows.items()}
    origin = Provenance("adnerf_jax, benchmarks.paper_figures")
    write_image(workdir / f"{name}.png", np.concatenate(list(strips.values()), axis=0), provenance=origin)
    write_json(workdir / f"{name}.json", table)
    measures = list(dict.fromkeys(measure for values in table.values() for measure in values))
    lines = [[m, *(number(values[m]) if m in values else "" for values in table.values())] for m in measures]
    pictures = [page.picture(strip, who) for who, strip in strips.items()]
    shown = [page.video(path, who) for who, path in (videos or {}).items()]
    document = page.page(title, page.table(["", *table], lines), *pictures, *shown)
    write_bytes(workdir / f"{name}.html", document.encode())
    for line in (["", *table], *lines):
        print("  ".join(f"{text:>24.24}" for text in line))
    say(f"wrote {workdir}/{name}.html, {name}.png (rows: {', '.join(strips)}), {name}.json")


def main(argv: Sequence[str]) -> int:
    """Makes one figure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_figures", description=__doc__.splitlines()[0])
    figures = parser.add_subparsers(dest="figure", required=True)
    for name in ("figure3", "figure4"):
        one = figures.add_parser(name)
        one.add_argument("--data", type=pathlib.Path, required=True, help="a prepared dataset")
        one.add_argument(
            "--family",
            choices=("small", "fast"),
            default="small",
            help="small: the paper's",
        )
        text = f"steps of 1024 rays for each setting; default: {STEPS} for small, as configured for fast"
        one.add_argument("--steps", type=int, help=text)
    for name in ("figure9", "figure10"):
        one = figures.add_parser(name)
        one.add_argument("--stage", type=pathlib.Path, required=True, help="the folder of a trained torso")
    figures.choices["figure9"].add_argument("--voices", type=pathlib.Path, nargs="+", required=True)
    figures.choices["figure9"].add_argument("--seconds", type=float, default=4.0, help="duration of each")
    figures.choices["figure10"].add_argument("--backgrounds", type=pathlib.Path, nargs="*", default=[])
    for one in figures.choices.values():
        one.add_argument("--workdir", type=pathlib.Path, required=True, help="folder for the figure")
    given = vars(parser.parse_args(argv))
    make = globals()[given.pop("figure")]
    return exit_status(lambda: make(**given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
