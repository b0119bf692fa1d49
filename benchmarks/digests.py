"""Digests of the results of fixed seeds, to show that a change of the code changes no number.

    python -m benchmarks.digests --workdir W/before --checkout ../before     # a checkout of the commit to compare with
    python -m benchmarks.digests --workdir W/after --against W/before/digests.json

runs the smoke quickstart, then `head.py:fast,smoke`, `torso.py:fast,smoke`, `head.py:smoke` and `torso.py:smoke` on its
dataset, and writes `digests.json`: SHA-256 of the parameters after each training, of the dataset's poses, speech
features and frames, and of the decoded frames of the talking video. The digests of two commits are comparable on one
machine with the same number of cores. Takes about five minutes on two cores.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable

import av
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_STAGES = {
    "fast_head": ("head.py:fast,smoke", "fast/head"),
    "fast_torso": ("torso.py:fast,smoke", "fast/torso"),
    "paper_head": ("head.py:smoke", "paper/head"),
    "paper_torso": ("torso.py:smoke", "paper/torso"),
}


def main(argv: list[str] | None = None) -> int:
    """Computes the digests; returns 1 where they differ from those of `--against`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digests", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="folder of the runs and of digests.json")
    parser.add_argument("--checkout", type=pathlib.Path, default=pathlib.Path("."), help="checkout whose run.py is run")
    parser.add_argument("--against", type=pathlib.Path, help="digests.json of another commit")
    args = parser.parse_args(argv)
    workdir = args.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)

    _run(args.checkout, "--config=configs/quickstart.py:smoke", f"--workdir={workdir / 'quickstart'}")
    for config, folder in _STAGES.values():
        data = workdir / "quickstart" / "dataset"
        _run(args.checkout, f"--config=configs/{config}", f"--workdir={workdir / folder}", f"--config.data={data}")

    found = {name: parameters_digest(workdir / folder) for name, (_, folder) in _STAGES.items()}
    found["quickstart_head"] = parameters_digest(workdir / "quickstart" / "head")
    found["quickstart_torso"] = parameters_digest(workdir / "quickstart" / "torso")
    found["dataset"] = dataset_digest(workdir / "quickstart" / "dataset")
    found["frames"] = video_digest(workdir / "quickstart" / "talking.mp4")
    (workdir / "digests.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))
    if args.against is None:
        return 0
    before = json.loads(args.against.read_text())
    different = [name for name in found if found[name] != before.get(name)]
    print(f"different: {', '.join(different)}" if different else f"all {len(found)} digests are equal")
    return int(bool(different))


def parameters_digest(workdir: pathlib.Path) -> str:
    """SHA-256 of the names, types and values of the trained parameters in a stage's newest checkpoint."""
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    params = ocp.load_checkpointables(workdir / "checkpoints" / str(max(steps)), {"params": None})["params"]
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    parts = (part for name in sorted(arrays) for part in (_header(name, arrays[name]), arrays[name].tobytes()))
    return _digest(parts)


def dataset_digest(folder: pathlib.Path) -> str:
    """SHA-256 of the poses, the speech features and the lossless frames of a dataset."""
    files = [folder / "transforms_train.json", folder / "transforms_val.json", folder / "aud.npy"]
    return _digest(path.read_bytes() for path in [*files, *sorted((folder / "gt").glob("*.png"))])


def video_digest(path: pathlib.Path) -> str:
    """SHA-256 of the decoded frames of a video."""
    with av.open(path) as container:
        return _digest(frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0))


def _header(name: str, array: np.ndarray) -> bytes:
    return f"{name} {array.dtype} {array.shape}".encode()


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _run(checkout: pathlib.Path, *options: str) -> None:
    subprocess.run([sys.executable, "run.py", *options], cwd=checkout, check=True)


if __name__ == "__main__":
    sys.exit(main())
