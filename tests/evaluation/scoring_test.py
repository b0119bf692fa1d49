"""The scorer without a model: perfect frames, distorted frames, and networks whose weights are missing."""

import gc
import weakref

import cv2
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.evaluation import scoring
from adnerf_jax.evaluation.scoring import MEASURES, Scorer, make_scorer
from adnerf_jax.face.parsing import BACKGROUND, HEAD, NECK, TORSO
from adnerf_jax.pretrained.face_landmarker import Face

SIZE = 180
RECT = np.array([50, 30, 80, 80])


class Distance:
    """A stub of LPIPS: mean absolute difference; counts the images that it is given."""

    def __init__(self):
        self.images = 0

    def features(self, picture):
        self.images += 1
        return picture

    def distance(self, ours, theirs):
        return float(np.abs(ours - theirs).mean())


class Reader:
    """A stub of the landmark network: the corner pixel encodes the lip opening; black means no face."""

    mean = np.random.default_rng(0).normal(90, 20, (478, 3))

    def __call__(self, rgb, previous=None):
        if not rgb[0, 0].any():
            return None
        points = self.mean.copy()
        points[13, 1] = points[14, 1] - rgb[0, 0, 0] / 10
        return Face(points.astype(np.float32), 1.0, np.full(52, rgb[0, 0, 1] / 255, np.float32))


def person() -> np.ndarray:
    parts = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
    parts[40:110, 60:120] = HEAD
    parts[110:130, 75:105] = NECK
    parts[130:, 20:160] = TORSO
    return parts


