"""A code that is only in the registry: it is fitted, trained, saved, driven and rendered."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.configuration.checks import check_settings
from adnerf_jax.inference.avatar import Avatar
from adnerf_jax.models.codes import registry
from adnerf_jax.models.codes.base import Constants, Recording
from adnerf_jax.models.codes.driven import DrivenCode
from adnerf_jax.training.train import train


class JawCode(DrivenCode):
    """How far two of the blendshapes are raised, through one trained layer.

    Constants: `largest` [2].
    """

    name: ClassVar[str] = "jaw"
    track_width: ClassVar[int] = 2
    default: ClassVar[Any] = 0.5
    controls: ClassVar[tuple[str, ...]] = ("jaw",)
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    meaning: ClassVar[str] = "0 is shut, 1 is wide open"
    neutral: ClassVar[tuple[float, ...]] = (0.0,)

    @classmethod
    def raw_input(cls, tracks):
        return tracks["expression"][:, 24:26]

    @classmethod
    def fit(cls, recording: Recording) -> Constants:
        return {"largest": cls.raw_input(recording.tracks).max(0)}

    def encode(self, conditions, constants, smooth):
        return nn.Dense(3, name=self.name)(conditions.tracks["jaw"] / constants["largest"][None])

    @classmethod
    def control_map(cls, measured: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda controls: (controls[0] * measured.max(0)).astype(np.float32)


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
    assert avatar.stage.person.tracks.keys() == {"eyes", "jaw"}
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
    with pytest.raises(TypeError, match="unexpected argument 'gaze'"):
        avatar.render(sound, gaze=0)


def test_settings_know_a_new_code(settings):
    check_settings(settings)
    settings.model.head.codes = ("audio", "gaze")
    with pytest.raises(UserError, match="gaze"):
        check_settings(settings)
