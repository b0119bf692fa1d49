"""A code that is only in the registry: it is fitted, trained, saved, driven and rendered."""

import pathlib

import numpy as np
import pytest
import tiny
from toy_code import JawCode

from adnerf_jax.common.errors import UserError
from adnerf_jax.configuration.checks import check_settings
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import dataset_of
from adnerf_jax.inference.avatar import Avatar
from adnerf_jax.models.codes import registry
from adnerf_jax.models.codes.base import Code
from adnerf_jax.training.train import check_codes, train

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def jaw(monkeypatch):
    monkeypatch.setitem(registry.CODES, "jaw", JawCode)


@pytest.fixture
def settings(jaw, tmp_path):
    data = tiny.add_landmarks(tiny.make_dataset(tmp_path / "data", channels=80, speech="logmel"))
    config = tiny.config("head", data, steps=2)
    config.model.head.update(codes=("audio", "jaw"), shape_codes=("jaw",))
    return config


@pytest.mark.slow
def test_a_new_code_is_trained_and_rendered(settings, tmp_path):
    workdir = tmp_path / "head"
    train(settings, workdir)
    avatar = Avatar.load(workdir)
    assert avatar.stage.scene.codes.keys() == {"audio", "jaw"}
    assert avatar.stage.person.tracks.keys() == {"jaw"}
    assert avatar.stage.person.tracks["jaw"].shape == (tiny.TRAIN, 2)
    sound = np.zeros(6400, np.float32)
    looks: list[dict[str, float]] = [{"jaw": 0}, {"jaw": 1}, {}, {"jaw": 0.5}]
    shut, wide, default, half = (next(avatar.render(sound, **look)) for look in looks)
    assert shut.shape == (tiny.SIZE, tiny.SIZE, 3) and (shut != wide).any()
    np.testing.assert_array_equal(default, half)
    as_filmed = list(avatar.render(sound, jaw="pose"))
    assert len(as_filmed) == 10
    with pytest.raises(UserError, match="jaw from 2 to 2: 0 is shut, 1 is wide open"):
        avatar.render(sound, jaw=2)
    with pytest.raises(UserError, match="jaw: there is no 'chew'; take pose, a number"):
        avatar.render(sound, jaw="chew")
    with pytest.raises(TypeError, match="there is no argument 'gaze'"):
        avatar.render(sound, gaze=0)


def test_settings_know_a_new_code(settings):
    check_settings(settings)
    settings.model.head.codes = ("audio", "gaze")
    with pytest.raises(UserError, match="gaze"):
        check_settings(settings)


class PlainCode(Code):
    """A code that leaves everything to the base class but what it must define."""

    name = "plain"
    track_width = 2

    def fit(self, recording):
        return {}

    def encode(self, conditions, constants, smooth):
        return conditions.tracks["plain"]


def test_a_dataset_without_its_measurement_is_refused(settings, monkeypatch):
    check_codes(settings, dataset_of(settings))
    (pathlib.Path(settings.data) / schema.LANDMARKS).unlink()
    with pytest.raises(UserError, match="has no measured jaw, which the code 'jaw' of config.model.head.codes"):
        check_codes(settings, dataset_of(settings))
    monkeypatch.setitem(registry.CODES, "plain", PlainCode)
    settings.model.head.codes = ("audio", "plain")
    with pytest.raises(UserError, match="has no measured plain"):
        check_codes(settings, dataset_of(settings))


def test_codes_are_registered_by_their_own_names():
    assert all(name == code.name for name, code in registry.CODES.items())
