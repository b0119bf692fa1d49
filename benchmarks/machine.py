"""How fast this machine is, so that seconds measured on one can be compared with seconds on another."""

import time

import jax
import jax.numpy as jnp

REFERENCE_GFLOPS = 110.0


def matrix_rate(size: int = 2048, seconds: float = 2.0) -> float:
    """GFLOP/s of float32 matrix products of `size`, the best within some seconds."""
    a = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        multiply(a).block_until_ready()
        best = min(best, time.monotonic() - start)
    return 2.0 * size**3 / best / 1e9
