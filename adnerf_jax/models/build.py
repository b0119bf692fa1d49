"""Head and torso of a configuration: which codes, fields and samplers are put together. A family is such a choice.

What a head and a torso must do is written down in `protocols.py`; `paper.py` and `fast.py` implement it.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from adnerf_jax.common.errors import UserError
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.models.fast import GridHead, PlanarTorso
from adnerf_jax.models.fields import BlendedGrid, DensityGrid, GridField, MLPField, MultiresolutionGrid, PlanarField
from adnerf_jax.models.paper import Volume, VolumeHead, VolumeTorso
from adnerf_jax.models.protocols import HeadModel, TorsoModel

_T = TypeVar("_T")


def build_head(model: Any, compat: Any) -> HeadModel:
    """The head of a configuration's `model.head` part, with its `compat` part.

    Raises:
      UserError: unknown field.
    """
    builders: dict[str, Callable[[Any, Any], HeadModel]] = {"mlp": _volume_head, "grid": _grid_head}
    return _of_field(builders, model, "head")(model, compat)


def build_torso(model: Any, compat: Any) -> TorsoModel:
    """The torso of a configuration's `model.torso` part, with its `compat` part.

    Raises:
      UserError: unknown field.
    """
    builders: dict[str, Callable[[Any, Any], TorsoModel]] = {"mlp": _volume_torso, "planar": _planar_torso}
    return _of_field(builders, model, "torso")(model, compat)


def _of_field(builders: Mapping[str, _T], model: Any, part: str) -> _T:
    if model.field not in builders:
        raise UserError(f"config.model.{part}.field is {model.field!r}: there are {', '.join(builders)}")
    return builders[model.field]


def _grid_head(model: Any, compat: Any) -> GridHead:
    del compat
    return GridHead(
        code_nets=make_codes(model),
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


def _planar_torso(model: Any, compat: Any) -> PlanarTorso:
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


def _volume(model: Any) -> Volume:
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


def _volume_head(model: Any, compat: Any) -> VolumeHead:
    del compat
    return VolumeHead(make_codes(model), _volume(model))


def _volume_torso(model: Any, compat: Any) -> VolumeTorso:
    return VolumeTorso(_volume(model), model.pose_levels, compat.torso_angles)
