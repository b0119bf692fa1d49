"""Speed-up of volume rendering by an occupancy grid, and its effect on the images.

    python -m benchmarks.occupancy --workdir W/head

renders frames of a trained head (or head and torso) of the paper's family at all samples of all rays and at those in
occupied cells, and prints seconds, the share of pixels that agree within 1/255, and the largest difference. It renders
`--frames` frames both ways: minutes each at full size without the grid.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from adnerf_jax.common.types import Conditions
from adnerf_jax.data.person import survey_rows
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.training.runs import load_config


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.occupancy", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument(
        "--frames", type=int, default=4, help="number of evenly spaced frames between those of the survey"
    )
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    config = load_config(workdir)
    start = time.monotonic()
    sparse = TrainedStage.load(workdir, config)
    jax.block_until_ready(sparse.occupancies)
    survey = time.monotonic() - start
    config.render.occupancy = 0
    dense = TrainedStage.load(workdir, config)
    person = sparse.person
    rows = survey_rows(len(person.transforms))
    chosen = np.linspace(0, len(rows) - 1, arguments.frames).astype(int)

    def frame(stage: TrainedStage, i: int) -> np.ndarray:
        # The speech of a surveyed frame with the pose halfway to the next one, for which the grid was not built.
        audio = person.survey.audio[i : i + 1]
        row = min(rows[i] + max((rows[1] - rows[0]) // 2, 1), len(person.transforms) - 1)
        conditions = Conditions(audio, {name: track[row : row + 1] for name, track in person.tracks.items()})
        layers = stage.layers(person.transforms[row], conditions)
        return np.asarray(layers.person_over(person.background.astype(np.float32) / 255.0))

    frame(sparse, 0), frame(dense, 0)
    seconds = {"sparse": [], "dense": []}
    differences = []
    for i in chosen:
        pictures = {}
        for name, stage in (("dense", dense), ("sparse", sparse)):
            start = time.monotonic()
            pictures[name] = frame(stage, i)
            seconds[name].append(time.monotonic() - start)
        differences.append(np.abs(pictures["dense"] - pictures["sparse"]).max(-1))
    differences = np.stack(differences)
    whole, part = np.mean(seconds["dense"]), np.mean(seconds["sparse"])
    cells = [float(np.mean(o.cells)) for o in sparse.occupancies if o is not None]
    print(f"{person.camera.width}x{person.camera.height}, loading and survey of the occupancy {survey:.1f} s")
    print(
        f"every sample of every ray {whole:.2f} s, occupied cells only {part:.2f} s: {whole / part:.2f} times as fast"
    )
    print(f"occupied cells: {', '.join(f'{100 * share:.1f} %' for share in cells)}")
    print(
        f"pixels within 1/255: {100 * (differences <= 1 / 255).mean():.3f} %, maximum {255 * differences.max():.2f}/255"
    )


if __name__ == "__main__":
    main()
