"""A family is a choice of classes by the configuration."""

import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.configuration import base as common
from adnerf_jax.models.build import build_head, build_torso
from adnerf_jax.models.fast import GridHead, PlanarTorso
from adnerf_jax.models.paper import VolumeHead, VolumeTorso


@pytest.mark.parametrize(
    ("arg", "head", "torso"), [(None, VolumeHead, VolumeTorso), ("fast", GridHead, PlanarTorso)], ids=["paper", "fast"]
)
def test_the_field_decides(arg, head, torso):
    config = common.get_config("torso", arg)
    assert type(build_head(config.model.head, config.compat)) is head
    assert type(build_torso(config.model.torso, config.compat)) is torso


@pytest.mark.parametrize("build", [build_head, build_torso])
def test_an_unknown_field_is_named_with_those_there_are(build):
    config = tiny.config("torso")
    part = {build_head: "head", build_torso: "torso"}[build]
    config.model[part].field = "cube"
    with pytest.raises(UserError, match=rf"config.model.{part}.field is 'cube': there are mlp, (grid|planar)"):
        build(config.model[part], config.compat)
