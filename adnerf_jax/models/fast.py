"""The `fast` family: a head of feature grids with a proposal, a planar torso."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from adnerf_jax.common.types import Camera, Conditions, Levels, Occupancy, Rays, Scene
from adnerf_jax.models.codes import Codes, joined
from adnerf_jax.models.fields import DensityGrid, GridField, PlanarField
from adnerf_jax.nerf import proposal_losses
from adnerf_jax.nerf.cameras import clip_to_box, placement_vector
from adnerf_jax.nerf.compositing import alpha_weights, composite
from adnerf_jax.nerf.sampling import even_edges, resample_edges

# One ray in so many trains the proposal.
_SAMPLER_SHARE = 4
# Opacity that the proposal must see on a ray for it to be rendered.
_MIN_OPACITY = 0.1


class GridHead(nn.Module):
    """Density proposal grid, then a conditioned grid field.

    Attributes:
      code_nets: the condition codes.
      shape_names: those of them that weight the field's grids of shapes.
      field: the head field.
      proposal: densities that the intervals are drawn from.
      coarse, fine: numbers of intervals of the proposal and of the field.
    """

    code_nets: Codes
    shape_names: tuple[str, ...]
    field: GridField
    proposal: DensityGrid
    coarse: int
    fine: int

    def codes(self, conditions: Conditions, scene: Scene, smooth: Array | bool = True) -> dict[str, Array]:
        """The named condition codes, [F, D] each."""
        return self.code_nets(conditions, scene, smooth)

    def __call__(
        self,
        rays: Rays,
        codes: dict[str, Array],
        background: Array,
        scene: Scene,
        key: Array | None = None,
        occupancy: Occupancy | None = None,
        density_leak: Array | float = 0.0,
    ) -> Levels:
        """Renders rays.

        Args:
          rays: [F, R, 3].
          codes: from `codes`.
          background: [F, R, 3].
          scene: of this person.
          key: jitters the intervals; None: no jitter.
          occupancy, density_leak: not needed: the proposal knows where nothing is, and a density is never 0.
        """
        del occupancy, density_leak
        length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
        edges, weights = self._propose(rays, length, scene)
        fine_edges = resample_edges(edges, jax.lax.stop_gradient(weights), self.fine, key, padding=0.3 / self.coarse)
        t = 0.5 * (fine_edges[..., 1:] + fine_edges[..., :-1])
        code, shape = joined(codes, self.code_nets.names), joined(codes, self.shape_names)
        density, colours = self.field(_in_box(rays, t, scene), rays.directions / length, code, shape)
        fine_weights = alpha_weights(density, jnp.diff(fine_edges) * length)
        rendered = composite(fine_weights, colours, t, background)
        # A part of the rays teaches the proposal as well as all of them.
        some = slice(0, -(-weights.shape[1] // _SAMPLER_SHARE))
        sampler_loss = proposal_losses.interlevel(
            fine_edges[:, some], fine_weights[:, some], edges[:, some], weights[:, some]
        ) + proposal_losses.excess_opacity(weights[:, some].sum(-1), rendered.opacity[:, some])
        return Levels((rendered,), sampler_loss)

    def visible(self, rays: Rays, scene: Scene, occupancy: Occupancy | None = None) -> Array:
        """Rays [F, R] on which the proposal sees something, under any condition: bool."""
        del occupancy
        length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
        return self._propose(rays, length, scene)[1].sum(-1) > _MIN_OPACITY

    def _propose(self, rays: Rays, length: Array, scene: Scene) -> tuple[Array, Array]:
        enter, leave = clip_to_box(rays, scene.near, scene.far, scene.box)
        # Even steps along the part of the ray within the box: from its first point by a share of its way.
        size = scene.box[1] - scene.box[0]
        start = (rays.origins + enter[..., None] * rays.directions - scene.box[0]) / size
        way = (leave - enter)[..., None] * rays.directions / size
        middles = (jnp.arange(self.coarse) + 0.5) / self.coarse
        density = self.proposal(start[..., None, :] + middles[:, None] * way[..., None, :])
        step = (leave - enter)[..., None] * length / self.coarse
        return even_edges(enter, leave, self.coarse), alpha_weights(density, step)


class PlanarTorso(nn.Module):
    """Colour and opacity for each pixel of the static camera.

    Attributes:
      field: the picture that moves.
      audio_channels: numbers that the head's first code is reduced to.
      abutting: in rendering, the neck ends where the head begins, and nothing shows between them
        (`compositing.composite_layers`).
        Training takes them as independent: that leaves a gap for every error, which teaches both to fill it.
    """

    abutting: ClassVar[bool] = True
    field: PlanarField
    audio_channels: int

    @nn.compact
    def __call__(
        self,
        pixels: Array,
        camera: Camera,
        transforms: Array,
        code: Array,
        scene: Scene,
        key: Array | None = None,
        occupancy: Occupancy | None = None,
        density_leak: Array | float = 0.0,
    ) -> tuple[tuple[Array, Array], ...]:
        """Premultiplied colour [F, R, 3] and opacity [F, R], of one level.

        Args:
          pixels: float32 [F, R, 2], (row, column).
          camera: its size.
          transforms: [F, 4, 4], camera-to-head: the head's pose, an input here.
          code: [F, D], the head's first code.
          scene: of this person.
          key, occupancy, density_leak: not needed: nothing is sampled.
        """
        del key, occupancy, density_leak
        x = pixels / jnp.array([camera.height, camera.width], jnp.float32)
        pose = (placement_vector(transforms) - scene.pose_mean) / scene.pose_scale
        # A narrow way for the speech: the throat moves with it, but a whole code would name the frame.
        speech = nn.Dense(self.audio_channels, name="speech")(code)
        colours, opacity = self.field(x, pose, speech)
        # Nothing taught the field what to show where no torso was ever seen.
        opacity = opacity * self.visible(pixels, camera, scene)
        return ((colours * opacity[..., None], opacity),)

    def visible(self, pixels: Array, camera: Camera, scene: Scene, occupancy: Occupancy | None = None) -> Array:
        """Pixels [F, R] where a torso was ever seen: bool."""
        del occupancy
        return pixels[..., 0] / camera.height >= scene.torso_top


def _in_box(rays: Rays, t: Array, scene: Scene) -> Array:
    """Points at t [..., S] of rays [..., 3] as fractions of the scene's box."""
    points = rays.origins[..., None, :] + t[..., None] * rays.directions[..., None, :]
    return (points - scene.box[0]) / (scene.box[1] - scene.box[0])