def true_frames(count: int = 24) -> list[np.ndarray]:
    """Ground truth, float [H, W, 3] in 8-bit steps, with a mouth that opens and closes (`Reader`)."""
    rng = np.random.default_rng(1)
    still = cv2.resize(rng.random((8, 8, 3)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    frames = []
    for k in range(count):
        image = (255 * np.roll(still, k, axis=0)).round().astype(np.uint8)
        image[0, 0] = (100 + 90 * np.sin(k) * np.cos(k / 5), 100, 100)
        frames.append(image / 255.0)
    return frames


def score(rendered: list[np.ndarray], frames: list[np.ndarray], networks=None) -> tuple[dict, list[dict]]:
    scorer = Scorer(networks or {"alex": Distance()}, Reader())
    for k, (image, truth) in enumerate(zip(rendered, frames, strict=True)):
        scorer.add("full", 100 + k, 100 + k, image, truth, RECT, person())
    settings, rows = scorer.finish({}, {})
    return settings["full"], rows


def test_a_video_against_itself_is_perfect():
    frames = true_frames()
    values, rows = score([x + 0.4 / 255 for x in frames], frames)  # rounded to 8 bits
    perfect = {
        "psnr": 100.0, "psnr_face": 100.0, "ssim": 1.0, "ms_ssim": 1.0, "lpips_alex": 0.0, "seam_error": 0.0,
        "faces_found": 1.0, "lmd_px": 0.0, "lmd_percent": 0.0, "lip_correlation": 1.0, "lip_lag_frames": 0.0,
        "lip_correlation_at_lag": 1.0, "lip_amplitude": 1.0, "blendshape_error": 0.0,
    }  # fmt: skip
    assert {name: values[name] for name in perfect} == perfect
    assert values["jitter_px"] == values["jitter_px_truth"] and values["jitter_deg"] == values["jitter_deg_truth"]
    order = [name for name in values if not name.endswith("_truth")]
    assert order == [name for name in MEASURES if name in order]
    assert len(rows) == len(frames) and rows[3]["frame"] == 103 and rows[3]["lmd_px"] == 0.0


def test_a_frozen_mouth_changes_the_lip_metrics_only():
    frames = true_frames()
    rendered = [x.copy() for x in frames]
    for image in rendered:
        image[0, 0] = frames[0][0, 0]
    perfect, _ = score(frames, frames)
    values, _ = score(rendered, frames)
    assert values["lip_correlation"] == 0.0 and values["lip_amplitude"] == 0.0 and "lip_lag_frames" not in values
    assert values["lmd_px"] > perfect["lmd_px"]
    assert values["seam_error"] == 0.0 and values["psnr_face"] == 100.0


def test_the_lag_of_late_lips_is_measured():
    frames = true_frames(40)
    rendered = [x.copy() for x in frames]
    for k, image in enumerate(rendered):
        image[0, 0] = frames[max(k - 5, 0)][0, 0]
    values, _ = score(rendered, frames)
    assert values["lip_lag_frames"] == 5 and values["lip_correlation"] < 0.5 < values["lip_correlation_at_lag"]


def test_a_wrong_background_changes_the_whole_frame_metrics_only():
    frames = true_frames(12)
    away = (person() == BACKGROUND)[..., None] & (np.arange(SIZE)[:, None, None] > 120)
    values, _ = score([np.where(away, 1 - x, x) for x in frames], frames)
    assert values["psnr"] < 30 and values["ssim"] < 0.95 and values["ms_ssim"] < 0.95 and values["lpips_alex"] > 0.01
    assert values["psnr_face"] == 100.0 and values["seam_error"] == 0.0 and values["lmd_px"] == 0.0


def test_a_gap_at_the_neck_raises_the_seam_error():
    frames = true_frames(12)
    errors = []
    for gap in (0, 2, 5):
        rendered = [x.copy() for x in frames]
        for image in rendered:
            image[110 : 110 + gap, 75:105] = 1.0
        errors.append(score(rendered, frames)[0]["seam_error"])
    assert errors[0] == 0 < errors[1] < errors[2]


def test_features_of_a_ground_truth_are_computed_once():
    frames, network = true_frames(12), Distance()
    scorer = Scorer({"alex": network}, None)
    for k, truth in enumerate(frames):
        for setting in ("head", "full"):
            scorer.add(setting, k, k, truth, truth, RECT)
    settings, rows = scorer.finish({}, {})
    assert network.images == 3 * len(frames)
    assert list(settings) == ["head", "full"] and "lmd_px" not in settings["full"] and "lmd_px" not in rows[0]


def test_images_are_not_kept():
    scorer, alive = Scorer({"alex": Distance()}, Reader()), []
    for k in range(12):
        image, truth = (true_frames(1)[0] for _ in range(2))
        alive += [weakref.ref(image), weakref.ref(truth)]
        scorer.add("full", k, k, image, truth, RECT, person())
        del image, truth
        gc.collect()
        # The last ground truth is kept, so that its features serve all settings of a frame.
        assert sum(ref() is not None for ref in alive) <= 1


class SmallFace(Reader):
    """A face well inside the image."""

    mean = np.random.default_rng(0).normal(90, 6, (478, 3))


class TimeEmbeddings:
    """A stub of SyncNet: embeds lips by their brightness, 60 + 3 for each frame, and speech by its order."""

    def lips(self, clips):
        return np.eye(1024)[np.round(clips[:, 0].mean((1, 2, 3)) / 3 - 20).astype(int)]

    def speech(self, coefficients):
        return np.eye(1024)[: len(coefficients)]


def test_syncnet_measures_the_offset_of_lips_and_sound():
    scorer = Scorer({}, SmallFace(), TimeEmbeddings())
    for k in range(30):
        late, truth = (np.full((SIZE, SIZE, 3), (60 + 3 * shown) / 255) for shown in (max(k - 5, 0), k))
        scorer.add("full", k, k, late, truth, RECT)
        scorer.add_without_truth("cross", k, k, truth)
    values, _ = scorer.finish({}, {"full": np.random.default_rng(0).normal(size=2 * 16000)})
    # Late lips are early sound.
    assert values["full"]["sync_offset_s"] == -0.2 and values["full"]["sync_offset_s_truth"] == 0.0
    assert values["full"]["sync_confidence_truth"] > values["full"]["sync_confidence"] > 1.0
    assert values["full"]["sync_distance_truth"] < 1e-3
    assert not any(name.startswith("sync") for name in values["cross"])  # no sound was given for it


def test_frames_without_a_face():
    frames = true_frames(12)
    rendered = [np.zeros_like(x) if k < 3 else x for k, x in enumerate(frames)]
    values, rows = score(rendered, frames)
    assert values["faces_found"] == 0.75 and values["lmd_px"] == 0.0
    assert np.isnan(rows[0]["lmd_px"]) and rows[5]["lmd_px"] == 0.0


def test_frames_without_a_ground_truth():
    scorer = Scorer({"alex": Distance()}, Reader())
    for k, image in enumerate(true_frames(12)):
        scorer.add_without_truth("cross", k, k, image)
    settings, rows = scorer.finish({}, {})
    assert list(settings["cross"]) == ["faces_found", "jitter_px", "jitter_deg"]
    assert set(rows[0]) == {"frame", "time", "setting", "lip_opening"}


def test_networks_without_weights_are_left_out_with_a_message(monkeypatch, capsys):
    def offline(name):
        raise UserError(f"{name} could not be fetched")

    monkeypatch.setattr(scoring.weights, "path", offline)
    scorer, left_out = make_scorer("alex,vgg", True, SIZE)
    missing = {name: "weights not available" for name in ("lpips_alex", "lpips_vgg", "faces")}
    assert left_out == missing | {"sync_confidence": "config.eval.syncnet is not given"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("evaluation leaves ") for line in lines)
    scorer.add("full", 0, 0, true_frames(1)[0], true_frames(1)[0], RECT)
    assert list(scorer.finish({}, {})[0]["full"]) == ["psnr", "psnr_face", "ssim", "ms_ssim"]


def test_metrics_that_are_not_requested_or_do_not_fit_are_left_out():
    assert make_scorer("", False, 20)[1] == {
        "ms_ssim": "frames below 176 pixels",
        "lpips_alex": "not requested",
        "lpips_vgg": "not requested",
        "faces": "not requested",
        "sync_confidence": "config.eval.syncnet is not given",
    }
    assert make_scorer("alex", False, 20)[1]["lpips_alex"] == "frames below 32 pixels"
    with pytest.raises(UserError, match="config.eval.lpips names squeeze; there are: alex, vgg"):
        make_scorer("alex,squeeze", False, 200)
