"""Evaluations of small trained stages: the files, the metrics, shards and other speech."""

import base64
import csv
import hashlib
import json
import shutil

import av
import cv2
import jax
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import SUBJECTS, load_dataset, load_frames
from adnerf_jax.evaluation.evaluate import evaluate, evaluation_job
from adnerf_jax.evaluation.held_out import (
    HeldOutFrames,
    composite_renders,
    describe_inputs,
    describe_smoothing,
    render_names,
    score_pairs,
    tracked_codes_of,
)
from adnerf_jax.evaluation.metrics import psnr
from adnerf_jax.evaluation.openface import LOWER_FACE
from adnerf_jax.evaluation.protocol import describe_protocol, fit_expected_lips
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.inference.avatar import Avatar
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.video import read_frames
from adnerf_jax.rendering.renderer import Layers
from adnerf_jax.training.runs import load_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_pairs_take_the_ground_truth_outside_the_scored_region():
    rng = np.random.default_rng(0)
    background, truth, head_truth = rng.random((3, 4, 5, 3))
    is_head = rng.random((4, 5)) < 0.5
    opacity, torso_opacity = rng.random((2, 4, 5))
    head, torso = rng.random((2, 4, 5, 3))
    layers = Layers(head * opacity[..., None], opacity, opacity, torso * torso_opacity[..., None], torso_opacity)
    names = render_names(tiny.config("torso"))
    images = dict(zip(names, composite_renders(names, layers, background), strict=True))
    pairs = score_pairs(images, truth, head_truth, is_head)
    assert list(pairs) == ["head_only", "head", "full"]
    head_over = opacity[..., None] * head + (1 - opacity[..., None]) * background
    np.testing.assert_allclose(pairs["head_only"][0], head_over)
    assert pairs["head_only"][1] is head_truth
    np.testing.assert_allclose(pairs["head"][0][is_head], head_over[is_head])
    np.testing.assert_array_equal(pairs["head"][0][~is_head], truth[~is_head])
    whole = torso_opacity[..., None] * torso + (1 - torso_opacity[..., None]) * head_over
    np.testing.assert_allclose(pairs["full"][0], whole)
    assert render_names(tiny.config("head")) == ("head",)
    assert render_names(tiny.config("head", variants="single_nerf")) == ("full",)
    assert list(score_pairs({"head": head_over}, truth, head_truth, is_head)) == ["head_only", "head"]


def test_tracked_codes_are_those_of_the_model_with_a_measured_input():
    config = tiny.config("head", variants="smoke,expression")
    assert tracked_codes_of(config) == ()
    config.eval.tracked_codes = " expression,"
    assert tracked_codes_of(config) == ("expression",)
    config.eval.tracked_codes = "expression,gaze"
    with pytest.raises(UserError, match="tracked_codes names 'gaze', which is no code .*: name expression"):
        tracked_codes_of(config)
    config = tiny.config("head")
    config.eval.tracked_codes = "lips"
    with pytest.raises(UserError, match="'lips', which is no code of this model with a measured input: name eyes"):
        tracked_codes_of(config)


def test_the_protocol_says_what_is_averaged_and_what_is_from_the_truth():
    config, truth = tiny.config("head"), "measured in the evaluated frames themselves"
    lips = "code lips: mean of three frames, weighted 1:2:1"
    assert describe_smoothing(config) == f"code audio: attention over eight frames; {lips}"
    speech = "the clip's speech"
    assert describe_inputs(config) == {
        "poses": truth, "code audio": speech, "code lips": speech, "code eyes": truth
    }  # fmt: skip
    config.eval.attention = False
    assert describe_smoothing(config) == lips
    config = tiny.config("head", variants="fast,smoke,expression")
    assert describe_smoothing(config) == lips.replace("lips", "expression") + "; " + lips
    assert describe_inputs(config)["code expression"] == speech
    config.eval.tracked_codes = "expression"
    assert describe_smoothing(config) == lips and describe_inputs(config)["code expression"] == truth
    config.model.head.codes = ("eyes",)
    config.eval.tracked_codes = None
    assert describe_smoothing(config) == "none"


