"""Adam as the paper has it (section 4.1), with the rate of each group of parameters a multiple of the networks'."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from adnerf_jax.common.types import ArrayLike


def learning_rate(initial: float, decay: float, decay_steps: int) -> optax.Schedule:
    """initial · decay^(max(k − 1, 0) / decay_steps) for update k = 0, 1, …, as the published code sets it."""

    def rate(count: ArrayLike) -> jax.Array:
        return initial * decay ** (jnp.maximum(count - 1, 0).astype(jnp.float32) / decay_steps)

    return rate


def group_of(path: tuple[Any, ...]) -> str:
    """`grids` for the tables of grid fields, `attention` for the audio attention net, `networks` for the rest."""
    names = {getattr(key, "key", None) for key in path}
    return "grids" if "grids" in names else "attention" if "attention" in names else "networks"


@struct.dataclass
class AdamMoments:
    """The state of Adam.

    Attributes:
      counts: updates that each group of parameters has had.
      first, second: moments, as trees like the parameters.
    """

    counts: dict[str, int]
    first: Any
    second: Any


def with_moments(opt_state: optax.OptState, moments: AdamMoments, step: int) -> optax.OptState:
    """A state of `make_optimizer` with all of Adam's moments and counts replaced.

    Args:
      opt_state: gives the structure.
      moments: moments of all groups; a group without a count has had no update.
      step: updates done, on which the learning rates depend.
    """

    def is_mask(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    def of_group(old: Any, new: Any) -> Any:
        return jax.tree.map(lambda a, b: a if is_mask(a) else b, old, new, is_leaf=is_mask)

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    def replace(path: tuple[Any, ...], node: Any) -> Any:
        if is_adam(node):
            (group,) = {str(getattr(key, "key", None)) for key in path} & {"networks", "grids", "attention"}
            first, second = of_group(node.mu, moments.first), of_group(node.nu, moments.second)
            return optax.ScaleByAdamState(np.int32(moments.counts.get(group, 0)), first, second)
        # The other leaves are counts of updates.
        return np.int32(step)

    return jax.tree_util.tree_map_with_path(replace, opt_state, is_leaf=is_adam)


def make_optimizer(optim: ConfigDict, attention_from: int) -> optax.GradientTransformation:
    """Adam(0.9, 0.999, 1e-8) at `optim.learning_rate`, with a multiple of it for each group of parameters.

    The attention net's multiple holds from update 1 on, and its moments begin at update `attention_from`, when it
    begins to be used: the published code gives it an optimizer of its own.

    Args:
      optim: the configuration's `optim` part.
      attention_from: number of the first update of the attention net.
    """
    initial = optim.learning_rate
    rate = learning_rate(initial, optim.decay, optim.decay_steps)

    def attention_rate(count: jax.Array) -> jax.Array:
        return rate(count) * jnp.where(count == 0, 1.0, optim.attention_multiple)

    def adam(schedule: optax.Schedule, begins: int = 0) -> optax.GradientTransformation:
        moments = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
        if begins:
            moments = optax.conditionally_mask(moments, lambda count: count >= begins)
        return optax.chain(moments, optax.scale_by_learning_rate(schedule))

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: group_of(path), params)

    groups = {
        "networks": adam(rate),
        "grids": adam(lambda count: rate(count) * optim.grid_multiple),
        "attention": adam(attention_rate, attention_from),
    }
    return _with_standard_promotion(optax.multi_transform(groups, labels))


def _with_standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer where dtype promotion is strict: Optax raises floats to the power of its int32 counts."""

    def update(gradients: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(gradients, state, params)

    return optax.GradientTransformation(tx.init, update)
