"""What can interrupt a long training: SIGTERM, and numbers that are not finite."""

import pathlib
import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from adnerf_jax.common.errors import NotFinite, Option, UserError
from adnerf_jax.common.progress import say
from adnerf_jax.training import checkpoints

# A training that has left out this many steps diverges, and is stopped at the next one.
_MOST_SKIPPED = 10


class Termination:
    """Notices SIGTERM, which clusters send before they take a machine away; a context.

    Of several processes any may receive it; JAX's preemption service then picks a step that all of them reach.
    """

    def __init__(self) -> None:
        self._received = False
        self._before: Any = None

    def requested(self, step: int) -> bool:
        """Whether to save and end now; every process of the run calls it once before each step."""
        return multihost_utils.reached_preemption_sync_point(step) if jax.process_count() > 1 else self._received

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._received = True

    def __enter__(self) -> "Termination":
        # With several processes the handler is JAX's own. Python's may be set in the main thread alone.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


class FiniteCheck:
    """Checks that metrics are finite; for several steps together, since each check waits for the devices."""

    EVERY = 50

    def __init__(self) -> None:
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Keeps the metrics of a step, scalars by name; checks all that are kept after every 50 steps.

        Raises:
          NotFinite: see `check`.
        """
        self._pending.append((step, metrics))
        if len(self._pending) >= self.EVERY:
            self.check()

    def check(self) -> None:
        """Waits for the steps whose metrics are kept, checks them, and drops them.

        Raises:
          NotFinite: names the first of them that has metrics that are not finite.
        """
        pending, self._pending = self._pending, []
        for step, metrics in jax.device_get(pending):
            terms = [name for name, value in metrics.items() if not np.isfinite(value)]
            if terms:
                raise NotFinite(int(step), terms)


def roll_back_or_stop(error: NotFinite, config: ConfigDict, workdir: pathlib.Path, skipped: set[int]) -> None:
    """Prints to which checkpoint a training rolls back after a step that was not finite.

    Args:
      error: has the step and the names of its metrics.
      config, workdir: the run's.
      skipped: steps that were left out before.

    Raises:
      UserError: it does not roll back: `config.train.on_nan` is "stop", or too many steps were left out.
    """
    newest = checkpoints.latest_step(workdir)
    good = "there is no checkpoint yet" if newest is None else f"the last good checkpoint is that of step {newest}"
    what = f"step {error.step} of the {config.stage}: not a finite number: {', '.join(error.terms)}; {good}"
    if config.train.on_nan != "rollback":
        raise UserError(
            f"{what}: lower config.optim.learning_rate, or use ",
            Option("train.on_nan", "rollback"),
            " to go back to it and leave out the rays of that step",
        ) from None
    if len(skipped) == _MOST_SKIPPED:
        raise UserError(
            f"{what}; {len(skipped)} steps were left out before, so it is not single batches: lower "
            f"config.optim.learning_rate"
        ) from None
    say(f"{what}; going back to {'the beginning' if newest is None else f'step {newest}'}, leaving that step out")
