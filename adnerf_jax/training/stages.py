"""The two stages of training: what is trained, on which rays, and what the loss compares."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from adnerf_jax.common.types import Batch, Camera, Conditions, Scene
from adnerf_jax.models.build import build_head, build_torso
from adnerf_jax.nerf.cameras import rays_through
from adnerf_jax.nerf.compositing import over
from adnerf_jax.pretrained.face_mesh import BLENDSHAPE_NAMES
from adnerf_jax.training import losses


@struct.dataclass
class Stage:
    """A stage as pure functions.

    Attributes:
      head: the head model.
      torso: the torso model; None in the head stage.
      init: key, example batch, scene → parameters of what this stage trains.
      loss: params, frozen, scene, batch, key, step, age → (loss, metrics). Nothing is differentiated but `params`;
        `age` is the number of steps since the parameters were made, `step` itself by default.
    """

    head: nn.Module
    torso: nn.Module | None
    init: Callable[[Array, Batch, Scene], Any]
    loss: Callable[..., tuple[Array, dict[str, Array]]]


def head_init(head: nn.Module, camera: Camera) -> Callable[[Array, Batch, Scene], Any]:
    """The function that makes a head's parameters: key, example batch, scene → parameters."""

    def once(module: nn.Module, batch: Batch, scene: Scene) -> None:
        rays = rays_through(batch.pixels, batch.transforms, camera)
        module(rays, module.codes(batch.conditions, scene), batch.background, scene)

    return lambda key, batch, scene: head.init(key, batch, scene, method=once)["params"]


def head_shapes(stage: Stage, camera: Camera, windows: tuple[int, ...], scene: Scene) -> Any:
    """A tree of `jax.ShapeDtypeStruct`: parameters of a stage's head, for speech windows of some shape."""
    return jax.eval_shape(head_init(stage.head, camera), jax.random.key(0), example_batch(1, 1, windows), scene)


def head_stage(
    head: nn.Module, camera: Camera, sampler_weight: float, attention_from: int, density_leak_steps: int = 0
) -> Stage:
    """Trains the head on rays of its subject over a background (paper, section 3.2).

    Args:
      head: the model.
      camera: of the batches' pixels.
      sampler_weight: weight of the sampler's own loss.
      attention_from: step from which attention smooths the audio code.
      density_leak_steps: steps in which densities that died may come back (`compositing.composite_samples`).
    """

    def loss(
        params, frozen, scene: Scene, batch: Batch, key: Array, step: Array, age: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        del frozen
        rays = rays_through(batch.pixels, batch.transforms, camera)
        codes = head.apply({"params": params}, batch.conditions, scene, step >= attention_from, method="codes")
        density_leak = _falling(step if age is None else age, density_leak_steps)
        levels = head.apply({"params": params}, rays, codes, batch.background, scene, key, None, density_leak)
        errors = [losses.photometric(level.rgb, batch.target) for level in levels.rendered]
        total = sum(errors) + sampler_weight * levels.sampler_loss
        opacity = _least_opacity([level.opacity for level in levels.rendered])
        return total, {"mse": errors[-1], "sampler_loss": levels.sampler_loss, "opacity": opacity}

    return Stage(head, None, head_init(head, camera), loss)


def torso_stage(head: nn.Module, torso: nn.Module, camera: Camera, density_leak_steps: int = 0) -> Stage:
    """Trains the torso in front of the frozen head, rendered at the batch's pixels only (paper, section 3.4).

    Args:
      head, torso: the models.
      camera: of the batches' pixels.
      density_leak_steps: as for `head_stage`.
    """

    def init(key: Array, batch: Batch, scene: Scene) -> Any:
        codes = jax.eval_shape(_first_code(head, camera), key, batch, scene)
        code = jnp.zeros(codes.shape)
        return torso.init(key, batch.pixels, camera, batch.transforms, code, scene)["params"]

    def loss(
        params, frozen, scene: Scene, batch: Batch, key: Array, step: Array, age: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        head_key, torso_key = jax.random.split(key)
        rays = rays_through(batch.pixels, batch.transforms, camera)
        codes = head.apply({"params": frozen}, batch.conditions, scene, method="codes")
        behind = head.apply({"params": frozen}, rays, codes, batch.background, scene, head_key).rendered
        first = codes[head.code_nets.names[0]]
        density_leak = _falling(step if age is None else age, density_leak_steps)
        layers = torso.apply(
            {"params": params}, batch.pixels, camera, batch.transforms, first, scene, torso_key, None, density_leak
        )
        # Level by level: the coarse torso stands in front of the coarse head.
        errors = [
            losses.photometric(over(colour, opacity, level.rgb), batch.target)
            for (colour, opacity), level in zip(layers, behind, strict=True)
        ]
        return sum(errors), {"mse": errors[-1], "opacity": _least_opacity([opacity for _, opacity in layers])}

    return Stage(head, torso, init, loss)


def _first_code(head: nn.Module, camera: Camera):
    """The function key, example batch, scene → the head's first code, for its shape."""
    init = head_init(head, camera)

    def first(key: Array, batch: Batch, scene: Scene) -> Array:
        params = {"params": init(key, batch, scene)}
        return head.apply(params, batch.conditions, scene, method="codes")[head.code_nets.names[0]]

    return first


def _falling(step: Array, until: int) -> Array:
    """From 1 at step 0 to 0 at step `until`, and 0 from there on."""
    return jnp.maximum(until - step, 0) / max(until, 1)


def _least_opacity(levels: list[Array]) -> Array:
    """The mean opacity of the level that has least: a field that has died shows 0."""
    return jnp.min(jnp.stack([opacity.mean() for opacity in levels]))


def make_stage(config, camera: Camera) -> Stage:
    """The stage that a configuration names."""
    head = build_head(config.model.head, config.compat)
    density_leak_steps = 0 if config.compat.dead_density else config.train.density_leak_steps
    if config.stage == "head":
        train = config.train
        return head_stage(head, camera, train.sampler_weight, train.attention_from, density_leak_steps)
    return torso_stage(head, build_torso(config.model.torso, config.compat), camera, density_leak_steps)


def example_batch(rays: int, frames: int, windows: tuple[int, ...]) -> Batch:
    """A batch of zeros, for the shapes of parameters."""
    zeros = np.zeros
    return Batch(
        pixels=zeros((frames, rays, 2), np.float32),
        target=zeros((frames, rays, 3), np.float32),
        background=zeros((frames, rays, 3), np.float32),
        transforms=np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1)),
        conditions=Conditions(
            audio=zeros((frames, 8, *windows), np.float32),
            eyes=zeros((frames, 2), np.float32),
            expression=zeros((frames, len(BLENDSHAPE_NAMES)), np.float32),
        ),
    )


def step_key(seed: int, step: Array) -> Array:
    """The random key of a step: (seed, step) decide it, on any number of devices."""
    return jax.random.fold_in(jax.random.key(seed), step)
