"""What a checkpoint holds."""

from typing import Any

import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from adnerf_jax.common.types import Scene


@struct.dataclass
class TrainState:
    """The state of a stage's training.

    Attributes:
      step: int32 [], updates done.
      initialised_at: int32 [], the step at which the parameters were made: 0, unless a field died and began anew.
      params: what is trained.
      opt_state: the optimizer's moments.
      frozen: parameters that are used, never trained: the head's in the torso stage, else {}.
      scene: constants of the person.
    """

    step: Array
    initialised_at: Array
    params: Any
    opt_state: optax.OptState
    frozen: Any
    scene: Scene

    @classmethod
    def create(cls, params: Any, tx: optax.GradientTransformation, frozen: Any, scene: Scene) -> "TrainState":
        """Step 0."""
        return cls(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), params, tx.init(params), frozen, scene)
