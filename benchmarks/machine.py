"""Speed and memory of the machine, so that times measured on different machines can be compared."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

REFERENCE_GFLOPS = 110.0  # speed of the machine that scaled times refer to


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """The shortest duration of `repeats` runs, after one that is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.monotonic()
        jax.block_until_ready(run())
        times.append(time.monotonic() - start)
    return min(times)


def step_seconds(update: Callable, state: Any, batch: Any, repeats: int) -> float:
    """The shortest duration of `repeats` consecutive training steps, after one that is not counted; donates `state`."""

    def run() -> Any:
        nonlocal state
        state, metrics = update(state, batch)
        return metrics

    return best_seconds(run, repeats)


def matrix_rate(size: int = 2048, rows: int | None = None, seconds: float = 2.0) -> float:
    """GFLOP/s of float32 products [rows, size] @ [size, size], by default square: the fastest within `seconds`."""
    rows = rows or size
    a, b = jnp.ones((rows, size), jnp.float32), jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(a, b).block_until_ready()
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end:
        best = min(best, best_seconds(lambda: multiply(a, b), 1))
    return 2.0 * rows * size**2 / best / 1e9


def gather_rate(table: int = 2**15, count: int = 2**20) -> float:
    """Rows of two floats gathered per second from a table of `table` rows, in pseudo-random order."""
    rows = (jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(2654435761) >> 8) % table
    values = jnp.ones((table, 2), jnp.float32)
    # Eight rows are summed for each result, like the corners of a cell.
    gather = jax.jit(lambda values, rows: sum(jnp.take(values, rows[i], axis=0, mode="clip") for i in range(8)))
    return count / best_seconds(lambda: gather(values, rows.reshape(8, -1)), 20)


def anonymous_mib(process: int | str = "self") -> float:
    """Resident anonymous memory of a process in MiB (`RssAnon`, Linux); NaN where it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), float("nan"))
