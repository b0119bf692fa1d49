"""The configurations: published defaults, variants in every combination, published mistakes one by one."""

import itertools

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.configuration import base as common
from adnerf_jax.data.datasets import SUBJECTS, dataset_of
from adnerf_jax.evaluation.evaluate import evaluate
from adnerf_jax.face.parsing import HEAD, NECK, TORSO
from adnerf_jax.models.build import build_torso
from adnerf_jax.training.train import train
from configs import head, torso

pytestmark = pytest.mark.usefixtures("quick_compilation")

COMBINATIONS = [",".join(names) for count in range(6) for names in itertools.combinations(common.VARIANTS, count)]


def allowed(stage: str, arg: str) -> bool:
    names = set(arg.split(","))
    return not {"fast", "small"} <= names and not (stage == "torso" and "single_nerf" in names)


def test_without_a_variant_every_number_is_the_published_one():
    config, second = head.get_config(), torso.get_config()
    assert (config.family, config.stage, second.stage) == ("paper", "head", "torso")
    for model in (config.model.head, second.model.head, second.model.torso):
        assert (model.width, model.depth, model.skip, model.colour_width, model.colour_depth) == (256, 8, 4, 128, 3)
        assert (model.position_levels, model.direction_levels) == (10, 4)
        assert (model.coarse_samples, model.fine_samples) == (64, 128)
    assert tuple(config.model.head.codes) == ("audio",) and config.model.head.audio_code == 64
    assert second.model.torso.pose_levels == 3
    for one, decay_steps, regions, attention_from in (
        (config, 250_000, {"face": 0.95, "outside": 0.05}, 200_000),
        (second, 750_000, {"frame": 1.0}, 0),
    ):
        assert (one.optim.learning_rate, one.optim.decay, one.optim.decay_steps) == (5e-4, 0.1, decay_steps)
        assert one.optim.attention_multiple == 5.0
        assert (one.train.steps, one.train.rays, one.train.frames_per_step) == (400_000, 2048, 1)
        assert dict(one.train.regions) == regions and one.train.attention_from == attention_from
        assert not one.train.random_background and one.train.audio_components == 29
        assert not any(one.compat.values())
    assert SUBJECTS[config.subject] == (HEAD,) and SUBJECTS[second.subject] == (HEAD, NECK, TORSO)


def test_attention_begins_half_way_in_runs_of_any_length():
    config = head.get_config()
    config.train.steps = 1000
    assert config.train.attention_from == 500
    config.train.attention_from = 7
    assert (config.train.attention_from, config.train.steps) == (7, 1000)


def test_published_mistakes_come_all_together_or_one_at_a_time():
    names = set(head.get_config().compat) - {"reference"}
    assert names == {"torso_angles", "face_rect", "zero_padding", "window_lists", "rough_validation", "dead_density"}
    config = head.get_config()
    config.compat.reference = True
    assert all(config.compat.values())
    for name in names:
        config = head.get_config()
        config.compat[name] = True
        assert [key for key, value in config.compat.items() if value] == [name]
        config = head.get_config()
        config.compat.reference = True
        config.compat[name] = False
        assert [key for key, value in config.compat.items() if not value] == [name]


@pytest.mark.parametrize("stage", ["head", "torso"])
@pytest.mark.parametrize("arg", COMBINATIONS)
def test_variants_combine_in_any_order_or_are_refused_in_one_line(stage, arg):
    orders = list(itertools.permutations(arg.split(",")))
    some = [",".join(order) for order in (orders[0], orders[-1])]
    if not allowed(stage, arg):
        for order in some:
            with pytest.raises(UserError, match="the variant (small|single_nerf)") as caught:
                common.get_config(stage, order)
            assert "\n" not in str(caught.value)
        return
    one, other = (common.get_config(stage, order) for order in some)
    assert one.to_dict() == other.to_dict()
    names = set(arg.split(","))
    assert one.family == ("fast" if "fast" in names else "paper")
    assert ("expression" in one.model.head.codes) == ("expression" in names)
    assert ("audio" in one.model.head.codes) == ("expression" not in names)
    assert one.subject == ("person" if stage == "torso" or "single_nerf" in names else "head")
    assert one.train.steps == (200 if "smoke" in names else common.get_config(stage, arg).train.steps)


