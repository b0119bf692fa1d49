"""Face metrics against hand-computed values, and their sensitivity to known distortions."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from adnerf_jax.evaluation.face_metrics import (
    LOWER_FACE_SHAPES,
    ExpectedLips,
    best_lag,
    correlation,
    face_scores,
    jitter,
    mouth_distance,
    rotation_jitter,
)
from adnerf_jax.face.landmarks import INNER_LIPS, OUTER_LIPS, RIGID, Landmarks, mouth_openness, to_ibug68
from adnerf_jax.speech.lips import lip_shapes
from adnerf_jax.speech.sync import LipModel

TRAINED, HELD_OUT = 240, 60
CLIP = TRAINED + HELD_OUT


def talking(seed: int = 0) -> tuple[Landmarks, np.ndarray]:
    """Landmarks of a face that nods and talks, and speech windows [N, 16, 20] that its lips follow."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 60, (478, 3)) + [225, 225, 0]
    features = gaussian_filter1d(rng.normal(size=(2 * CLIP + 100, 20)), 3.0, axis=0) * 4
    at = 50 + 2 * np.arange(CLIP)
    windows = features[at[:, None] + np.arange(-8, 8)].astype(np.float32)
    points = np.tile(mean, (CLIP, 1, 1))
    lips = [*OUTER_LIPS, *INNER_LIPS]
    moves = features[at, :4] @ rng.normal(size=(4, 3 * len(lips)))
    points[:, lips] += 4 * moves.reshape(CLIP, len(lips), 3)
    nod = Rotation.from_euler(
        "yx", np.stack([20 * np.sin(np.arange(CLIP) / 15), 5 * np.cos(np.arange(CLIP) / 9)], -1), True
    )
    points = np.einsum("nij,nvj->nvi", nod.as_matrix(), points - mean.mean(0)) + mean.mean(0)
    shapes = 1 / (1 + np.exp(-features[at] @ rng.normal(size=(20, 52))))
    return Landmarks(points.astype(np.float32), np.ones(CLIP, bool), shapes.astype(np.float32)), windows


@pytest.fixture(scope="module")
def clip() -> tuple[Landmarks, np.ndarray, ExpectedLips]:
    """Landmarks and time indices of held-out frames, and the expected lips of the whole clip."""
    found, windows = talking()
    model = LipModel.fit(windows, lip_shapes(found.points), np.arange(TRAINED))
    rows = np.arange(TRAINED - 5, CLIP - 5)
    return take(found, rows), rows, ExpectedLips(model, found.points[0], windows)


def take(found: Landmarks, rows: np.ndarray) -> Landmarks:
    return Landmarks(found.points[rows], found.valid[rows], found.blendshapes[rows])


def delayed(found: Landmarks, frames: int) -> Landmarks:
    """The landmarks delayed by `frames`, or early where that is negative; the first or last frame is repeated."""
    last = len(found.valid) - 1
    return take(found, np.clip(np.arange(last + 1) - frames, 0, last))


def frozen(found: Landmarks) -> Landmarks:
    """The head moves as before, the mouth keeps the shape of the first frame."""
    lips = [*OUTER_LIPS, *INNER_LIPS]
    points = found.points.astype(np.float64)
    rigid = points[:, RIGID]
    for k in range(len(points)):
        turn, _ = Rotation.align_vectors(rigid[k] - rigid[k].mean(0), rigid[0] - rigid[0].mean(0))
        points[k, lips] = turn.apply(points[0, lips] - rigid[0].mean(0)) + rigid[k].mean(0)
    return Landmarks(points.astype(np.float32), found.valid, np.repeat(found.blendshapes[:1], len(points), 0))


