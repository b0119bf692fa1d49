"""Colours as 8-bit pixels."""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np


@overload
def to_uint8(image: np.ndarray) -> np.ndarray: ...
@overload
def to_uint8(image: jax.Array) -> jax.Array: ...
def to_uint8(image: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """[0, 1] to 0 … 255, rounded to the nearest; values outside are clipped. NumPy arrays stay NumPy arrays."""
    if isinstance(image, jax.Array):
        return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
