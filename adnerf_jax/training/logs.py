"""Numbers of a run on disk: a JSON line and a TensorBoard event for each report."""

import json
import os
import pathlib
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from adnerf_jax.common.files import write_bytes

_FLUSH_SECONDS = 30.0


class MetricWriter:
    """Appends to `metrics.jsonl` and to a TensorBoard event file in the workdir.

    Events are written by this thread: tensorboardX's own one dies of a full disk without a word, and then the training
    waits for it for ever.

    Args:
      workdir: the stage's folder.
      resume_step: lines of later steps, left by a run that was killed, are dropped.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int):
        path = workdir / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue  # the last line of a killed run may be cut
        write_bytes(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a")
        # The time in its name is in seconds: a training that goes back begins another file within one.
        self._board = EventsWriter(str(workdir / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
        if resume_step:
            # TensorBoard forgets what an earlier run said of later steps.
            self._event(resume_step, session_log=SessionLog(status=SessionLog.START))
        self._board.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: `step` and the values.

        Raises:
          OSError: it cannot be written.
        """
        self._file.write(json.dumps({"step": step, **{k: round(float(v), 8) for k, v in values.items()}}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._event(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._board.flush()
            self._flushed = time.monotonic()

    def _event(self, step: int, **content) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **content))

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        try:
            self._file.close()
        finally:
            self._board.close()
