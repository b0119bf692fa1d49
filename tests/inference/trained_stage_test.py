"""A trained stage, loaded for rendering."""

import jax
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import load_dataset
from adnerf_jax.data.person import survey_rows
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.nerf.cameras import pixel_grid, rays_through
from adnerf_jax.nerf.occupancy import inside
from adnerf_jax.training.runs import load_config
from adnerf_jax.training.stages import make_stage

pytestmark = pytest.mark.usefixtures("quick_compilation")


def loaded(workdir, **render) -> TrainedStage:
    config = load_config(workdir)
    config.render.update(render)
    return TrainedStage.load(workdir, config)


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_rendering_with_an_occupancy_grid_changes_no_pixel_visibly(trained_paper, stage):
    workdir, dataset = getattr(trained_paper, stage), load_dataset(trained_paper.data)
    with_grid, without = loaded(workdir, occupancy=16), loaded(workdir, occupancy=0)
    assert without.occupancies == (None, None)
    assert [grid is not None for grid in with_grid.occupancies] == [True, stage == "torso"]
    for grid in with_grid.occupancies[: 1 + (stage == "torso")]:
        assert grid.cells.shape == (2, 16**3)
    for i in (0, 5):
        split = dataset.train.take(slice(i, i + 1))
        one, other = (
            jax.device_get(s.layers(split.transforms[0], dataset.conditions(split.aud_id)))
            for s in (with_grid, without)
        )
        assert np.abs(one.person_over(dataset.background / 255) - other.person_over(dataset.background / 255)).max() < (
            1 / 255
        )


def test_the_occupancy_grid_contains_every_dense_sample_of_the_training_frames(trained_paper):
    stage = loaded(trained_paper.head, occupancy=16)
    dataset = load_dataset(trained_paper.data)
    built = make_stage(load_config(trained_paper.head), dataset.camera)
    params, scene = {"params": stage._head}, stage.scene
    t = np.linspace(scene.near, scene.far, 24)[:, None, None]

    @jax.jit
    def dense_and_occupied(transform, conditions):
        rays = rays_through(pixel_grid(tiny.SIZE, tiny.SIZE)[::7], transform, dataset.camera)
        points = (rays.origins[None] + t * rays.directions[None]).reshape(-1, 3)
        code = built.head.code(built.head.apply(params, conditions, scene, method="codes"))[0]
        raw = built.head.apply(params, points, code, method="densities")
        return raw > 0.2, jax.numpy.stack([inside(stage.occupancies[0], level, points) for level in (0, 1)])

    for row in survey_rows(tiny.TRAIN)[[0, 4, 9]]:
        split = dataset.train.take(slice(row, row + 1))
        dense, occupied = dense_and_occupied(split.transforms[0], dataset.conditions(split.aud_id))
        assert dense.any() and not np.any(dense & ~occupied)


def test_models_with_a_proposal_network_are_not_surveyed(trained):
    assert loaded(trained.torso, occupancy=16).occupancies == (None, None)


def test_a_folder_that_no_training_wrote(trained, tmp_path):
    with pytest.raises(UserError, match="holds no trained person"):
        TrainedStage.load(tmp_path, load_config(trained.head))


def test_a_checkpoint_of_another_model_than_the_configuration_is_refused(trained):
    for stage, part, where in (("head", "head", "params"), ("torso", "torso", "params"), ("torso", "head", "frozen")):
        config = load_config(getattr(trained, stage))
        config.model[part].width *= 2
        with pytest.raises(UserError, match=rf"checkpoint of a trained stage .* another model .*: {where}/\S+ is \("):
            TrainedStage.load(getattr(trained, stage), config)
