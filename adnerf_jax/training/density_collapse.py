"""Collapse of a density to zero everywhere: detection, and reinitialisation of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from adnerf_jax.common.progress import say
from adnerf_jax.common.types import Scene
from adnerf_jax.data.datasets import Dataset
from adnerf_jax.training import sharding
from adnerf_jax.training.optim import AdamMoments, with_moments
from adnerf_jax.training.stages import Stage, example_batch
from adnerf_jax.training.state import TrainState

# Mean opacity of the rays of a step below which the density has collapsed.
COLLAPSED_OPACITY = 1e-3
# A collapse later than these steps after initialisation is not due to the initialisation: the torso is hardly visible,
# or the learning rate is too high.
_EARLY_STEPS = 2000


def check_collapse(state: TrainState, opacity: float, config: ConfigDict) -> bool:
    """Whether the density has collapsed and the parameters are to be reinitialised; prints what is done about it.

    Args:
      state: the state after a step.
      opacity: mean opacity that the step rendered, a finite number.
      config: the run's configuration.
    """
    if opacity >= COLLAPSED_OPACITY:
        return False
    step, collapsed = int(state.step), _collapsed(config)
    if config.compat.dead_density:
        say(f"step {step}: {collapsed}; config.compat.dead_density turns reinitialisation off")
        return False
    if step - int(state.initialised_at) > _EARLY_STEPS:
        say(f"step {step}: {collapsed}: it is hardly visible, or config.optim.learning_rate is too high")
        return False
    say(f"step {step}: {collapsed}; without density there is no gradient, so its parameters are initialised again")
    return True


def warn_if_collapsed(opacity: float, config: ConfigDict) -> None:
    """Prints a warning after the last step where the density has collapsed since the last check.

    Args:
      opacity: mean opacity that the last step rendered, a finite number.
      config: the run's configuration.
    """
    if opacity < COLLAPSED_OPACITY:
        say(f"{_collapsed(config)}: raise config.train.steps, so that it is initialised again, or change config.seed")


def _collapsed(config: ConfigDict) -> str:
    return f"the density of the {config.stage} has collapsed (its mean opacity is below {COLLAPSED_OPACITY:g})"


def reinitialise(
    state: TrainState,
    stage: Stage,
    tx: optax.GradientTransformation,
    config: ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
) -> TrainState:
    """A state with reinitialised parameters at the same step, from a new random key.

    Needed because a density that is negative everywhere has no gradient behind its ReLU, and never recovers. Moments
    and counts of Adam begin at zero; the learning rates, and the step from which attention is trained, still follow
    the steps of the run.

    Args:
      state: the state whose density has collapsed.
      stage, tx, config, dataset, mesh: the run's.
    """
    step = int(state.step)
    example = example_batch(rays=1, frames=1, windows=dataset.windows.shape[1:])

    def create(scene: Scene, frozen: Any) -> TrainState:
        params = stage.init(jax.random.fold_in(jax.random.key(config.seed), step), example, scene)
        fresh = TrainState.create(params, tx, frozen, scene)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return fresh.replace(opt_state=with_moments(fresh.opt_state, AdamMoments({}, zeros, zeros), step))

    fresh = jax.jit(create, out_shardings=sharding.replicated(mesh))(state.scene, state.frozen)
    # A copy, as the next step donates the buffers of its state.
    return fresh.replace(step=state.step, initialised_at=jnp.copy(state.step))
