"""The `paper` family: head and torso as two-level volumes of MLP fields (paper, sections 3.2 and 3.4)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adnerf_jax.common.types import (
    DEFAULT_OPTIONS,
    ArrayLike,
    Camera,
    Levels,
    Occupancy,
    Rays,
    Rendered,
    RenderOptions,
    Scene,
)
from adnerf_jax.models.codes.encoder import ConditionedHead, joined
from adnerf_jax.models.fields import MLPField
from adnerf_jax.models.protocols import Layer
from adnerf_jax.nerf.cameras import euler_angles, rays_through
from adnerf_jax.nerf.compositing import composite_samples
from adnerf_jax.nerf.encoding import positional
from adnerf_jax.nerf.occupancy import crosses, inside, seen_box, survey
from adnerf_jax.nerf.packing import map_where
from adnerf_jax.nerf.sampling import even_samples, inverse_cdf_samples

# Samples in one evaluation of a field in rendering. On CPUs its activations then stay in the cache;
# accelerators need more work at once.
_BLOCKS = {"cpu": 4096}
_BLOCK = 2**17
COARSE, FINE = 0, 1
# Points [F, R, S, 3] and directions [F, R, 3] to raw densities [F, R, S] and colours [F, R, S, 3].
_Evaluate = Callable[..., Any]


class Volume(nn.Module):
    """Two fields along rays: the fine one is sampled where the coarse one has weight.

    Attributes:
      coarse, fine: the fields, each with parameters of its own.
      coarse_samples: even positions; the last one is the background.
      fine_samples: positions drawn by the coarse weights, beside the even ones.
      rematerialise: compute the fields' activations again for the gradient instead of keeping them.
    """

    coarse: MLPField
    fine: MLPField
    coarse_samples: int
    fine_samples: int
    rematerialise: bool

    def __call__(
        self,
        rays: Rays,
        code: Array,
        background: ArrayLike,
        scene: Scene,
        options: RenderOptions = DEFAULT_OPTIONS,
    ) -> tuple[Rendered, Rendered]:
        """Renders rays [F, R, 3] with a code [F, D] over a background [F, R, 3]: coarse and fine level.

        Args:
          rays, code, background: as above.
          scene: its near and far.
          options: see `RenderOptions`.
        """
        key, occupancy = options.key, options.occupancy
        coarse_key, fine_key = (None, None) if key is None else jax.random.split(key)
        length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
        ends = jnp.broadcast_to(jnp.stack([scene.near, scene.far]), (*length.shape[:-1], 2))
        t = even_samples(ends[..., 0], ends[..., 1], self.coarse_samples, coarse_key)
        # Blocks are for rendering, which has no jitter; training splits whole steps into micro-batches instead.
        blocks = key is None and not self.is_initializing()

        def level(number: int, t: Array) -> Rendered:
            # The last sample is the background, which belongs to no field.
            points = rays.origins[..., None, :] + rays.directions[..., None, :] * t[..., :-1, None]
            field, towards = (self.coarse, self.fine)[number], rays.directions / length
            if occupancy is None and not blocks:
                call = nn.remat(MLPField.__call__) if self.rematerialise else MLPField.__call__
                density, colours = call(field, points, towards, code)
            else:
                module, variables = field.unbind()
                evaluate: _Evaluate = functools.partial(module.apply, variables, code=code)
                if occupancy is None:
                    density, colours = _in_blocks(evaluate, points, towards)
                else:
                    density, colours = _where_occupied(evaluate, points, towards, occupancy, number)
            return composite_samples(density, colours, t, length, background, options.density_leak)

        coarse = level(COARSE, t)
        middles = 0.5 * (t[..., 1:] + t[..., :-1])
        drawn = inverse_cdf_samples(middles, coarse.weights[..., 1:], self.fine_samples, fine_key)
        t = jnp.sort(jnp.concatenate([t, drawn], axis=-1), axis=-1)
        return coarse, level(FINE, t)

    def densities(self, points: Array, code: Array) -> Array:
        """Raw densities of both fields at points [N, 3] for a code [D]: [2, N]."""
        towards = jnp.zeros((1, len(points), 3))
        fields = (self.coarse, self.fine)
        return jnp.stack([field(points[None, :, None], towards, code[None])[0][0, :, 0] for field in fields])


def _block() -> int:
    return _BLOCKS.get(jax.default_backend(), _BLOCK)


def _in_blocks(field: _Evaluate, points: Array, towards: Array) -> tuple[Array, Array]:
    """Density and colours of a field at points [F, R, S, 3], evaluated one block of rays after the other."""
    frames, rays, samples = points.shape[:3]
    size = min(rays, max(1, _block() // (frames * samples)))
    blocks = -(-rays // size)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0), (0, blocks * size - rays)] + [(0, 0)] * (x.ndim - 2), mode="edge")
        return padded.reshape(frames, blocks, size, *x.shape[2:]).swapaxes(0, 1)

    def join(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(frames, blocks * size, *x.shape[3:])[:, :rays]

    found = jax.lax.map(lambda block: field(*block), (split(points), split(towards)))
    return jax.tree.map(join, found)


def _where_occupied(
    field: _Evaluate,
    points: Array,
    towards: Array,
    occupancy: Occupancy,
    level: int,
) -> tuple[Array, Array]:
    """Density and colours of a field at the points [1, R, S, 3] of one image in occupied cells; zero elsewhere."""
    shape = points.shape[:-1]
    flat = points.reshape(-1, 3)

    def evaluate(places: Array) -> Array:
        rows = places // shape[-1]
        density, colours = field(flat[None, places, None], towards[0][None, rows])
        return jnp.concatenate([density[..., None], colours], axis=-1)[0, :, 0]

    found = map_where(inside(occupancy, level, flat), evaluate, 4, min(_block(), len(flat)))
    return found[:, 0].reshape(shape), found[:, 1:].reshape(*shape, 3)


class VolumeHead(ConditionedHead):
    """The head: a volume in head space, which the head's pose turns before the camera.

    Attributes:
      volume: the two fields.
    """

    needs_occupancy: ClassVar[bool] = True
    volume: Volume

    def __call__(
        self,
        rays: Rays,
        codes: Mapping[str, ArrayLike],
        background: ArrayLike,
        scene: Scene,
        options: RenderOptions = DEFAULT_OPTIONS,
    ) -> Levels:
        """Renders rays, see `HeadModel`: coarse and fine level."""
        levels = self.volume(rays, self.code(codes), background, scene, options)
        return Levels(levels, jnp.zeros(()))

    def code(self, codes: Mapping[str, ArrayLike]) -> Array:
        """What the fields are conditioned on, [F, D]."""
        return joined(codes, self.code_nets.names)

    def densities(self, points: Array, code: Array) -> Array:
        """Raw densities of both levels at points [N, 3] for a code [D]: [2, N]."""
        return self.volume.densities(points, code)

    def visible(self, rays: Rays, scene: Scene, options: RenderOptions = DEFAULT_OPTIONS) -> Array:
        """Rays [F, R] that cross an occupied cell: bool."""
        return _visible(rays, scene, options.occupancy)

    @nn.nowrap
    def survey(
        self,
        params: Any,
        codes: Mapping[str, ArrayLike],
        transforms: np.ndarray,
        camera: Camera,
        scene: Scene,
        cells: int,
    ) -> Occupancy:
        """The cells of the space that the poses show where one of the fields has density; see `HeadModel`."""
        return _survey(self, params, self.code(codes), transforms, camera, scene, cells)


class VolumeTorso(nn.Module):
    """The torso: a volume before a camera that never moves; the head's pose is a part of its code (section 3.4).

    Attributes:
      volume: the two fields.
      pose_levels: L of the encoding of angles and translation.
      swapped_angles: as the published code computes them (`cameras.euler_angles`).
      abutting: the torso covers the head as any layer covers another, as published (`compositing.composite_layers`).
    """

    needs_occupancy: ClassVar[bool] = True
    abutting: ClassVar[bool] = False
    volume: Volume
    pose_levels: int
    swapped_angles: bool

    def __call__(
        self,
        pixels: Array,
        camera: Camera,
        transforms: ArrayLike,
        code: ArrayLike,
        scene: Scene,
        options: RenderOptions = DEFAULT_OPTIONS,
    ) -> tuple[Layer, ...]:
        """Coarse and fine level; see `TorsoModel`."""
        rays = self._rays(pixels, camera, scene)
        nothing = jnp.zeros_like(rays.directions)
        levels = self.volume(rays, self.code(transforms, code), nothing, scene, options)
        return tuple((level.foreground, level.opacity) for level in levels)

    def code(self, transforms: ArrayLike, code: ArrayLike) -> Array:
        """[head's code, PE(angles), PE(translation)], [F, D]."""
        angles = euler_angles(transforms, self.swapped_angles)
        pose = [positional(x, self.pose_levels) for x in (angles, transforms[..., :3, 3])]
        return jnp.concatenate([code, *pose], axis=-1)

    def densities(self, points: Array, code: Array) -> Array:
        """Raw densities of both levels at points [N, 3] for a code [D]: [2, N]."""
        return self.volume.densities(points, code)

    def visible(self, pixels: Array, camera: Camera, scene: Scene, options: RenderOptions = DEFAULT_OPTIONS) -> Array:
        """Pixels [F, R] whose rays cross an occupied cell: bool."""
        return _visible(self._rays(pixels, camera, scene), scene, options.occupancy)

    @nn.nowrap
    def survey(
        self, params: Any, code: ArrayLike, transforms: ArrayLike, camera: Camera, scene: Scene, cells: int
    ) -> Occupancy:
        """The cells before the static camera where one of the fields has density; see `TorsoModel`."""
        static = np.asarray(scene.torso_camera)[None]
        return _survey(self, params, self.code(transforms, code), static, camera, scene, cells)

    def _rays(self, pixels: Array, camera: Camera, scene: Scene) -> Rays:
        still = jnp.broadcast_to(scene.torso_camera, (len(pixels), 4, 4))
        return rays_through(pixels, still, camera)


def _visible(rays: Rays, scene: Scene, occupancy: Occupancy | None) -> Array:
    if occupancy is None:
        return jnp.ones(rays.directions.shape[:-1], bool)
    return crosses(occupancy, FINE, rays, scene.near, scene.far)


def _survey(
    model: VolumeHead | VolumeTorso,
    params: Any,
    code: Array,
    transforms: np.ndarray,
    camera: Camera,
    scene: Scene,
    cells: int,
) -> Occupancy:
    """The occupied cells [cells³] of the box that poses [N, 4, 4] show, under codes [K, W]."""

    def densities(points: ArrayLike, one: ArrayLike) -> Any:
        return model.apply({"params": params}, points, one, method="densities")

    reach = np.hypot(camera.width, camera.height) / 2 / camera.focal
    length = float(scene.far - scene.near) * float(np.hypot(1.0, reach))
    return survey(densities, code, seen_box(transforms, camera, scene), length, cells)
