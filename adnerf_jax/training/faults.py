"""What can happen to a long training: it is told to end, or its numbers stop being numbers."""

import signal
import threading
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

from adnerf_jax.common.errors import NotFinite


class Termination:
    """Notices SIGTERM, which clusters send before they take a machine away; a context.

    Of several processes any may be told; JAX's preemption service then picks a step that all of them reach.
    """

    def __init__(self):
        self._told = False
        self._before = None

    def requested(self, step: int) -> bool:
        """Whether to save and end now; asked once before each step, by every process of the run."""
        return multihost_utils.reached_preemption_sync_point(step) if jax.process_count() > 1 else self._told

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._told = True

    def __enter__(self) -> "Termination":
        # With several processes the handler is JAX's own. Python's may be set in the main thread alone.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


class FiniteCheck:
    """Holds the metrics of the last steps on the devices, so that looking at them does not hold up each step."""

    EVERY = 50

    def __init__(self):
        self._seen: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes what a step computed, scalars by name; looks at all of them now and then."""
        self._seen.append((step, metrics))
        if len(self._seen) >= self.EVERY:
            self.check()

    def check(self) -> None:
        """Waits for the steps noted, and forgets them.

        Raises:
          NotFinite: one of them computed what is not a finite number; the first such step.
        """
        seen, self._seen = self._seen, []
        for step, metrics in jax.device_get(seen):
            terms = [name for name, value in metrics.items() if not np.isfinite(value)]
            if terms:
                raise NotFinite(int(step), terms)