def tiny_settings(stage: str, arg: str, data=None) -> ConfigDict:
    """The variants, with a small model and two steps."""
    return tiny.config(stage, data, arg, steps=2, validate_frames=1)


def distinct() -> list[str]:
    """A combination of variants for each that differs once it is small: numbers are all that the others change."""
    found = {}
    for arg in (arg for arg in COMBINATIONS if allowed("head", arg)):
        settings = [tiny_settings(stage, arg).to_dict() for stage in ("head", "torso") if allowed(stage, arg)]
        found.setdefault(repr([{**one, "variants": ()} for one in settings]), arg)
    return list(found.values())


def train_both(root, data, arg: str, evaluated: bool = True) -> list[str]:
    """Trains two steps of each stage that the variants allow, and evaluates it. Returns the stages' names."""
    stages = [stage for stage in ("head", "torso") if allowed(stage, arg)]
    for stage in stages:
        settings = tiny_settings(stage, arg, data)
        settings.head_checkpoint = str(root / "head")
        settings.eval.update(every=2, lpips="", faces=False)
        train(settings, root / stage)
        lines = tiny.lines(root / stage / "metrics.jsonl")
        assert [line["step"] for line in lines] == [1, 2]
        assert np.isfinite([line["loss"] for line in lines]).all()
        if not evaluated:
            continue
        result = evaluate(settings, root / stage)["settings"]
        assert np.isfinite([values["psnr"] for values in result.values()]).all()
        whole = ["full"] if "single_nerf" in arg else ["head_only", "head"]
        assert list(result) == (["head_only", "head", "full"] if stage == "torso" else whole)
    return stages


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset with tracked expressions."""
    return tiny.add_landmarks(tiny.make_dataset(tmp_path_factory.mktemp("expressive") / "dataset"))


@pytest.mark.slow
@pytest.mark.parametrize("arg", [arg for arg in distinct() if arg != "single_nerf"])
def test_every_combination_trains(data, tmp_path, arg):
    assert train_both(tmp_path, data, arg)[0] == "head"


def test_single_nerf_trains_and_is_evaluated_in_full(data, tmp_path):
    assert train_both(tmp_path, data, "single_nerf") == ["head"]


def test_an_expression_code_trains_head_and_torso(data, tmp_path):
    assert train_both(tmp_path, data, "expression", evaluated=False) == ["head", "torso"]


def test_combinations_that_are_trained_differ_in_more_than_numbers():
    codes = {name: [] for name in ("paper", "fast")}
    for arg in distinct():
        one = tiny_settings("head", arg)
        codes[one.family].append((one.subject, "expression" in one.model.head.codes))
    every = list(itertools.product(("head", "person"), (False, True)))
    assert {family: sorted(found) for family, found in codes.items()} == {"paper": every, "fast": every}


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_a_dataset_without_tracked_expressions_is_refused(tiny_data, tmp_path, stage):
    settings = tiny.config(stage, tiny_data, "smoke,expression")
    with pytest.raises(UserError, match=r"has no tracked expressions \(landmarks.npz is missing or empty\)"):
        train(settings, tmp_path / stage)
    assert not (tmp_path / stage).exists()


def test_published_mistakes_reach_model_and_dataset(tiny_data):
    plain, swapped = tiny.config("torso", tiny_data, "smoke"), tiny.config("torso", tiny_data, "smoke")
    swapped.compat.torso_angles = True
    built = [build_torso(c.model.torso, c.compat).swapped_angles for c in (plain, swapped)]
    assert built == [False, True]
    padded, lists = tiny.config("head", tiny_data), tiny.config("head", tiny_data)
    padded.compat.zero_padding, lists.compat.window_lists = True, True
    rows = [dataset_of(c).neighbours for c in (tiny.config("head", tiny_data), padded, lists)]
    assert (rows[0] >= 0).all() and (rows[1] == -1).any() and (rows[2][6] != rows[0][6]).any()
