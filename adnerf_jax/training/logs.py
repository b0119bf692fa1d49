"""What a training logs: metrics and throughput, as JSON lines and TensorBoard events."""

import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from adnerf_jax.common.files import write_bytes
from adnerf_jax.training.losses import psnr_of

_FLUSH_SECONDS = 30.0


class MetricWriter:
    """Appends to `metrics.jsonl` and to a TensorBoard event file in the workdir.

    Events are written by this thread: tensorboardX's own thread ends silently when the disk is full, and the training
    would then wait for it forever.

    Args:
      workdir: the stage's folder.
      resume_step: lines of later steps, left by a run that was killed, are removed.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int) -> None:
        path = workdir / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # the last line of a killed run may be cut
        write_bytes(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a")
        # tensorboardX's name has the time in seconds, within which a training that rolls back may open another file.
        self._board = EventsWriter(str(workdir / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
        if resume_step:
            # TensorBoard then drops an earlier run's events of later steps.
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

    def _event(self, step: int, **content: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **content))

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:
            self._board.close()


class Throughput:
    """Rays a second since the clock was last started: after the first step, which compiles, and after whatever is no
    step: a line of the log, a validation, a checkpoint.

    Args:
      rays: rays of a step.
    """

    def __init__(self, rays: int) -> None:
        self._rays = rays
        self._step, self._time = 0, 0.0

    def start(self, step: int) -> None:
        """Starts the clock when a step is done."""
        self._step, self._time = step, time.monotonic()

    def since_start(self, step: int) -> float | None:
        """Rays a second of the steps from the start to `step`; None where there are none."""
        steps, seconds = step - self._step, time.monotonic() - self._time
        return steps * self._rays / seconds if steps and seconds > 0 else None


def log_step(
    writer: MetricWriter | None,
    step: int,
    metrics: Mapping[str, jax.Array],
    rays_per_s: float | None,
    validation_psnr: float | None,
    tuning_psnr: float | None = None,
) -> str:
    """Writes the metrics of a step.

    Args:
      writer: None in processes that write nothing.
      step: updates done.
      metrics: scalars by name, with `loss` and `mse`.
      rays_per_s: None where it is not known, as after the first step.
      validation_psnr: PSNR of held-out frames in dB; None where none were rendered after this step.
      tuning_psnr: PSNR of tuning frames, which chooses the checkpoint that is kept; likewise.

    Returns:
      a text for the progress bar.
    """
    values = {name: float(value) for name, value in metrics.items()}
    values["psnr"] = psnr_of(values["mse"])
    note = f"loss {values['loss']:.5f} PSNR {values['psnr']:.1f} dB"
    if validation_psnr is not None:
        values["validation_psnr"] = validation_psnr
    if tuning_psnr is not None:
        values["tuning_psnr"] = tuning_psnr
    if rays_per_s is not None:
        values["rays_per_s"] = rays_per_s
        note += f" {rays_per_s:,.0f} rays/s"
    if writer is not None:
        writer.write(step, values)
    return note
