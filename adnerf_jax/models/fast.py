"""The `fast` family: a head of feature grids with a proposal, a planar torso."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.types import DEFAULT_OPTIONS, ArrayLike, Camera, Levels, Rays, RenderOptions, Scene
from adnerf_jax.models.codes.encoder import ConditionedHead, joined
from adnerf_jax.models.fields import DensityGrid, GridField, PlanarField
from adnerf_jax.models.protocols import Layer
from adnerf_jax.nerf import proposal_losses
from adnerf_jax.nerf.cameras import clip_to_box, placement_vector
from adnerf_jax.nerf.compositing import alpha_weights, composite
from adnerf_jax.nerf.sampling import even_edges, resample_edges

# One ray in 4 trains the proposal.
_SAMPLER_SHARE = 4
# Least opacity of the proposal along a ray that is rendered.
_MIN_OPACITY = 0.1


class GridHead(ConditionedHead):
    """Density proposal grid, then a conditioned grid field.

    Attributes:
      shape_names: the condition codes that weight the field's blended grids.
      field: the head field.
      proposal: densities that the intervals are drawn from.
      coarse, fine: numbers of intervals of the proposal and of the field.
    """

    needs_occupancy: ClassVar[bool] = False
    shape_names: tuple[str, ...]
    field: GridField
    proposal: DensityGrid
    coarse: int
    fine: int

    def __call__(
        self,
        rays: Rays,
        codes: Mapping[str, ArrayLike],
        background: ArrayLike,
        scene: Scene,
        options: RenderOptions = DEFAULT_OPTIONS,
    ) -> Levels:
        """Renders rays, see `HeadModel`: one level.

        Of the options it needs the key alone: the proposal finds empty space, and a density of exp is never 0.
        """
        length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
        edges, weights = self._propose(rays, length, scene)
        fine_edges = resample_edges(
            edges, jax.lax.stop_gradient(weights), self.fine, options.key, padding=0.3 / self.coarse
        )
        t = 0.5 * (fine_edges[..., 1:] + fine_edges[..., :-1])
        code, shape = joined(codes, self.code_nets.names), joined(codes, self.shape_names)
        density, colours = self.field(_in_box(rays, t, scene), rays.directions / length, code, shape)
        fine_weights = alpha_weights(density, jnp.diff(fine_edges) * length)
        rendered = composite(fine_weights, colours, t, background)
        # A share of the rays trains the proposal as well as all of them do.
        some = slice(0, -(-weights.shape[1] // _SAMPLER_SHARE))
        sampler_loss = proposal_losses.interlevel(
            fine_edges[:, some], fine_weights[:, some], edges[:, some], weights[:, some]
        ) + proposal_losses.excess_opacity(weights[:, some].sum(-1), rendered.opacity[:, some])
        return Levels((rendered,), sampler_loss)

    def visible(self, rays: Rays, scene: Scene, options: RenderOptions = DEFAULT_OPTIONS) -> Array:
        """Rays [F, R] on which the proposal has opacity, which no condition changes: bool."""
        length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
        return self._propose(rays, length, scene)[1].sum(-1) > _MIN_OPACITY

    def survey(
        self,
        params: Any,
        codes: Mapping[str, ArrayLike],
        transforms: np.ndarray,
        camera: Camera,
        scene: Scene,
        cells: int,
    ) -> None:
        """None: the proposal finds empty space."""

    def _propose(self, rays: Rays, length: Array, scene: Scene) -> tuple[Array, Array]:
        enter, leave = clip_to_box(rays, scene.near, scene.far, scene.box)
        # Even steps along the part of the ray inside the box, in the box's coordinates.
        low, high = (expand_leading(corner, rays.origins.ndim) for corner in (scene.box[0], scene.box[1]))
        size = high - low
        start = (rays.origins + enter[..., None] * rays.directions - low) / size
        way = (leave - enter)[..., None] * rays.directions / size
        middles = expand_leading((jnp.arange(self.coarse, dtype=jnp.float32) + 0.5) / self.coarse, way.ndim)
        density = self.proposal(start[..., None, :] + middles[..., None] * way[..., None, :])
        step = (leave - enter)[..., None] * length / self.coarse
        return even_edges(enter, leave, self.coarse), alpha_weights(density, step)


class PlanarTorso(nn.Module):
    """Colour and opacity for each pixel of the static camera.

    Attributes:
      field: the deformable picture.
      audio_channels: numbers that the code is reduced to.
      abutting: in rendering, neck and head share an edge without a gap (`compositing.composite_layers`). Training
        composites them as independent layers: a gap then costs an error, so that the torso learns to fill it.
    """

    needs_occupancy: ClassVar[bool] = False
    abutting: ClassVar[bool] = True
    field: PlanarField
    audio_channels: int

    @nn.compact
    def __call__(
        self,
        pixels: Array,
        camera: Camera,
        transforms: ArrayLike,
        code: ArrayLike,
        scene: Scene,
        options: RenderOptions = DEFAULT_OPTIONS,
    ) -> tuple[Layer, ...]:
        """Renders pixels, see `TorsoModel`: one level. It needs no options, since nothing is sampled."""
        x = pixels / expand_leading(jnp.array([camera.height, camera.width], jnp.float32), pixels.ndim)
        pose = (placement_vector(transforms) - scene.pose_mean[None]) / scene.pose_scale[None]
        # A bottleneck for the speech: the throat moves with it, but a whole code would identify the training frame.
        speech = nn.Dense(self.audio_channels, name="speech")(code)
        colours, opacity = self.field(x, pose, speech)
        # Where no training frame shows the torso, the field was never trained.
        opacity = opacity * self.visible(pixels, camera, scene).astype(jnp.float32)
        return ((colours * opacity[..., None], opacity),)

    def visible(self, pixels: Array, camera: Camera, scene: Scene, options: RenderOptions = DEFAULT_OPTIONS) -> Array:
        """Pixels [F, R] in rows where a training frame shows the torso: bool."""
        return pixels[..., 0] / camera.height >= scene.torso_top

    def survey(
        self, params: Any, code: ArrayLike, transforms: ArrayLike, camera: Camera, scene: Scene, cells: int
    ) -> None:
        """None: a picture has no empty space to leave out."""


def _in_box(rays: Rays, t: Array, scene: Scene) -> Array:
    """Points at t [..., S] of rays [..., 3] as fractions of the scene's box."""
    points = rays.origins[..., None, :] + t[..., None] * rays.directions[..., None, :]
    low, high = (expand_leading(corner, points.ndim) for corner in (scene.box[0], scene.box[1]))
    return (points - low) / (high - low)