def test_the_protocol_names_the_tracked_codes(trained, tmp_path):
    folder = tmp_path / "head"
    shutil.copytree(trained.head, folder)
    config = load_config(folder).copy_and_resolve_references().unlock()
    config.eval.tracked_codes, config.eval.report = "eyes", False
    assert evaluate(config, folder)["protocol"]["tracked_codes"] == ["eyes"]
    config.eval.tracked_codes = "expression"
    with pytest.raises(UserError, match="names 'expression'"):
        evaluate(config, folder)


@pytest.mark.parametrize("name", ["eval", "eval/frames", "eval.frames"])
def test_an_evaluation_deletes_and_writes_through_no_link(trained, tmp_path, name):
    workdir = shutil.copytree(trained.head, tmp_path / "head", ignore=shutil.ignore_patterns("eval", "eval.frames"))
    (tmp_path / "mine/frames").mkdir(parents=True)
    (tmp_path / "mine/report.html").touch()
    (workdir / name).parent.mkdir(exist_ok=True)
    (workdir / name).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=f"{name} is a link to .*mine"):
        evaluate(load_config(workdir), workdir)
    assert {path.name for path in (tmp_path / "mine").rglob("*")} == {"frames", "report.html"}


def test_files_of_an_evaluation(trained):
    config = load_config(trained.torso)
    result = evaluate(config, trained.torso)
    folder = trained.torso / "eval"
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert list(result["settings"]) == ["head_only", "head", "full"]
    assert result["model"] == {"family": "fast", "stage": "torso", "subject": "person", "step": 40}
    assert result["versions"]["jax"] == jax.__version__
    protocol = result["protocol"]
    assert protocol["frames"] == "2 held-out frames, the last 1/11 of the clip"
    assert protocol["smoothing"] == describe_smoothing(config) and protocol["inputs"] == describe_inputs(config)
    assert list(protocol["measures"]) == ["psnr", "psnr_face", "ssim", "seam_error"]
    left_out = {"ms_ssim", "lpips_alex", "lpips_vgg", "faces", "sync_confidence", "au_error", "cross"}
    assert set(protocol["left_out"]) == left_out
    rows = list(csv.DictReader((folder / "frames.csv").open()))
    assert [(row["frame"], row["setting"]) for row in rows] == [
        (frame, setting) for frame in ("11", "12") for setting in ("head_only", "head", "full")
    ]
    for setting, values in result["settings"].items():
        keys = ("psnr", "psnr_face", "ssim", "seam_error")
        assert tuple(values) == (keys[:3] if setting == "head_only" else keys)
        for key in values:
            mean = np.mean([float(row[key]) for row in rows if row["setting"] == setting])
            assert values[key] == pytest.approx(mean, abs=1e-4)
    timing = json.loads((folder / "timing.json").read_text())
    assert 0 < timing["seconds_per_frame"] < timing["total_seconds"]
    # The report is self-contained, and embeds the video beside it.
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    video = base64.b64encode((folder / "held_out.mp4").read_bytes()).decode()
    assert page.count("<video") == 1 and video in page
    assert [frame.shape for frame in read_frames(folder / "held_out.mp4")] == [(tiny.SIZE, 2 * tiny.SIZE, 3)] * 2
    assert all(f"{rank}: frame" in page for rank in ("best", "median", "worst"))
    # Two frames: ground truth, then each setting.
    assert cv2.imread(str(folder / "contact.png")).shape == (2 * tiny.SIZE, 4 * tiny.SIZE, 3)
    # The ground truth around the head cannot be worse than rendering everything.
    assert result["settings"]["head"]["psnr"] > result["settings"]["full"]["psnr"]


def test_the_metrics_are_those_of_the_renders(trained):
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


def test_two_runs_give_the_same_bytes(trained):
    config = load_config(trained.torso)
    written = []
    for _ in range(2):
        evaluate(config, trained.torso)
        folder = trained.torso / "eval"
        written.append([(folder / name).read_bytes() for name in ("metrics.json", "frames.csv", "contact.png")])
    assert written[0] == written[1]


