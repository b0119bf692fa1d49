"""Held-out frames to metrics."""

import csv
import json

import cv2
import numpy as np
import pytest
import tiny

from adnerf_jax.datasets import SUBJECTS, load_dataset, load_frames
from adnerf_jax.errors import UserError
from adnerf_jax.evaluate import evaluate, measure, settings
from adnerf_jax.metrics import psnr
from adnerf_jax.rendering import Layers
from adnerf_jax.runs import load_config
from adnerf_jax.trained import TrainedStage

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_settings_paste_the_truth_where_the_render_is_not_judged():
    rng = np.random.default_rng(0)
    background, truth, head_truth = rng.random((3, 4, 5, 3))
    is_head = rng.random((4, 5)) < 0.5
    opacity, torso_opacity = rng.random((2, 4, 5))
    head, torso = rng.random((2, 4, 5, 3))
    layers = Layers(head * opacity[..., None], opacity, opacity, torso * torso_opacity[..., None], torso_opacity)
    pairs = settings(tiny.config("torso"), layers, background, truth, head_truth, is_head)
    assert list(pairs) == ["head_only", "head", "full"]
    rendered = opacity[..., None] * head + (1 - opacity[..., None]) * background
    np.testing.assert_allclose(pairs["head_only"][0], rendered)
    assert pairs["head_only"][1] is head_truth
    np.testing.assert_allclose(pairs["head"][0][is_head], rendered[is_head])
    np.testing.assert_array_equal(pairs["head"][0][~is_head], truth[~is_head])
    whole = torso_opacity[..., None] * torso + (1 - torso_opacity[..., None]) * rendered
    np.testing.assert_allclose(pairs["full"][0], whole)
    assert list(settings(tiny.config("head"), layers, background, truth, head_truth, is_head)) == ["head_only", "head"]


def test_a_render_is_measured_as_the_picture_it_would_be_written_as():
    truth = np.random.default_rng(1).integers(0, 256, (16, 20, 3)) / 255.0
    same = measure(truth + 0.4 / 255, truth, np.array([2, 3, 5, 6]))
    assert same == {"psnr": 100.0, "psnr_face": 100.0, "ssim": pytest.approx(1.0)}
    wrong = truth.copy()
    wrong[3:9, 2:7] = 1.0 - truth[3:9, 2:7]
    values = measure(wrong, truth, np.array([2, 3, 5, 6]))
    # All the error lies in the face rectangle, 30 of 320 pixels.
    assert values["psnr"] - values["psnr_face"] == pytest.approx(10 * np.log10(320 / 30))


def test_what_an_evaluation_writes(trained):
    config = load_config(trained.torso)
    result = evaluate(config, trained.torso)
    folder = trained.torso / "eval"
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert list(result["settings"]) == ["head_only", "head", "full"]
    assert result["protocol"]["step"] == 40 and result["protocol"]["family"] == "fast"
    rows = list(csv.DictReader((folder / "frames.csv").open()))
    assert [(row["frame"], row["setting"]) for row in rows] == [
        (frame, setting) for frame in ("11", "12") for setting in ("head_only", "head", "full")
    ]
    for setting, values in result["settings"].items():
        for key in ("psnr", "psnr_face", "ssim"):
            mean = np.mean([float(row[key]) for row in rows if row["setting"] == setting])
            assert values[key] == pytest.approx(mean, abs=1e-4)
    assert json.loads((folder / "timing.json").read_text())["seconds_per_frame"] > 0
    # Two frames: truth, then each setting.
    assert cv2.imread(str(folder / "contact.png")).shape == (2 * tiny.SIZE, 4 * tiny.SIZE, 3)
    # Pasting the truth around the head cannot be worse than rendering everything.
    assert result["settings"]["head"]["psnr"] > result["settings"]["full"]["psnr"]


def test_the_numbers_are_those_of_the_renders(trained):
    config = load_config(trained.head)
    config.eval.every = 2
    result = evaluate(config, trained.head)
    stage, dataset = TrainedStage.load(trained.head, config), load_dataset(trained.data)
    split = dataset.val.take(slice(0, 1))
    layers = stage.layers(split.transforms[0], dataset.conditions(split.aud_id))
    image = np.asarray(layers.head_over(dataset.background / np.float32(255)))
    truth = load_frames(dataset, split).showing(SUBJECTS["head"], 0, dataset.background) / 255.0
    expected = psnr(np.round(np.clip(image, 0, 1) * 255) / 255, truth)
    assert list(result["settings"]) == ["head_only", "head"]
    assert result["settings"]["head_only"]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_a_clip_without_held_out_frames(trained, tmp_path):
    data = tiny.make_dataset(tmp_path / "dataset", channels=80)
    index = json.loads((data / "transforms_val.json").read_text())
    (data / "transforms_val.json").write_text(json.dumps(index | {"frames": []}))
    config = load_config(trained.head)
    config.data = str(data)
    with pytest.raises(UserError, match="no held-out frames to evaluate on"):
        evaluate(config, trained.head)


def test_a_dataset_of_another_camera_is_refused(trained, tmp_path):
    data = tiny.make_dataset(tmp_path / "dataset", channels=80)
    for name in ("train", "val"):
        path = data / f"transforms_{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"focal_len": 99.0}))
    config = load_config(trained.head)
    config.data = str(data)
    with pytest.raises(UserError, match="filmed by another camera"):
        evaluate(config, trained.head)
