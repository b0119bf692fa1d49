"""The two stages of training: what is trained, on which rays, and what the loss compares."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from adnerf_jax import losses
from adnerf_jax.cameras import rays_through
from adnerf_jax.compositing import over
from adnerf_jax.errors import UserError
from adnerf_jax.models import build_head, build_torso
from adnerf_jax.types import Batch, Camera, Conditions, Scene


@struct.dataclass
class Stage:
    """A stage as pure functions.

    Attributes:
      head: the head model.
      torso: the torso model; None in the head stage.
      init: key, example batch, scene → parameters of what this stage trains.
      loss: params, frozen, scene, batch, key → (loss, metrics). Nothing is differentiated but `params`.
    """

    head: nn.Module
    torso: nn.Module | None
    init: Callable[[Array, Batch, Scene], Any]
    loss: Callable[[Any, Any, Scene, Batch, Array], tuple[Array, dict[str, Array]]]


def head_init(head: nn.Module, camera: Camera) -> Callable[[Array, Batch, Scene], Any]:
    """The function that makes a head's parameters: key, example batch, scene → parameters."""

    def once(module: nn.Module, batch: Batch, scene: Scene) -> None:
        rays = rays_through(batch.pixels, batch.transforms, camera)
        module(rays, module.codes(batch.conditions, scene), batch.background, scene)

    return lambda key, batch, scene: head.init(key, batch, scene, method=once)["params"]


def head_stage(head: nn.Module, camera: Camera, sampler_weight: float) -> Stage:
    """Trains the head on rays of the head over a background (paper, section 3.2)."""

    def loss(params, frozen, scene: Scene, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        del frozen
        rays = rays_through(batch.pixels, batch.transforms, camera)
        codes = head.apply({"params": params}, batch.conditions, scene, method="codes")
        levels = head.apply({"params": params}, rays, codes, batch.background, scene, key)
        errors = [losses.photometric(level.rgb, batch.target) for level in levels.rendered]
        total = sum(errors) + sampler_weight * levels.sampler_loss
        return total, {"mse": errors[-1], "sampler_loss": levels.sampler_loss}

    return Stage(head, None, head_init(head, camera), loss)


def torso_stage(head: nn.Module, torso: nn.Module, camera: Camera) -> Stage:
    """Trains the torso in front of the frozen head, rendered at the batch's pixels only (paper, section 3.4)."""
    size = np.array([camera.height, camera.width], np.float32)

    def init(key: Array, batch: Batch, scene: Scene) -> Any:
        audio = jnp.zeros((len(batch.transforms), head.audio_code))
        return torso.init(key, batch.pixels / size, batch.transforms, audio, scene)["params"]

    def loss(params, frozen, scene: Scene, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        del key
        rays = rays_through(batch.pixels, batch.transforms, camera)
        codes = head.apply({"params": frozen}, batch.conditions, scene, method="codes")
        behind = head.apply({"params": frozen}, rays, codes, batch.background, scene).rendered[-1].rgb
        colour, opacity = torso.apply({"params": params}, batch.pixels / size, batch.transforms, codes["audio"], scene)
        error = losses.photometric(over(colour, opacity, behind), batch.target)
        return error, {"mse": error}

    return Stage(head, torso, init, loss)


def make_stage(config, camera: Camera) -> Stage:
    """The stage that a configuration names."""
    if config.stage == "head":
        return head_stage(build_head(config.model.head), camera, config.train.sampler_weight)
    if "audio" not in config.model.head.codes:
        raise UserError("the torso stage needs a head with an audio code: config.model.head.codes has none")
    return torso_stage(build_head(config.model.head), build_torso(config.model.torso), camera)


def example_batch(rays: int, frames: int, windows: tuple[int, ...]) -> Batch:
    """A batch of zeros, for the shapes of parameters."""
    zeros = np.zeros
    return Batch(
        pixels=zeros((frames, rays, 2), np.float32),
        target=zeros((frames, rays, 3), np.float32),
        background=zeros((frames, rays, 3), np.float32),
        transforms=np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1)),
        conditions=Conditions(audio=zeros((frames, 8, *windows), np.float32), eyes=zeros((frames, 2), np.float32)),
    )


def step_key(seed: int, step: Array) -> Array:
    """The random key of a step: (seed, step) decide it, on any number of devices."""
    return jax.random.fold_in(jax.random.key(seed), step)