def test_a_sequence_against_itself_is_perfect(clip):
    found, frames, expected = clip
    whole, each = face_scores(found, found, frames, expected)
    perfect = {
        "lmd_px": 0.0,
        "lmd_percent": 0.0,
        "blendshape_error": 0.0,
        "lip_correlation": pytest.approx(1.0),
        "lip_correlation_at_lag": pytest.approx(1.0),
        "lip_lag_frames": 0.0,
        "lip_amplitude": 1.0,
        "faces_found": 1.0,
    }
    assert {name: whole[name] for name in perfect} == perfect
    for name in ("jitter_px", "jitter_deg", "av_offset_s", "av_fit", "av_margin"):
        assert whole[name] == whole[f"{name}_truth"]
    assert whole["av_offset_s"] == pytest.approx(0.0, abs=0.02) and whole["av_fit"] > 0.8
    assert all(values.shape == (len(frames),) for values in each.values())


def test_a_frozen_mouth_lowers_the_lip_metrics(clip):
    found, frames, expected = clip
    whole, _ = face_scores(frozen(found), found, frames, expected)
    assert whole["lip_amplitude"] < 0.01 and abs(whole["lip_correlation"]) < 0.3
    assert whole["lmd_px"] > 1 and whole["blendshape_error"] > 0.05
    # The head moves as before.
    assert whole["jitter_px"] == pytest.approx(whole["jitter_px_truth"], rel=1e-3)


@pytest.mark.parametrize("shift", [-5, 5])
def test_the_lag_of_late_or_early_lips_is_measured(clip, shift):
    found, frames, expected = clip
    moved = (
        delayed(found, shift) if shift > 0 else take(found, np.clip(np.arange(len(frames)) - shift, 0, len(frames) - 1))
    )
    whole, _ = face_scores(moved, found, frames, expected)
    assert whole["lip_lag_frames"] == pytest.approx(shift, abs=1)
    assert whole["lip_correlation"] < 0.6 < whole["lip_correlation_at_lag"]
    # Late lips are early sound.
    assert 25 * whole["av_offset_s"] == pytest.approx(-shift, abs=1)
    assert 25 * whole["av_offset_s_truth"] == pytest.approx(0, abs=1)


def test_an_offset_of_the_sound_is_measured(clip):
    found, frames, expected = clip
    moved = np.roll(expected.windows, 5, axis=0)
    whole, _ = face_scores(found, found, frames, ExpectedLips(expected.model, expected.face, moved))
    assert 25 * whole["av_offset_s"] == pytest.approx(5, abs=1)
    assert whole["lip_lag_frames"] == 0


def test_noise_on_the_landmarks_raises_jitter_and_distance(clip):
    found, frames, expected = clip
    values = []
    for size in (0.0, 0.3, 1.0, 3.0):
        shake = size * np.random.default_rng(1).normal(size=(len(frames), 478, 3))
        shaken = Landmarks((found.points + shake).astype(np.float32), found.valid, found.blendshapes)
        values.append(face_scores(shaken, found, frames, expected)[0])
    for name in ("jitter_px", "jitter_deg", "lmd_px", "lmd_percent"):
        assert (np.diff([v[name] for v in values]) > 0).all()
    assert (np.diff([v["lip_correlation"] for v in values]) < 0).all()


def test_other_expressions_raise_the_blendshape_error(clip):
    found, frames, _ = clip
    errors = []
    for change in (0.0, 0.1, 0.3):
        other = Landmarks(found.points, found.valid, np.clip(found.blendshapes + change, 0, 1))
        errors.append(face_scores(other, found, frames, None)[0]["blendshape_error"])
    assert errors[0] == 0 and (np.diff(errors) > 0).all()
    assert len(LOWER_FACE_SHAPES) == 27 and "eyeBlinkLeft" not in LOWER_FACE_SHAPES


def test_mouth_distance_by_hand():
    truth = np.random.default_rng(2).normal(0, 50, (2, 478, 3))
    # Moving the whole mouth changes nothing; stretching it by s moves each point by (s − 1) of its distance.
    assert mouth_distance(truth + [7.0, -3.0, 2.0], truth) == pytest.approx([0, 0], abs=1e-9)
    centred = to_ibug68(truth)[:, 48:68]
    centred = centred - centred.mean(1, keepdims=True)
    np.testing.assert_allclose(mouth_distance(1.5 * truth, truth), 0.5 * np.linalg.norm(centred, axis=-1).mean(-1))


