"""Head and torso: condition codes, a field and a sampler, put together. A family is a choice among them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from adnerf_jax import losses
from adnerf_jax.audio_nets import AudioAttNet, AudioNet
from adnerf_jax.cameras import clip_to_box, placement_vector
from adnerf_jax.compositing import alpha_weights, composite
from adnerf_jax.fields import BlendedGrid, DensityGrid, GridField, MultiresolutionGrid, PlanarField
from adnerf_jax.sampling import even_edges, resample_edges
from adnerf_jax.types import Conditions, Rays, Rendered, Scene

# One ray in so many trains the proposal.
_SAMPLER_SHARE = 4


@struct.dataclass
class Levels:
    """What a head model renders: the levels that the loss sees, finest last, and the sampler's own loss."""

    rendered: tuple[Rendered, ...]
    sampler_loss: Array


class AudioCode(nn.Module):
    """Speech windows of 8 neighbouring frames to one smoothed code."""

    size: int

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene) -> Array:
        """[F, size] from `conditions.audio` [F, 8, 16, C]."""
        features = conditions.audio @ scene.audio_basis - scene.audio_mean @ scene.audio_basis
        return AudioAttNet(name="attention")(AudioNet(code=self.size, name="net")(features))


class LipsCode(nn.Module):
    """The lips' shape that the speech lets expect, as a linear map fitted beforehand says; nothing to train."""

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene) -> Array:
        """[F, M] from `conditions.audio` [F, 8, 16, C], averaged over three frames."""
        now = jnp.einsum("fwtc,w->ftc", conditions.audio[:, 3:6], jnp.array([0.25, 0.5, 0.25]))
        return jnp.einsum("ftc,tcm->fm", now - scene.audio_mean, scene.lips_weights) + scene.lips_bias


class EyesCode(nn.Module):
    """Openness of both eyes, standardised."""

    @nn.compact
    def __call__(self, conditions: Conditions, scene: Scene) -> Array:
        """[F, 2]."""
        return (conditions.eyes - scene.eyes_mean) / scene.eyes_scale


class GridHead(nn.Module):
    """The `fast` head: density proposal grid, then a conditioned grid field.

    Attributes:
      code_names: names of the condition codes: `audio`, `lips`, `eyes`.
      shape_names: those of them that weight the field's grids of shapes.
      field: the head field.
      proposal: densities that the intervals are drawn from.
      coarse, fine: numbers of intervals of the proposal and of the field.
      audio_code: size of the audio code.
    """

    code_names: tuple[str, ...]
    shape_names: tuple[str, ...]
    field: GridField
    proposal: DensityGrid
    coarse: int
    fine: int
    audio_code: int

    def setup(self):
        nets = {"audio": AudioCode(self.audio_code), "lips": LipsCode(), "eyes": EyesCode()}
        self.code_nets = {name: nets[name] for name in self.code_names}

    def codes(self, conditions: Conditions, scene: Scene) -> dict[str, Array]:
        """The named condition codes, [F, D] each."""
        return {name: net(conditions, scene) for name, net in self.code_nets.items()}

    def __call__(
        self, rays: Rays, codes: dict[str, Array], background: Array, scene: Scene, key: Array | None = None
    ) -> Levels:
        """Renders rays.

        Args:
          rays: [F, R, 3].
          codes: from `codes`.
          background: [F, R, 3].
          scene: of this person.
          key: jitters the intervals; None: no jitter.
        """
        length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
        edges, weights = self._propose(rays, length, scene)
        fine_edges = resample_edges(edges, jax.lax.stop_gradient(weights), self.fine, key, padding=0.3 / self.coarse)
        t = 0.5 * (fine_edges[..., 1:] + fine_edges[..., :-1])
        code = jnp.concatenate([codes[name] for name in self.code_names], axis=-1)
        shape = jnp.concatenate([codes[name] for name in self.shape_names], axis=-1)
        density, colours = self.field(_in_box(rays, t, scene), rays.directions / length, code, shape)
        fine_weights = alpha_weights(density, jnp.diff(fine_edges) * length)
        rendered = composite(fine_weights, colours, t, background)
        # A part of the rays teaches the proposal as well as all of them.
        some = slice(0, -(-weights.shape[1] // _SAMPLER_SHARE))
        sampler_loss = losses.interlevel(
            fine_edges[:, some], fine_weights[:, some], edges[:, some], weights[:, some]
        ) + losses.excess_opacity(weights[:, some].sum(-1), rendered.opacity[:, some])
        return Levels((rendered,), sampler_loss)

    def visible(self, rays: Rays, scene: Scene) -> Array:
        """Opacity [F, R] by the proposal alone, for every condition."""
        length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
        return self._propose(rays, length, scene)[1].sum(-1)

    def _propose(self, rays: Rays, length: Array, scene: Scene) -> tuple[Array, Array]:
        enter, leave = clip_to_box(rays, scene.near, scene.far, scene.box)
        edges = even_edges(enter, leave, self.coarse)
        density = self.proposal(_in_box(rays, 0.5 * (edges[..., 1:] + edges[..., :-1]), scene))
        return edges, alpha_weights(density, jnp.diff(edges) * length)


class PlanarTorso(nn.Module):
    """The `fast` torso: colour and opacity for each pixel of the static camera.

    Attributes:
      field: the picture that moves.
      audio_channels: numbers that the audio code is reduced to.
    """

    field: PlanarField
    audio_channels: int

    @nn.compact
    def __call__(self, x: Array, transforms: Array, audio: Array, scene: Scene) -> tuple[Array, Array]:
        """Premultiplied colour [F, R, 3] and opacity [F, R].

        Args:
          x: [F, R, 2], (row, column) as fractions of the image.
          transforms: [F, 4, 4], camera-to-head.
          audio: [F, D], the head's smoothed audio code.
          scene: of this person.
        """
        pose = (placement_vector(transforms) - scene.pose_mean) / scene.pose_scale
        # A narrow way for the speech: the throat moves with it, but a whole code would name the frame.
        speech = nn.Dense(self.audio_channels, name="speech")(audio)
        colours, opacity = self.field(x, pose, speech)
        # Nothing taught the field what to show where no torso was ever seen.
        opacity = opacity * (x[..., 0] >= scene.torso_top)
        return colours * opacity[..., None], opacity


def _in_box(rays: Rays, t: Array, scene: Scene) -> Array:
    """Points at t [..., S] of rays [..., 3] as fractions of the scene's box."""
    points = rays.origins[..., None, :] + t[..., None] * rays.directions[..., None, :]
    return (points - scene.box[0]) / (scene.box[1] - scene.box[0])


def build_head(model) -> nn.Module:
    """The head of a configuration's `model` part."""
    grid = MultiresolutionGrid(**model.grid, name=None)
    return GridHead(
        code_names=tuple(model.codes),
        shape_names=tuple(model.shape_codes),
        field=GridField(
            grid=grid,
            shapes=BlendedGrid(**model.shape_grid, name=None),
            width=model.width,
            geometry=model.geometry,
            direction_levels=model.direction_levels,
        ),
        proposal=DensityGrid(resolution=model.proposal_resolution),
        coarse=model.coarse_samples,
        fine=model.fine_samples,
        audio_code=model.audio_code,
    )


def build_torso(model) -> nn.Module:
    """The torso of a configuration's `model` part."""
    return PlanarTorso(
        field=PlanarField(
            grid=MultiresolutionGrid(**model.grid, name=None),
            width=model.width,
            deformation_width=model.deformation_width,
            position_levels=model.position_levels,
            reach=model.reach,
        ),
        audio_channels=model.audio_channels,
    )
