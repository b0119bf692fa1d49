"""Settings out of range are refused with their name and what they may be."""

import jax
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.configuration import base as common
from adnerf_jax.configuration.checks import check_model, check_settings, check_values
from adnerf_jax.configuration.declaration import flat
from adnerf_jax.configuration.settings.model import MODEL
from adnerf_jax.data.datasets import load_dataset, load_frames
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.training.stages import example_batch, head_shapes, make_stage


def changed(setting, variants="smoke", stage="head"):
    config = tiny.config(stage, variants=variants)
    with config.unlocked():
        config.update_from_flattened_dict(setting)
    return config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"seed": -1}, "config.seed is -1: it must be at least 0"),
        ({"train.steps": 0}, "config.train.steps is 0: it must be at least 1"),
        ({"train.attention_from": 2**31}, "config.train.attention_from is 2147483648: it must be at most 2147483647"),
        ({"train.audio_components": 0}, "config.train.audio_components is 0"),
        ({"train.sampler_weight": float("nan")}, "config.train.sampler_weight is nan: it must be at least 0"),
        ({"train.on_nan": "ignore"}, "config.train.on_nan is 'ignore': it must be stop or rollback"),
        ({"train.rays": 2, "train.frames_per_step": 3}, "2 rays a step are too few for 3 frames"),
        (
            {"train.regions": {"face": -0.5, "outside": 1.0}},
            "config.train.regions is .*: shares must be finite, ",
        ),
        ({"train.regions": {"face": 0.0, "outside": 0.0}}, "config.train.regions is .* not all 0"),
        ({"optim.learning_rate": float("inf")}, "config.optim.learning_rate is inf: it must be at most 1000000"),
        ({"optim.decay_steps": 0}, "config.optim.decay_steps is 0"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        check_settings(changed(setting))


@pytest.mark.parametrize(
    ("variants", "setting", "message"),
    [
        ("smoke", {"stage": "body"}, "config.stage is 'body': it must be head or torso"),
        ("smoke", {"stage": "torso"}, "config.stage is 'torso', which has no model here: use configs/torso.py"),
        ("smoke", {"family": "slow"}, "config.family is 'slow': it must be paper or fast"),
        ("smoke", {"subject": "hair"}, "config.subject is 'hair': it must be head or person"),
        ("smoke", {"family": "fast"}, "config.model.head.field is 'mlp', but the family fast has 'grid'"),
        ("fast", {"model.head.field": "mlp"}, "config.model.head.field is 'mlp', but the family fast has 'grid'"),
        ("smoke", {"render.seed": -1}, "config.render.seed is -1: it must be at least 0"),
        ("smoke", {"render.chunk": 0}, "config.render.chunk is 0"),
        ("smoke", {"render.occupancy": -3}, "config.render.occupancy is -3"),
        ("smoke", {"model.head.coarse_samples": 2}, "config.model.head.coarse_samples is 2: it must be at least 3"),
        ("smoke", {"model.head.fine_samples": 0}, "config.model.head.fine_samples is 0"),
        ("smoke", {"model.head.position_levels": 10**6}, "position_levels is 1000000: it must be at most 24"),
        ("smoke", {"model.head.dtype": "float9"}, "head.dtype is 'float9': it must be float32 or bfloat16"),
        ("smoke", {"model.head.audio_init": "foo"}, "head.audio_init is 'foo': it must be uniform or lecun"),
        ("smoke", {"model.head.codes": ()}, "codes is .*: name one or more of audio, lips, eyes, expression"),
        ("smoke", {"model.head.codes": ("voice",)}, "config.model.head.codes is .*voice"),
        ("smoke", {"model.head.codes": ("audio", "audio")}, "codes is .*each once"),
        ("smoke", {"model.head.codes": ("audio", ["x"])}, "codes is .*name one or more"),
        (
            "fast",
            {"model.head.shape_codes": ("expression",)},
            "shape_codes is .*: name one or more of audio, lips, eye",
        ),
        ("fast", {"model.head.grid.levels": 0}, "config.model.head.grid.levels is 0: it must be at least 1"),
        ("fast", {"model.head.shape_grid.coarsest": 0}, "config.model.head.shape_grid.coarsest is 0"),
        ("fast", {"model.head.grid.table_size": 2**40}, "config.model.head.grid.table_size is"),
    ],
)
def test_settings_without_a_model_are_refused(variants, setting, message):
    with pytest.raises(UserError, match=message):
        check_model(changed(setting, variants))


def test_settings_of_the_torso_are_checked_too():
    with pytest.raises(UserError, match="config.model.torso.reach is 2.0: it must be at most 1"):
        check_model(changed({"model.torso.reach": 2.0}, "fast", "torso"))


def test_values_of_some_groups_are_checked():
    config = changed({"train.steps": 0, "compare.resamples": 10**6})
    check_values(config, "render", "seed")
    with pytest.raises(UserError, match="config.compare.resamples is 1000000: it must be at most 100000"):
        check_values(config, "compare", "seed")
    with pytest.raises(UserError, match="config.train.steps is 0"):
        check_values(config, "train.steps")
    check_values(config, "train.ste")  # no group, no setting


@pytest.mark.parametrize("stage", ["head", "torso"])
@pytest.mark.parametrize(
    "variants", ["", "fast", "small", "smoke", "fast,smoke", "small,expression", "fast,expression"]
)
def test_every_variant_may_be_trained(stage, variants):
    check_settings(common.get_config(stage, variants))


@pytest.mark.parametrize("variants", ["single_nerf", "fast,single_nerf"])
def test_a_single_nerf_may_be_trained(variants):
    check_settings(common.get_config("head", variants))


@pytest.mark.parametrize("end", ["least", "most"])
@pytest.mark.parametrize("variants", ["smoke", "fast,smoke"])
def test_models_can_be_made_at_both_ends_of_every_range(variants, end, tiny_data):
    config = tiny.config("torso", variants=variants)
    settings = flat(MODEL[config.family], "model.")
    ends = {name: one.range[end == "most"] for name, one in settings.items() if one.range}
    assert len(ends) > 15
    config.update_from_flattened_dict(ends)
    check_model(config)
    dataset = load_dataset(tiny_data)
    stage = make_stage(config, dataset.camera)
    frames = load_frames(dataset, dataset.train)
    scene = make_scene(dataset, frames, make_codes(config.model.head).members, config.train.audio_components)
    example = example_batch(1, 1, dataset.windows.shape[1:])
    head = head_shapes(stage, dataset.camera, dataset.windows.shape[1:], scene)
    torso = jax.eval_shape(stage.init, jax.random.key(0), example, scene)
    assert all(leaf.size for leaf in jax.tree.leaves((head, torso)))
