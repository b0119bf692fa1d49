"""One step of training: gradients of a stage's loss, and Adam's update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adnerf_jax.common.types import Batch
from adnerf_jax.training import sharding
from adnerf_jax.training.stages import Stage, step_key
from adnerf_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def make_update(
    stage: Stage, tx: optax.GradientTransformation, seed: int, micro_batches: int = 1
) -> jax.stages.Wrapped:
    """The compiled step: state, batch → state, metrics. The state is donated.

    Args:
      stage: what is trained.
      tx: the optimizer.
      seed: seed of the steps' random numbers.
      micro_batches: number of equal parts of the batch whose gradients are computed one after the other and averaged.
    """

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = step_key(seed, state.step)
        gradient = functools.partial(_gradient, stage, state)
        if micro_batches == 1:
            gradients, metrics = gradient(batch, key)
        else:
            gradients, metrics = _average(gradient, batch, key, micro_batches)
        # Parameters are finite after the step if this is.
        metrics["gradient"] = optax.tree.norm(gradients)
        changes, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(update, donate_argnums=0)


def _gradient(stage: Stage, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
    """The gradient of a stage's loss by its parameters, and its metrics with the loss itself."""

    def loss_of(params: Any) -> tuple[jax.Array, Metrics]:
        age = state.step - state.initialised_at
        loss, metrics = stage.loss(params, state.frozen, state.scene, batch, key, state.step, age)
        return loss, {"loss": loss, **metrics}

    return jax.grad(loss_of, has_aux=True)(state.params)


def _average(
    gradient: Callable[[Batch, jax.Array], tuple[Any, Metrics]], batch: Batch, key: jax.Array, count: int
) -> tuple[Any, Metrics]:
    """Gradients and metrics of a batch as means over those of its micro-batches."""
    parts, keys = sharding.split_rays(batch, count), jax.random.split(key, count)
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradient, batch, key))

    def add(total: Any, part_and_key: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(*part_and_key)), None

    total, _ = jax.lax.scan(add, zero, (parts, keys))
    return jax.tree.map(lambda a: a / count, total)
