"""What a workdir keeps of the training video."""

import chex
import numpy as np
import pytest
import tiny
from toy_code import JawCode

from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import load_dataset
from adnerf_jax.data.person import Person
from adnerf_jax.models.codes import registry


def test_round_trip(tiny_data, tmp_path):
    person = Person.of(load_dataset(tiny_data))
    person.save(tmp_path)
    again = Person.load(tmp_path)
    chex.assert_trees_all_equal(again, person)
    assert (again.camera, again.speech) == (person.camera, "deepspeech")
    assert len(again.transforms) == tiny.TRAIN


def test_a_workdir_is_resumed_with_its_own_data_only(tiny_data, tmp_path):
    person = Person.of(load_dataset(tiny_data))
    person.check_continues(tmp_path)
    person.save(tmp_path)
    person.check_continues(tmp_path)
    audio = person.survey.audio + np.float32(0.01)
    for changed in (
        dict(transforms=person.transforms + np.float32(0.01)),
        dict(survey=person.survey.replace(audio=audio)),
        dict(camera=person.camera.replace(focal=person.camera.focal * 1.1)),
        dict(speech="logmel"),
    ):
        with pytest.raises(UserError, match="dataset has changed"):
            person.replace(**changed).check_continues(tmp_path)


@pytest.fixture(scope="module")
def with_landmarks(tmp_path_factory):
    return tiny.add_landmarks(tiny.make_dataset(tmp_path_factory.mktemp("person") / "data"))


def test_a_person_keeps_the_driven_codes_of_its_head(with_landmarks, tmp_path):
    for codes, kept in ((("audio",), set()), (("audio", "eyes", "expression"), {"eyes"})):
        Person.of(load_dataset(with_landmarks, codes=codes)).save(tmp_path)
        assert Person.load(tmp_path).tracks.keys() == kept


def test_a_registered_code_leaves_the_runs_without_it_alone(with_landmarks, tmp_path, monkeypatch):
    codes = "audio", "eyes"
    Person.of(load_dataset(with_landmarks, codes=codes)).save(tmp_path)
    monkeypatch.setitem(registry.CODES, "jaw", JawCode)
    Person.of(load_dataset(with_landmarks, codes=codes)).check_continues(tmp_path)
    # A run with it is another one's.
    with_jaw = Person.of(load_dataset(with_landmarks, codes=(*codes, "jaw")))
    assert with_jaw.tracks.keys() == {"eyes", "jaw"}
    with pytest.raises(UserError, match="dataset has changed"):
        with_jaw.check_continues(tmp_path)


def test_tracks_of_codes_that_are_gone_are_ignored(with_landmarks, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(registry.CODES, "jaw", JawCode)
        Person.of(load_dataset(with_landmarks, codes=("audio", "eyes", "jaw"))).save(tmp_path)
        assert Person.load(tmp_path).tracks.keys() == {"eyes", "jaw"}
    assert Person.load(tmp_path).tracks.keys() == {"eyes"}
    Person.of(load_dataset(with_landmarks, codes=("audio", "eyes"))).check_continues(tmp_path)


def test_a_folder_without_a_person_is_refused(tmp_path):
    with pytest.raises(UserError, match="no trained person"):
        Person.load(tmp_path)
