"""A run that was interrupted ends with the same numbers, bit for bit, as one that was not."""

import shutil

import chex
import jax
import numpy as np
import pytest
import tiny
from toy_code import JawCode

from adnerf_jax.common.errors import UserError
from adnerf_jax.data import tracks
from adnerf_jax.data.datasets import dataset_of
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.data.person import Person
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.models.codes import registry
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.initialise import initial_state
from adnerf_jax.training.stages import make_stage
from adnerf_jax.training.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")


def state_of(config, workdir):
    """Everything in the newest checkpoint, the optimizer's moments included."""
    dataset = dataset_of(config)
    frames = cached_frames(dataset, dataset.train)
    stage = make_stage(config, dataset.camera)
    return jax.device_get(initial_state(config, stage, dataset, *frames, sharding.make_mesh(), workdir)[0])


@pytest.mark.parametrize(("family", "kept", "last"), [("trained", 30, 40), ("trained_paper", 18, 20)])
@pytest.mark.parametrize("stage", ["head", "torso"])
def test_a_run_killed_after_its_last_checkpoint_ends_the_same(request, tmp_path, stage, family, kept, last):
    trained = request.getfixturevalue(family)
    straight, broken = getattr(trained, stage), tmp_path / "broken"
    config = trained.configs[stage == "torso"]
    # As a kill leaves it: the last checkpoint but one, the log of one more step and a part of the next line.
    shutil.copytree(straight, broken, ignore=shutil.ignore_patterns(str(last), "*.tfevents.*"))
    reports = (straight / "metrics.jsonl").read_text().splitlines(keepends=True)
    (broken / "metrics.jsonl").write_text("".join(reports[: kept + 1]) + reports[kept + 1][:20])
    assert checkpoints.latest_step(broken) == kept

    train(config, broken)
    assert checkpoints.latest_step(broken) == checkpoints.latest_step(straight) == last
    chex.assert_trees_all_equal(state_of(config, broken), state_of(config, straight))
    timeless = [
        [{key: value for key, value in line.items() if key != "rays_per_s"} for line in tiny.lines(w / "metrics.jsonl")]
        for w in (broken, straight)
    ]
    assert timeless[0] == timeless[1]


def test_stages_outlive_the_registration_of_a_code(trained, tmp_path, monkeypatch):
    """A code and a measured track that a run does not use: it is loaded, continued, and its head takes a torso."""
    head, torso = trained.configs
    before = [state_of(config, workdir) for config, workdir in ((head, trained.head), (torso, trained.torso))]
    monkeypatch.setitem(registry.CODES, "jaw", JawCode)
    monkeypatch.setitem(tracks.READERS, "gaze", lambda clip: np.ones((clip.frames, 3), np.float32))
    for config, workdir, state in zip((head, torso), (trained.head, trained.torso), before, strict=True):
        Person.of(dataset_of(config)).check_continues(workdir)
        chex.assert_trees_all_equal(state_of(config, workdir), state)  # checks the digest of the data
    assert TrainedStage.load(trained.torso, torso).person.tracks.keys() == {"eyes"}
    begun = state_of(torso, tmp_path)
    assert begun.step == 0
    chex.assert_trees_all_equal(begun.frozen, before[0].params)


def test_a_torso_is_not_resumed_with_another_head(trained, tmp_path):
    other = tmp_path / "head"
    shutil.copytree(trained.head, other, ignore=shutil.ignore_patterns("40", "*.tfevents.*"))
    config = trained.configs[1].copy_and_resolve_references()
    config.head_checkpoint = str(other)
    with pytest.raises(UserError, match="trained further after this torso was begun: delete .*torso"):
        state_of(config, trained.torso)
