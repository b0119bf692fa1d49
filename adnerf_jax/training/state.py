"""The state of a training, which checkpoints hold."""

from typing import Any

import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from adnerf_jax.common.types import Scene


class TrainState(struct.PyTreeNode):
    """The state of a stage's training.

    Attributes:
      step: int32 [], updates done.
      initialised_at: int32 [], the step at which the parameters were initialised: 0, unless the density collapsed later
        (`density_collapse.reinitialise`).
      params: the parameters that are trained.
      opt_state: the optimizer's moments.
      frozen: parameters that are used but not trained: the head's in the torso stage, else {}.
      scene: constants of the training data.
    """

    step: Array
    initialised_at: Array
    params: Any
    opt_state: optax.OptState
    frozen: Any
    scene: Scene

    @classmethod
    def create(cls, params: Any, tx: optax.GradientTransformation, frozen: Any, scene: Scene) -> "TrainState":
        """The state before the first step."""
        return cls(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), params, tx.init(params), frozen, scene)
