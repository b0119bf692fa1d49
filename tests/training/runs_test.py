"""Folders of runs: their configuration, and whether a run can be resumed there."""

import pathlib
import re

import pytest
import tiny
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_json
from adnerf_jax.configuration.flatten import flatten
from adnerf_jax.training.runs import apply_overrides, check_continues, load_config, run_folder, save_config


def test_default_folders():
    assert run_folder(()) == pathlib.Path("runs/paper")
    assert run_folder(("fast", "smoke")) == pathlib.Path("runs/fast_smoke")


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": (2, 3)}, "e": None}) == {"a.b.c": 1, "a.d": [2, 3], "e": None}


def test_a_saved_configuration_comes_back(tmp_path):
    config = tiny.config("torso")
    save_config(config, tmp_path)
    loaded = load_config(tmp_path)
    assert flatten(loaded.to_dict()) == flatten(config.to_dict())
    with pytest.raises(AttributeError):
        loaded.train.no_such_field = 1
    check_continues(config, tmp_path)  # the file's own settings are no difference


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"not the folder of a trained stage \(config.json is missing\)"):
        load_config(tmp_path)
    check_continues(tiny.config("head"), tmp_path)


def test_checkpoints_without_settings_are_not_resumed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"holds checkpoints but not their settings \(config.json is missing\)"):
        check_continues(tiny.config("head"), tmp_path)


def test_resumable_settings_may_change(tmp_path):
    save_config(tiny.config("head"), tmp_path)
    longer = tiny.config("head", steps=7, log_every=2, validate_every=3, checkpoint_every=5, keep_checkpoints=1)
    longer.render.audio = "speech.wav"
    longer.eval.every = 5
    check_continues(longer, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("train.rays", 256), ("optim.decay_steps", 3), ("model.head.width", 8)],
)
def test_other_settings_are_named(tmp_path, name, value):
    config = tiny.config("head")
    save_config(config, tmp_path)
    with config.unlocked():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=rf"other settings: {name} \(there .*, here {value}\)"):
        check_continues(config, tmp_path)


def test_data_and_head_may_be_moved(tmp_path):
    """Their contents are compared with what the checkpoint was made from."""
    config = tiny.config("torso")
    save_config(config, tmp_path)
    with config.unlocked():
        config.update({"data": "elsewhere", "head_checkpoint": "moved/head"})
    check_continues(config, tmp_path)


def test_the_refusal_lists_the_options_to_resume_with(tmp_path):
    there = tiny.config("head")
    save_config(there, tmp_path)
    here = tiny.config("head")
    with here.unlocked():
        here.update_from_flattened_dict({"model.head.width": 8, "train.attention_from": 7, "seed": 5})
    with pytest.raises(UserError, match="to resume it, add (.*); otherwise use another") as refusal:
        check_continues(here, tmp_path)
    options = re.search("add (.*); otherwise", str(refusal.value))[1].split()
    with here.unlocked():
        here.update_from_flattened_dict(
            {key: int(value) for key, value in (option.removeprefix("--config.").split("=") for option in options)}
        )
    check_continues(here, tmp_path)


def test_no_option_is_offered_where_none_can_be_written(tmp_path):
    config = tiny.config("head")
    save_config(config, tmp_path)
    with config.unlocked():
        config.model.head.codes = ("audio",)
        config.seed = 5
    with pytest.raises(UserError, match=r"other settings: [^;]*; [^;]*; use another"):
        check_continues(config, tmp_path)


def test_the_command_line_overrides_the_saved_configuration():
    saved = ConfigDict(tiny.config("head").to_dict())
    merged = apply_overrides(saved, tiny.config("head"), {"render.audio": "a.wav", "render.start": 1.5}, "w")
    assert (merged.render.audio, merged.render.start, merged.train.rays) == ("a.wav", 1.5, saved.train.rays)
    assert saved.render.audio is None


