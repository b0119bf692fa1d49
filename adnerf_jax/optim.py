"""Adam as the paper has it (section 4.1), with the rate of each group of parameters a multiple of the networks'."""

from typing import Any

import jax
import optax


def learning_rate(initial: float, decay: float, decay_steps: int) -> optax.Schedule:
    """initial · decay^(max(k − 1, 0) / decay_steps) for update k = 0, 1, …, as the published code sets it."""
    return lambda count: initial * decay ** (jax.numpy.maximum(count - 1, 0) / decay_steps)


def group_of(path: tuple[Any, ...]) -> str:
    """`grids` for the tables of grid fields, `networks` for everything else."""
    return "grids" if any(getattr(key, "key", None) == "grids" for key in path) else "networks"


def make_optimizer(optim) -> optax.GradientTransformation:
    """Adam(0.9, 0.999, 1e-8) at `optim.learning_rate`, the grids at `optim.grid_multiple` times that.

    Args:
      optim: the configuration's `optim` part.
    """

    def adam(multiple: float) -> optax.GradientTransformation:
        rate = learning_rate(optim.learning_rate * multiple, optim.decay, optim.decay_steps)
        return optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)

    def labels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: group_of(path), params)

    return optax.multi_transform({"networks": adam(1.0), "grids": adam(optim.grid_multiple)}, labels)
