"""A field that has died is noticed, and begins anew."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from adnerf_jax.common.progress import say
from adnerf_jax.common.types import Scene
from adnerf_jax.data.datasets import Dataset
from adnerf_jax.training import sharding
from adnerf_jax.training.optim import AdamMoments, with_moments
from adnerf_jax.training.stages import Stage, example_batch
from adnerf_jax.training.state import TrainState

# A field that has died shows less than so much on average.
DEAD_OPACITY = 1e-3
# One that vanishes so many steps after it began was no bad start: a torso that is hardly in view, or a rate too high.
_YOUNG = 2000


def check_collapse(
    state: TrainState, opacity: float, stage: Stage, tx, config: ConfigDict, dataset: Dataset, mesh
) -> TrainState:
    """The state itself while its field lives, a reinitialised one where it has died.

    Args:
      state: of the stage, with `stage`, `tx`, `config`, `dataset` and `mesh` of the run.
      opacity: mean of what the last step rendered; a number (`faults.FiniteCheck`).
    """
    if opacity >= DEAD_OPACITY:
        return state
    if config.compat.dead_density:
        say(f"step {int(state.step)}: the {config.stage} has died; config.compat.dead_density leaves it so")
        return state
    if int(state.step) - int(state.initialised_at) > _YOUNG:
        say(f"step {int(state.step)}: {_gone(config)}: it is hardly in view, or config.optim.learning_rate is too high")
        return state
    return reinitialise(state, stage, tx, config, dataset, mesh)


def warn_if_collapsed(opacity: float, config: ConfigDict) -> None:
    """Says it where a field has died that nothing will look after any more.

    Args:
      opacity: mean of what the last step rendered; a number.
      config: of the run.
    """
    if opacity < DEAD_OPACITY:
        say(f"{_gone(config)}: raise config.train.steps, so that it begins anew, or use another config.seed")


def _gone(config: ConfigDict) -> str:
    return f"nothing of the {config.stage} is left (its mean opacity is below {DEAD_OPACITY:g})"


def reinitialise(state: TrainState, stage: Stage, tx, config: ConfigDict, dataset: Dataset, mesh) -> TrainState:
    """A state with fresh parameters at the same step, for one whose field has died.

    Behind a ReLU a density that is negative everywhere has no gradient: it never comes back by itself.
    """
    step = int(state.step)
    why = "a field without density has no gradient, so it begins anew from other parameters"
    say(f"step {step}: {_gone(config)}; {why}")
    example = example_batch(rays=1, frames=1, windows=dataset.windows.shape[1:])

    def create(scene: Scene, frozen) -> TrainState:
        params = stage.init(jax.random.fold_in(jax.random.key(config.seed), step), example, scene)
        fresh = TrainState.create(params, tx, frozen, scene)
        # Rates, and the step from which attention is trained, go by the steps of the run.
        zeros = jax.tree.map(jnp.zeros_like, params)
        return fresh.replace(opt_state=with_moments(fresh.opt_state, AdamMoments({}, zeros, zeros), step))

    fresh = jax.jit(create, out_shardings=sharding.replicated(mesh))(state.scene, state.frozen)
    # Copies: the next step gives up the buffers of its state.
    return fresh.replace(step=state.step, initialised_at=jnp.copy(state.step))
