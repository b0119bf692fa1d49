"""What a workdir keeps of the training video."""

import chex
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import load_dataset
from adnerf_jax.data.person import Person


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


def test_a_folder_without_a_person_is_refused(tmp_path):
    with pytest.raises(UserError, match="no trained person"):
        Person.load(tmp_path)
