"""What an occupancy grid saves in rendering a volume, and what it changes in the picture.

    python -m benchmarks.occupancy --workdir W/head

renders frames of a trained head (or head and torso) of the paper's family with all samples of all rays and with those
that the grid leaves, and prints seconds, how many pixels agree within 1/255, and the worst difference.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from adnerf_jax.common.types import Conditions
from adnerf_jax.data.person import survey_rows
from adnerf_jax.inference.trained import TrainedStage
from adnerf_jax.training.runs import load_config


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.occupancy", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--frames", type=int, default=4, help="training frames, evenly spaced, between those surveyed")
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
        # The speech of one surveyed frame with the pose of a frame halfway to the next: neither grid nor pose was made
        # for it.
        audio = person.survey.audio[i : i + 1]
        row = min(rows[i] + max((rows[1] - rows[0]) // 2, 1), len(person.transforms) - 1)
        conditions = Conditions(audio, person.eyes[row : row + 1])
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
    print(f"{person.camera.width}x{person.camera.height}, loading and survey {survey:.1f} s")
    print(f"every sample of every ray {whole:.2f} s, with occupancy {part:.2f} s: {whole / part:.2f} times as fast")
    print(f"cells occupied {', '.join(f'{100 * share:.1f} %' for share in cells)}")
    print(
        f"pixels within 1/255: {100 * (differences <= 1 / 255).mean():.3f} %, worst {255 * differences.max():.2f}/255"
    )


if __name__ == "__main__":
    main()