def test_shards_give_the_result_of_one_process(trained, monkeypatch):
    config = load_config(trained.torso)
    config.eval.report = False
    folder, kept = trained.torso / "eval", trained.torso / "eval.frames"
    evaluate(config, trained.torso)
    whole = [(folder / name).read_bytes() for name in ("metrics.json", "frames.csv", "contact.png")]
    assert not kept.exists()
    for shard in ("2/2", "1/2"):
        config.eval.shard = shard
        assert evaluate(config, trained.torso) == {}
    config.eval.shard = None
    frames = sorted(kept.glob("*.png"))
    assert len(frames) > 1
    frames[-1].unlink()  # as if its process had been killed
    rendered_now = []
    layers = TrainedStage.layers
    monkeypatch.setattr(TrainedStage, "layers", lambda self, *a: rendered_now.append(0) or layers(self, *a))
    evaluate(config, trained.torso)
    assert len(rendered_now) == 1 and not kept.exists()
    assert [(folder / name).read_bytes() for name in ("metrics.json", "frames.csv", "contact.png")] == whole


def test_a_job_changes_with_everything_that_decides_a_render(trained):
    config = load_config(trained.torso)
    stage, dataset = TrainedStage.load(trained.torso, config), load_dataset(trained.data)
    job = evaluation_job(config, trained.torso, stage, dataset)
    assert evaluation_job(load_config(trained.torso), trained.torso, stage, dataset) == job
    other_background = dataset.replace(background=255 - dataset.background)
    assert evaluation_job(config, trained.torso, stage, other_background) != job
    more = stage.replace(_torso=jax.tree.map(lambda leaf: leaf + 1, stage._torso))
    assert evaluation_job(config, trained.torso, more, dataset) != job
    config.render.occupancy = 7
    assert evaluation_job(config, trained.torso, stage, dataset) != job


def test_held_out_frames_need_no_cache(trained):
    config, dataset = load_config(trained.torso), load_dataset(trained.data)
    held_out = HeldOutFrames(config, TrainedStage.load(trained.torso, config), dataset, dataset.val)
    assert list(held_out.frame(0).pairs) == ["head_only", "head", "full"]
    assert not (trained.torso / "eval.frames").exists()


def test_other_speech_has_no_ground_truth(trained):
    config = load_config(trained.torso)
    config.eval.update(cross=str(trained.sound), cross_duration=0.2, save_frames=True)
    result = evaluate(config, trained.torso)
    assert list(result["settings"]) == ["head_only", "head", "full", "cross"]
    assert result["settings"]["cross"] == {}  # all of its metrics need the landmark network
    digest = hashlib.sha256(trained.sound.read_bytes()).hexdigest()[:16]
    assert result["protocol"]["cross"] == f"5 frames of sound {digest} (SHA-256), no ground truth"
    folder = trained.torso / "eval" / "frames"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    kinds = ("truth", "head_only", "head", "full")
    held_out = {f"{kind}/{frame:06d}.png" for kind in kinds for frame in (11, 12)}
    assert names == held_out | {f"cross/{frame:06d}.png" for frame in range(5)}
    # The metrics are those of the written files.
    rows = list(csv.DictReader((trained.torso / "eval/frames.csv").open()))
    image, truth = (cv2.imread(str(folder / kind / "000011.png")) / 255.0 for kind in ("full", "truth"))
    row = next(r for r in rows if (r["frame"], r["setting"]) == ("11", "full"))
    assert float(row["psnr"]) == pytest.approx(psnr(image, truth), abs=1e-6)
    # They are those that rendering makes, with the silence around the speech.
    rendered = Avatar.load(trained.torso).render(trained.sound, duration=0.2, eyes="pose")
    for k, image in enumerate(rendered):
        shown = cv2.imread(str(folder / f"cross/{k:06d}.png"))[..., ::-1].astype(int)
        assert np.abs(shown - image).max() <= 1
    # Another evaluation deletes the optional files of this one.
    with av.open(str(trained.torso / "eval/cross.mp4")) as video:
        assert "Synthetic media" in video.metadata["comment"] and "torso, step" in video.metadata["comment"]
    assert b"Synthetic media" in (trained.torso / "eval/contact.png").read_bytes()
    config.eval.update(cross=None, save_frames=False, report=False)
    evaluate(config, trained.torso)
    assert not folder.exists()
    left = {path.name for path in (trained.torso / "eval").iterdir()}
    assert left == {"metrics.json", "frames.csv", "timing.json", "contact.png"}


def test_other_speech_for_a_person_trained_on_deepspeech(trained_paper, trained, tmp_path):
    config = load_config(trained_paper.torso)
    config.eval.update(cross=str(trained.sound), cross_duration=0.12, report=False)
    with pytest.raises(UserError, match="give those of the sound with features"):
        evaluate(config, trained_paper.torso)
    np.save(tmp_path / "speech.npy", np.random.default_rng(0).normal(size=(7, 16, 29)).astype(np.float32))
    config.render.features = str(tmp_path / "speech.npy")
    result = evaluate(config, trained_paper.torso)
    assert result["protocol"]["cross"].startswith("3 frames of sound ")


