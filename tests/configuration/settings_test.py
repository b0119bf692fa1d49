"""Declarations of settings: complete, without JAX, and the same as the choices of other rooms and the page."""

import pathlib
import subprocess
import sys

import pytest

from adnerf_jax.configuration import base, quickstart
from adnerf_jax.configuration.declaration import ByStage, Derived, Group, Setting, build, flat, resumable, setting_at
from adnerf_jax.configuration.flatten import flatten
from adnerf_jax.configuration.page import page
from adnerf_jax.configuration.settings import FAMILIES, STAGES, declarations, declarations_of
from adnerf_jax.configuration.settings.quickstart import QUICKSTART
from adnerf_jax.configuration.settings.rendering import DRIVEN
from adnerf_jax.evaluation.protocol import TRUTH_SETTINGS
from adnerf_jax.models.codes.registry import driven_codes
from adnerf_jax.preprocessing.steps import PARSERS

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_configuration_has_exactly_the_declared_settings(stage, family):
    config = base.get_config(stage, "" if family == "paper" else family)
    settings = flat(declarations(stage, family))
    assert declarations_of(config) == declarations(stage, family)
    values = flatten(config.to_dict())
    assert {name if name in settings else name.rpartition(".")[0] for name in values} == settings.keys()
    for name, value in values.items():
        setting = setting_at(name, settings)
        assert setting is not None and (setting.kind is dict or setting.accepts(value)), name


@pytest.mark.parametrize("group", [*(declarations("torso", family) for family in FAMILIES), QUICKSTART])
def test_every_setting_is_described_and_its_default_is_allowed(group):
    for name, setting in flat(group).items():
        assert setting.about.endswith("."), name
        for stage in STAGES:
            default = setting.default_of(stage)
            if setting.range is not None and not isinstance(default, Derived):
                assert setting.range[0] <= default <= setting.range[1], name
            if setting.known_choices() and setting.kind is str and default is not None:
                assert default in setting.known_choices(), name


def test_a_new_setting_is_one_declaration():
    group: Group = {
        "steps": Setting(100, "Steps.", range=(1, 1000)),
        "sub": resumable({"half": Setting(ByStage(Derived("steps", 2), 7), "Half of them.", kind=int)}),
        "shares": Setting({"a": 0.5}, "Shares."),
        "file": Setting(None, "A file.", kind=str),
    }
    head, torso = build(group, "head"), build(group, "torso")
    assert (head.sub.half, torso.sub.half, head.shares.a, head.file) == (50, 7, 0.5, None)
    head.steps = 8
    head.file = "x"
    assert head.sub.half == 4
    with pytest.raises(TypeError):
        torso.file = 3
    assert flat(group)["sub.half"].resumable and not flat(group)["steps"].resumable


def test_choices_that_higher_rooms_have_too():
    settings = flat(declarations("head", "paper"))
    assert settings["compare.setting"].choices == TRUTH_SETTINGS
    assert flat(QUICKSTART)["parsing"].choices == tuple(PARSERS)


def test_every_driven_code_has_a_setting_of_rendering():
    assert DRIVEN.keys() == driven_codes().keys()
    for name, code in driven_codes().items():
        assert flat(declarations("head", "fast"))[f"render.{name}"].default == code.default


def test_the_page_is_current():
    assert (ROOT / "docs/configuration.md").read_text() == page(), (
        "write it again: python -m adnerf_jax.configuration > docs/configuration.md"
    )


def test_the_quickstart_holds_the_settings_of_both_stages():
    config = quickstart.get_config("smoke")
    assert config.head.to_dict() == base.get_config("head", "fast,smoke").to_dict()
    assert config.torso.to_dict() == base.get_config("torso", "fast,smoke").to_dict()


def test_configurations_are_read_without_jax():
    code = (
        "import sys; from adnerf_jax.configuration import head, torso, quickstart; import adnerf_jax.training.runs;"
        "[one.get_config('smoke') for one in (head, torso, quickstart)]; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
