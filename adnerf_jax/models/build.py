"""Head and torso of a configuration: which codes, field and sampler are put together. A family is this choice.

A head has the methods `codes` (conditions to codes), `visible` (rays that can meet it) and `__call__` (rays to
`Levels`); a torso has `visible` (pixels), `__call__` (pixels to layers, finest last) and `abutting` (how they meet the
head's). `grid_models.py` and `volume_models.py` hold them.
"""

import flax.linen as nn

from adnerf_jax.common.errors import UserError
from adnerf_jax.models.codes import Codes
from adnerf_jax.models.fast import GridHead, PlanarTorso
from adnerf_jax.models.fields import BlendedGrid, DensityGrid, GridField, MLPField, MultiresolutionGrid, PlanarField
from adnerf_jax.models.paper import Volume, VolumeHead, VolumeTorso


def build_head(model, compat) -> nn.Module:
    """The head of a configuration's `model.head` part, with its `compat` part."""
    return _of_kind({"mlp": _volume_head, "grid": _grid_head}, model, "head")(model, compat)


def build_torso(model, compat) -> nn.Module:
    """The torso of a configuration's `model.torso` part, with its `compat` part."""
    return _of_kind({"mlp": _volume_torso, "planar": _planar_torso}, model, "torso")(model, compat)


def _of_kind(kinds, model, what: str):
    if model.field not in kinds:
        raise UserError(f"config.model.{what}.field is {model.field!r}: there are {', '.join(kinds)}")
    return kinds[model.field]


def _codes(model) -> Codes:
    return Codes(tuple(model.codes), model.audio_code, model.audio_init)


def _grid_head(model, compat) -> GridHead:
    del compat
    return GridHead(
        code_nets=_codes(model),
        shape_names=tuple(model.shape_codes),
        field=GridField(
            grid=MultiresolutionGrid(**model.grid, name=None),
            shapes=BlendedGrid(**model.shape_grid, name=None),
            width=model.width,
            geometry=model.geometry,
            direction_levels=model.direction_levels,
        ),
        proposal=DensityGrid(resolution=model.proposal_resolution),
        coarse=model.coarse_samples,
        fine=model.fine_samples,
    )


def _planar_torso(model, compat) -> PlanarTorso:
    del compat
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


def _volume(model) -> Volume:
    def field() -> MLPField:
        return MLPField(
            width=model.width,
            depth=model.depth,
            skip=model.skip,
            colour_width=model.colour_width,
            colour_depth=model.colour_depth,
            position_levels=model.position_levels,
            direction_levels=model.direction_levels,
            dtype=model.dtype,
            name=None,
        )

    return Volume(field(), field(), model.coarse_samples, model.fine_samples, model.rematerialise)


def _volume_head(model, compat) -> VolumeHead:
    del compat
    return VolumeHead(_codes(model), _volume(model))


def _volume_torso(model, compat) -> VolumeTorso:
    return VolumeTorso(_volume(model), model.pose_levels, compat.torso_angles)