def test_without_a_report_there_are_no_videos(trained, tmp_path):
    shutil.copytree(trained.head, tmp_path / "head", ignore=shutil.ignore_patterns("eval"))
    config = load_config(trained.head)
    config.eval.report = False
    evaluate(config, tmp_path / "head")
    names = {path.name for path in (tmp_path / "head/eval").iterdir()}
    assert names == {"metrics.json", "frames.csv", "timing.json", "contact.png"}


def test_action_units_from_openface(trained, tmp_path):
    header = ", ".join(["frame", "success", *(f"{unit}_r" for unit in LOWER_FACE)])
    for name, value in (("render", 1.5), ("truth", 1.0)):
        lines = [f"{k}, 1, " + ", ".join([str(value)] * len(LOWER_FACE)) for k in (1, 2)]
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines]))
    config = load_config(trained.torso)
    config.eval.openface_render = str(tmp_path / "render.csv")
    with pytest.raises(UserError, match="files of both"):
        evaluate(config, trained.torso)
    config.eval.openface_truth = str(tmp_path / "truth.csv")
    result = evaluate(config, trained.torso)
    assert result["settings"]["full"]["au_error"] == 0.5
    assert result["settings"]["full"]["au_error_summed"] == pytest.approx(9 * 0.25)
    assert "au_error" not in result["settings"]["head"] and "au_error" in result["protocol"]["measures"]
    config.eval.every = 2
    with pytest.raises(UserError, match="has 2 frames, 1 were evaluated"):
        evaluate(config, trained.torso)


def test_metrics_that_the_frames_do_not_allow_are_left_out_with_a_reason(tiny_data):
    values = {"full": {"psnr": 30.0, "lip_correlation": 0.9, "av_offset_s_truth": 0.0}}
    protocol = describe_protocol(
        "2 frames", 2, load_dataset(tiny_data), "ab", "none", (), {}, None, values, {"cross": "not given"}
    )
    assert set(protocol["left_out"]) == {
        "cross", "lmd_px", "lmd_percent", "lip_lag_frames", "lip_amplitude", "av_offset_s", "sync_confidence",
        "blendshape_error", "jitter_px", "jitter_deg",
    }  # fmt: skip
    assert protocol["left_out"]["jitter_px"] == "it needs a face in three consecutive frames"
    assert set(protocol["measures"]) == {"psnr", "lip_correlation", "av_offset_s"}
    without = describe_protocol(
        "2 frames", 2, load_dataset(tiny_data), "ab", "none", (), {}, None, values, {"faces": "not requested"}
    )
    assert set(without["left_out"]) == {"faces"}


def test_expected_lips_are_fitted_on_the_training_frames(tmp_path):
    data = tiny.make_dataset(tmp_path / "dataset")
    assert fit_expected_lips(load_dataset(data), load_dataset(data).train) is None  # no landmarks
    tiny.add_landmarks(data)
    assert fit_expected_lips(load_dataset(data), load_dataset(data).train) is None  # ten frames are too few
    dataset = load_dataset(data)
    rng = np.random.default_rng(0)
    frames = 400
    points = rng.normal(16, 4, (frames, 478, 3)).astype(np.float32)
    landmarks = Landmarks(points, np.arange(frames) != 7, np.zeros((frames, 52), np.float32))
    landmarks.save(data / "landmarks.npz")
    windows = rng.normal(size=(frames, 16, 8)).astype(np.float32)
    lips = rng.normal(size=(frames, 5)).astype(np.float32)
    rows = np.arange(200, dtype=np.int32)
    split = dataset.train.replace(img_id=rows, aud_id=rows)
    long = dataset.replace(windows=windows, tracks={"lips": lips})
    expected = fit_expected_lips(long, split)
    np.testing.assert_array_equal(expected.face, points[0])
    other = lips.copy()
    other[200:] += 1.0  # neither held-out frames nor frames without a face are used
    other[7] += 1.0
    refitted = fit_expected_lips(long.replace(tracks={"lips": other}), split)
    np.testing.assert_array_equal(refitted.model.weights, expected.model.weights)
