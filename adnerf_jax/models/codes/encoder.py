"""The Linen module that encodes the condition codes of a head."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from adnerf_jax.common.types import ArrayLike, Conditions, Scene
from adnerf_jax.models.codes.base import Code


class Codes(nn.Module):
    """The condition codes of a head, in order; the first one conditions the torso as well.

    Attributes:
      members: the codes.
    """

    members: tuple[Code, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the codes, in order."""
        return tuple(code.name for code in self.members)

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene, smooth: Array | bool = True) -> dict[str, ArrayLike]:
        """The codes by name, float32 [F, W] each.

        Args:
          conditions: raw inputs in F frames.
          scene: the person's constants.
          smooth: whether codes are smoothed over time.
        """
        return {code.name: code.encode(conditions, scene.codes[code.name], smooth) for code in self.members}


class ConditionedHead(nn.Module):
    """The part of a head model (`models.protocols.HeadModel`) that concerns its condition codes.

    Attributes:
      code_nets: the condition codes.
    """

    code_nets: Codes

    def codes(self, conditions: Conditions, scene: Scene, smooth: Array | bool = True) -> dict[str, ArrayLike]:
        """The condition codes by name, [F, W] each."""
        return self.code_nets(conditions, scene, smooth)

    def torso_code(self, codes: Mapping[str, ArrayLike]) -> ArrayLike:
        """The first code; by default that of the speech (paper, section 3.4)."""
        return codes[self.code_nets.names[0]]


def joined(codes: Mapping[str, ArrayLike], names: Sequence[str]) -> Array:
    """Codes side by side, [F, W₁ + W₂ + …], in the order of `names`: `jax.jit` returns dictionaries sorted by key."""
    return jnp.concatenate([codes[name] for name in names], axis=-1)
