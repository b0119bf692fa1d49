"""The two stages of training: what is trained, on which rays, and what the loss compares."""

from collections.abc import Callable, Collection
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from adnerf_jax.common.timing import NEIGHBOURS
from adnerf_jax.common.types import ArrayLike, Batch, Camera, Conditions, RenderOptions, Scene
from adnerf_jax.models.build import build_head, build_torso
from adnerf_jax.models.codes.registry import tracked_codes
from adnerf_jax.models.protocols import HeadModel, TorsoModel
from adnerf_jax.nerf.cameras import rays_through
from adnerf_jax.nerf.compositing import over
from adnerf_jax.training import losses


@struct.dataclass
class Stage:
    """A stage as pure functions.

    Attributes:
      head: the head model.
      torso: the torso model; None in the head stage.
      init: key, example batch, scene → parameters of what this stage trains.
      loss: params, frozen, scene, batch, key, step, age → (loss, metrics). Only `params` are differentiated; `age` is
        the number of steps since the parameters were initialised, `step` itself by default.
    """

    head: HeadModel
    torso: TorsoModel | None
    init: Callable[[Array, Batch, Scene], Any]
    loss: Callable[..., tuple[Array, dict[str, Array]]]


def head_init(head: HeadModel, camera: Camera) -> Callable[[Array, Batch, Scene], Any]:
    """The function that initialises a head's parameters: key, example batch, scene → parameters."""

    def once(module: HeadModel, batch: Batch, scene: Scene) -> None:
        rays = rays_through(batch.pixels, batch.transforms, camera)
        module(rays, module.codes(batch.conditions, scene), batch.background, scene)

    return lambda key, batch, scene: head.init(key, batch, scene, method=once)["params"]


def head_shapes(stage: Stage, camera: Camera, windows: tuple[int, ...], scene: Scene) -> Any:
    """A tree of `jax.ShapeDtypeStruct`: parameters of a stage's head, for speech windows of some shape."""
    return jax.eval_shape(head_init(stage.head, camera), jax.random.key(0), example_batch(1, 1, windows), scene)


def head_stage(
    head: HeadModel, camera: Camera, sampler_weight: float, attention_from: int, density_leak_steps: int = 0
) -> Stage:
    """Trains the head on rays of its subject over a background (paper, section 3.2).

    Args:
      head: the model.
      camera: camera of the batches' pixels.
      sampler_weight: weight of the sampler's own loss.
      attention_from: step from which attention smooths the audio code.
      density_leak_steps: warm-up steps in which gradients reach densities below 0 (`compositing.composite_samples`).
    """

    def loss(
        params, frozen, scene: Scene, batch: Batch, key: Array, step: Array, age: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        del frozen
        rays = rays_through(batch.pixels, batch.transforms, camera)
        codes = head.apply({"params": params}, batch.conditions, scene, step >= attention_from, method="codes")
        options = RenderOptions(key=key, density_leak=_falling(step if age is None else age, density_leak_steps))
        levels = head.apply({"params": params}, rays, codes, batch.background, scene, options)
        errors = [losses.photometric(level.rgb, batch.target) for level in levels.rendered]
        total = sum(errors) + sampler_weight * levels.sampler_loss
        opacity = _least_opacity([level.opacity for level in levels.rendered])
        return total, {"mse": errors[-1], "sampler_loss": levels.sampler_loss, "opacity": opacity}

    return Stage(head, None, head_init(head, camera), loss)


def torso_stage(head: HeadModel, torso: TorsoModel, camera: Camera, density_leak_steps: int = 0) -> Stage:
    """Trains the torso in front of the frozen head, rendered at the batch's pixels only (paper, section 3.4).

    Args:
      head, torso: the models.
      camera: camera of the batches' pixels.
      density_leak_steps: as for `head_stage`.
    """

    def init(key: Array, batch: Batch, scene: Scene) -> Any:
        code = jnp.zeros(jax.eval_shape(_torso_code(head, camera), key, batch, scene).shape)
        return torso.init(key, batch.pixels, camera, batch.transforms, code, scene)["params"]

    def loss(
        params, frozen, scene: Scene, batch: Batch, key: Array, step: Array, age: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        head_key, torso_key = jax.random.split(key)
        rays = rays_through(batch.pixels, batch.transforms, camera)
        codes = head.apply({"params": frozen}, batch.conditions, scene, method="codes")
        options = RenderOptions(key=head_key)
        behind = head.apply({"params": frozen}, rays, codes, batch.background, scene, options).rendered
        code = head.torso_code(codes)
        options = RenderOptions(key=torso_key, density_leak=_falling(step if age is None else age, density_leak_steps))
        layers = torso.apply({"params": params}, batch.pixels, camera, batch.transforms, code, scene, options)
        # Level by level: the coarse torso is composited over the coarse head.
        errors = [
            losses.photometric(over(colour, opacity, level.rgb), batch.target)
            for (colour, opacity), level in zip(layers, behind, strict=True)
        ]
        total = cast(Array, sum(errors))
        return total, {"mse": errors[-1], "opacity": _least_opacity([opacity for _, opacity in layers])}

    return Stage(head, torso, init, loss)


def _torso_code(head: HeadModel, camera: Camera) -> Callable[[Array, Batch, Scene], ArrayLike]:
    """The function key, example batch, scene → the code that conditions the torso, for its shape."""
    init = head_init(head, camera)

    def code(key: Array, batch: Batch, scene: Scene) -> ArrayLike:
        params = {"params": init(key, batch, scene)}
        return head.torso_code(head.apply(params, batch.conditions, scene, method="codes"))

    return code


def _falling(step: Array, until: int) -> Array:
    """From 1 at step 0 to 0 at step `until`, and 0 from there on."""
    return jnp.maximum(until - step, 0) / max(until, 1)


def _least_opacity(levels: list[Array]) -> Array:
    """The smallest mean opacity of the levels: 0 where a field has collapsed."""
    return jnp.min(jnp.stack([opacity.mean() for opacity in levels]))


def make_stage(config, camera: Camera) -> Stage:
    """The stage that a configuration names."""
    head = build_head(config.model.head, config.compat)
    density_leak_steps = 0 if config.compat.dead_density else config.train.density_leak_steps
    if config.stage == "head":
        train = config.train
        return head_stage(head, camera, train.sampler_weight, train.attention_from, density_leak_steps)
    return torso_stage(head, build_torso(config.model.torso, config.compat), camera, density_leak_steps)


def example_batch(rays: int, frames: int, windows: tuple[int, ...], codes: Collection[str] | None = None) -> Batch:
    """A batch of zeros, for the shapes of parameters; with the raw inputs of some condition codes only, or of all."""
    zeros = np.zeros
    tracked = {name: code for name, code in tracked_codes().items() if codes is None or name in codes}
    return Batch(
        pixels=zeros((frames, rays, 2), np.float32),
        target=zeros((frames, rays, 3), np.float32),
        background=zeros((frames, rays, 3), np.float32),
        transforms=np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1)),
        conditions=Conditions(
            audio=zeros((frames, NEIGHBOURS, *windows), np.float32),
            tracks={name: zeros((frames, code.track_width), np.float32) for name, code in tracked.items()},
        ),
    )


def step_key(seed: int, step: Array) -> Array:
    """The random key of a step, a function of (seed, step) alone: the same on any number of devices."""
    return jax.random.fold_in(jax.random.key(seed), step)