def test_an_override_of_a_setting_that_the_run_has_not():
    """The configuration given is the paper's, which has more settings than the run's."""
    saved = tiny.config("head")
    for name in ("model.head.depth", "model.head", "eval.bogus"):
        with pytest.raises(UserError, match=f"config.{name} is (no setting of the run in w, a head of fast|.*a group)"):
            apply_overrides(saved, tiny.config("head", variants=""), {name: 3}, "w")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("render.shard", 3.7, "text"),
        ("train.rays", True, "a whole number"),
        ("render.start", "0", "a number"),
        ("model.head.codes", ["audio", 1], "a list of names"),
        ("model.head.grid", [], "a group of settings"),
        ("train.regions.head", None, "a number"),
        ("render.clamp", 1, "true or false"),
    ],
)
def test_types_are_checked(tmp_path, name, value, wanted):
    config = tiny.config("head")
    message = rf"{name} is .*, but it must be {wanted}: correct it"
    with pytest.raises(UserError, match=f"^config.{message}"):
        apply_overrides(config, config, {name: value}, "w")
    saved = config.to_dict()
    *groups, last = name.split(".")
    holder = saved
    for group in groups:
        holder = holder[group]
    holder[last] = value
    write_json(tmp_path / "config.json", saved)
    with pytest.raises(UserError, match=f"config.json: {message}"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["seed", "data", "model.head.grid.levels", "train.regions", "train.steps", "compat"])
def test_a_file_that_lacks_a_setting_is_refused(tmp_path, name):
    saved = tiny.config("head").to_dict()
    *groups, last = name.split(".")
    holder = saved
    for group in groups:
        holder = holder[group]
    del holder[last]
    write_json(tmp_path / "config.json", saved)
    with pytest.raises(UserError, match=f"config.json lacks {name}.*: it is damaged, or another version's"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["render.label", "eval.lpips", "train.log_every", "reference"])
def test_a_person_trained_before_a_resumable_setting_existed_can_be_used(tmp_path, name):
    saved = tiny.config("head", steps=7).to_dict()
    *groups, last = name.split(".")
    holder = saved
    for group in groups:
        holder = holder[group]
    del holder[last]
    write_json(tmp_path / "config.json", saved)
    config = load_config(tmp_path)
    assert flatten(config.to_dict()).keys() == flatten(tiny.config("head").to_dict()).keys()
    assert (config.train.steps, config.family, config.render.label) == (7, "fast", True)


@pytest.mark.parametrize("name", ["colour", "render.colour", "model.torso.width"])
def test_a_file_with_an_unknown_setting_is_refused(tmp_path, name):
    saved = tiny.config("head").to_dict()
    *groups, last = name.split(".")
    holder = saved
    for group in groups:
        holder = holder.setdefault(group, {})
    holder[last] = 1
    write_json(tmp_path / "config.json", saved)
    with pytest.raises(UserError, match=f"config.json has {name}, which is no setting"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"stage": "head"}, {"stage": ["head"], "family": "fast"}])
def test_a_file_that_is_no_configuration(tmp_path, content):
    write_json(tmp_path / "config.json", content)
    with pytest.raises(UserError, match="config.json is no configuration of a stage"):
        load_config(tmp_path)


def test_published_mistakes_are_overridden_all_together_and_then_one_by_one():
    saved, given = ConfigDict(tiny.config("head").to_dict()), tiny.config("head")  # what is saved has no references
    merged = apply_overrides(saved, given, {"compat.reference": True}, "w")
    assert all(merged.compat.values())
    merged = apply_overrides(saved, given, {"compat.reference": True, "compat.face_rect": False}, "w")
    assert [name for name, value in merged.compat.items() if not value] == ["face_rect"]
    assert not any(apply_overrides(saved, given, {}, "w").compat.values())


def test_another_stage_or_family_is_refused():
    saved = ConfigDict(tiny.config("head").to_dict())
    with pytest.raises(UserError, match="holds a head stage: use config=configs/head.py"):
        apply_overrides(saved, tiny.config("torso"), {}, "w")
    with saved.unlocked():
        saved.family = "paper"
    with pytest.raises(UserError, match="trained in the paper family, but .* of the family fast"):
        apply_overrides(saved, tiny.config("head"), {}, "w")


def test_a_saved_configuration_does_not_say_where_to_write(tmp_path):
    config = tiny.config("head")
    config.render.out = str(tmp_path / "precious.mp4")
    save_config(config, tmp_path)
    saved = load_config(tmp_path)
    assert saved.render.out is None
    given = apply_overrides(saved, config, {"render.out": "mine.mp4"}, tmp_path)
    assert given.render.out == "mine.mp4"


@pytest.mark.parametrize("name", ["checkpoints", "damaged", "validation", "checkpoints/20"])
def test_a_training_writes_through_no_link(tmp_path, name):
    workdir, elsewhere = tmp_path / "head", tmp_path / "elsewhere"
    (workdir / name).parent.mkdir(parents=True)
    elsewhere.mkdir()
    save_config(tiny.config("head"), workdir)
    (workdir / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"{name} is a link to .*elsewhere"):
        check_continues(tiny.config("head"), workdir)