def test_correlation_by_hand():
    a = np.arange(12.0)
    assert correlation(a, 3 * a - 1) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert correlation(a, np.ones(12)) == 0.0
    b = np.tile([0.0, 1.0], 6)
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert np.isnan(correlation(a[:9], a[:9]))


def test_lags_are_measured_in_time_despite_dropped_frames():
    rng = np.random.default_rng(3)
    curve = gaussian_filter1d(rng.normal(size=80), 1.5)
    frames = np.delete(np.arange(10, 70), [20, 21, 22, 40])  # dropped frames
    for lag in (-7, -1, 0, 4, 9):
        found, score = best_lag(curve[frames - lag], curve[frames], frames)
        assert found == lag and score == pytest.approx(1.0)
    assert np.isnan(best_lag(np.ones(len(frames)), curve[frames], frames)).all()
    rising = np.arange(40.0)  # the correlation rises with the lag: there is no maximum
    assert np.isnan(best_lag(rising**2, rising, np.arange(40))).all()
    assert np.isnan(best_lag(curve[:5], curve[:5], np.arange(5))).all()


def test_jitter_by_hand():
    frames = np.arange(6)
    steady = np.stack([frames * 2.0, frames * -1.0], -1)[:, None]  # [6, 1, 2]: the same speed all the time
    assert jitter(steady, frames) == 0.0
    jump = steady.copy()
    jump[3, 0, 0] += 1.0  # second differences 1, −2, 1 around it and one of 0
    assert jitter(jump, frames) == pytest.approx(np.sqrt(6 / 4))
    assert jitter(jump, np.array([0, 1, 2, 4, 5, 6])) == pytest.approx(np.sqrt(1 / 2))  # two runs of three: 0 and 1
    assert np.isnan(jitter(steady[:2], frames[:2]))


def test_rotation_jitter_by_hand():
    face = np.random.default_rng(4).normal(0, 60, (478, 3))
    angles = np.array([0.0, 2.0, 4.0, 7.0, 9.0, 11.0])  # second differences 0, 1, −1, 0 degrees
    points = np.stack([Rotation.from_euler("y", a, degrees=True).apply(face) for a in angles])
    assert rotation_jitter(points * 1.3 + [100, 50, 0], np.arange(6)) == pytest.approx(np.sqrt(0.5))
    assert np.isnan(rotation_jitter(points[:2], np.arange(2)))


def test_frames_without_a_face_are_skipped_and_counted(clip):
    found, frames, expected = clip
    lost = Landmarks(found.points.copy(), found.valid.copy(), found.blendshapes)
    lost.points[10:16], lost.valid[10:16] = 0.0, False
    whole, each = face_scores(lost, found, frames, expected)
    assert whole["faces_found"] == pytest.approx(1 - 6 / len(frames)) and whole["lmd_px"] == 0.0
    assert np.isnan(each["lmd_px"][10:16]).all() and np.isfinite(np.delete(each["lmd_px"], range(10, 16))).all()
    assert np.isnan(each["lip_opening"][10:16]).all() and np.isfinite(each["lip_opening_truth"]).all()
    none = Landmarks(np.zeros_like(found.points), np.zeros(len(frames), bool), np.zeros_like(found.blendshapes))
    whole, _ = face_scores(none, found, frames, expected)
    assert whole["faces_found"] == 0 and "lmd_px" not in whole and "jitter_px" not in whole


def test_without_a_ground_truth_only_its_own_metrics_are_computed(clip):
    found, frames, expected = clip
    whole, each = face_scores(found, None, frames, expected)
    assert set(whole) == {"faces_found", "jitter_px", "jitter_deg", "av_offset_s", "av_fit", "av_margin"}
    np.testing.assert_allclose(each["lip_opening"], mouth_openness(found.points))
