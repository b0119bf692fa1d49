"""Numbers of a run on disk: a JSON line and a TensorBoard event for each report."""

import json
import pathlib
from collections.abc import Mapping

from tensorboardX import SummaryWriter


class MetricWriter:
    """Appends to `metrics.jsonl` and to a TensorBoard event file in the workdir.

    Args:
      workdir: the stage's folder.
      resume_step: lines of later steps, left by a run that was killed, are dropped.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int):
        path = workdir / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    continue  # the last line of a killed run may be cut
        path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(workdir), purge_step=resume_step or None, flush_secs=30)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: `step` and the values."""
        self._file.write(json.dumps({"step": step, **{k: round(float(v), 8) for k, v in values.items()}}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._board.close()
