"""Condition codes: what the person does in a frame, as the numbers that a field is conditioned on."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from adnerf_jax.common.types import EXACT, Conditions, Scene
from adnerf_jax.models.audio_nets import AudioAttNet, AudioNet

NAMES = ("audio", "lips", "eyes", "expression")
# Place of the frame itself among the windows of the frames i−4 … i+3.
_NOW = 4


class AudioCode(nn.Module):
    """Speech windows of 8 neighbouring frames to one code, smoothed by attention (paper, section 3.6)."""

    size: int
    init_scheme: str = "uniform"

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene, smooth: Array | bool) -> Array:
        """[F, size] from `conditions.audio` [F, 8, 16, C]; without `smooth` the frame's own window alone has a say."""
        centred = conditions.audio - scene.audio_mean
        features = jnp.matmul(centred, scene.audio_basis, precision=EXACT)
        codes = AudioNet(code=self.size, init_scheme=self.init_scheme, name="net")(features)
        return jnp.where(smooth, AudioAttNet(init_scheme=self.init_scheme, name="attention")(codes), codes[:, _NOW])


class LipsCode(nn.Module):
    """The lips' shape that the speech lets expect, as a linear map fitted beforehand says; nothing to train."""

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene, smooth: Array | bool) -> Array:
        """[F, M] from `conditions.audio` [F, 8, 16, C]."""
        del smooth
        return _expected(conditions, scene.lips_weights, scene.lips_bias)


class ExpressionCode(nn.Module):
    """Blendshapes, standardised (paper, section 4.2: the ablation's expression code).

    As tracked in the video where they are given, which is in training; estimated from the speech elsewhere.
    """

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene, smooth: Array | bool) -> Array:
        """[F, E]."""
        del smooth
        if conditions.expression is None:
            return _expected(conditions, scene.expression_weights, scene.expression_bias)
        return (conditions.expression - scene.expression_mean) / scene.expression_scale


class EyesCode(nn.Module):
    """Openness of both eyes, standardised."""

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene, smooth: Array | bool) -> Array:
        """[F, 2]."""
        del smooth
        return (conditions.eyes - scene.eyes_mean) / scene.eyes_scale


def _expected(conditions: Conditions, weights: Array, bias: Array) -> Array:
    """A linear function of a frame's window, averaged over three frames: [F, M]."""
    around, shares = conditions.audio[:, _NOW - 1 : _NOW + 2], jnp.array([0.25, 0.5, 0.25])
    now = jnp.einsum("fwtc,w->ftc", around, shares, precision=EXACT)
    return jnp.einsum("ftc,tcm->fm", now, weights, precision=EXACT) + bias


def joined(codes: dict[str, Array], names: Sequence[str]) -> Array:
    """Some codes side by side, [F, D], in the order of their names: dictionaries come out of `jax.jit` sorted."""
    return jnp.concatenate([codes[name] for name in names], axis=-1)


class Codes(nn.Module):
    """The named codes of a head, in order; the first is what its torso hears.

    Attributes:
      names: of `NAMES`, in order.
      audio_size: numbers in the audio code.
      audio_init: how the audio nets begin (`fields.initialisers`).
    """

    names: tuple[str, ...]
    audio_size: int
    audio_init: str = "uniform"

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene, smooth: Array | bool = True) -> dict[str, Array]:
        """[F, D] each.

        Args:
          conditions: of F frames.
          scene: of the person.
          smooth: whether attention smooths the audio code.
        """
        nets = {
            "audio": AudioCode(self.audio_size, self.audio_init, name="audio"),
            "lips": LipsCode(name="lips"),
            "eyes": EyesCode(name="eyes"),
            "expression": ExpressionCode(name="expression"),
        }
        return {name: nets[name](conditions, scene, smooth) for name in self.names}
