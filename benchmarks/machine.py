"""How fast this machine is, so that seconds measured on one can be compared with seconds on another."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

REFERENCE_GFLOPS = 110.0


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """The shortest of some runs, the first one left out."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.monotonic()
        jax.block_until_ready(run())
        times.append(time.monotonic() - start)
    return min(times)


def step_seconds(update: Callable, state: Any, batch: Any, repeats: int) -> float:
    """Of a training step: the shortest of some in a row, the first one left out. The state is given up."""

    def run() -> Any:
        nonlocal state
        state, metrics = update(state, batch)
        return metrics

    return best_seconds(run, repeats)


def matrix_rate(size: int = 2048, rows: int | None = None, seconds: float = 2.0) -> float:
    """GFLOP/s of float32 products [rows, size] @ [size, size], square by default: the best within some seconds."""
    rows = rows or size
    a, b = jnp.ones((rows, size), jnp.float32), jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(a, b).block_until_ready()
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end:
        best = min(best, best_seconds(lambda: multiply(a, b), 1))
    return 2.0 * rows * size**2 / best / 1e9


def gather_rate(table: int = 2**15, count: int = 2**20) -> float:
    """Rows of two floats gathered in a second from a table of so many, in an order that only partly repeats."""
    rows = (jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(2654435761) >> 8) % table
    values = jnp.ones((table, 2), jnp.float32)
    # Eight rows are added up for each result, as the corners of a cell are.
    gather = jax.jit(lambda values, rows: sum(jnp.take(values, rows[i], axis=0, mode="clip") for i in range(8)))
    return count / best_seconds(lambda: gather(values, rows.reshape(8, -1)), 20)


def anonymous_mib(process: int | str = "self") -> float:
    """MiB of memory that a process holds now and no file backs (`RssAnon`, Linux); NaN where it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), float("nan"))
