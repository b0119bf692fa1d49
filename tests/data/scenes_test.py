"""The constants of a person, from the training frames."""

import chex
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import SUBJECTS
from adnerf_jax.data.scenes import make_scene, subject_box
from adnerf_jax.face.parsing import HEAD, NECK, TORSO
from adnerf_jax.models.codes.audio import AudioCode, whitening
from adnerf_jax.models.codes.eyes import EyesCode
from adnerf_jax.models.codes.lips import LipsCode


def test_whitened_features_have_variance_one_and_do_not_depend_on_each_other():
    rng = np.random.default_rng(0)
    windows = (rng.normal(size=(60, 16, 5)) * [9, 3, 2, 1, 0.1]) @ rng.normal(size=(5, 5)) + 7
    mean, basis = whitening(windows.astype(np.float32), 3)
    assert mean.shape == (5,) and basis.shape == (5, 3)
    rows = (windows.reshape(-1, 5) - mean) @ basis
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-3)
    # float32 parameters and a floor of 1e-6 of the largest variance.
    np.testing.assert_allclose(np.cov(rows, rowvar=False), np.eye(3), atol=1e-3)
    # The components left out explain less than the ones kept.
    centred = windows.reshape(-1, 5) - mean
    kept = np.linalg.lstsq(rows, centred, rcond=None)[0]
    best = np.linalg.svd(centred, compute_uv=False)[3:]
    np.testing.assert_allclose(np.linalg.norm(centred - rows @ kept), np.linalg.norm(best), rtol=1e-3)


def test_features_that_never_change_stay_finite():
    windows = np.random.default_rng(1).normal(size=(9, 16, 4)).astype(np.float32)
    windows[..., 2] = 3.0
    mean, basis = whitening(windows, 64)
    assert basis.shape == (4, 4)
    chex.assert_tree_all_finite((windows - mean) @ basis)


def test_the_box_holds_every_pixel_of_the_head_at_its_depth(dataset, frames):
    box = subject_box(frames, dataset.camera)
    assert box.dtype == np.float32 and (box[0] < box[1]).all()
    camera = dataset.camera
    for row, transform in enumerate(dataset.train.transforms.astype(np.float64)):
        rows, columns = np.nonzero(frames.parts[row] == HEAD)
        local = np.stack(
            [(columns - camera.cx) / camera.focal, -(rows - camera.cy) / camera.focal, -np.ones(len(rows))], axis=-1
        )
        points = tiny.DEPTH * local @ transform[:3, :3].T + transform[:3, 3]
        assert ((points >= box[0]) & (points <= box[1])).all()
    # Sixteen pixels at that depth and focal length are 0.16: the box is no more than half as large again.
    assert (box[1, :2] - box[0, :2] < 1.5 * 16 / camera.focal * tiny.DEPTH).all()


def test_the_box_of_a_whole_person_holds_the_torso(dataset, frames):
    head, person = subject_box(frames, dataset.camera), subject_box(frames, dataset.camera, SUBJECTS["person"])
    assert person[0, 1] < head[0, 1] - 0.1 and person[1, 0] > head[1, 0]  # down to the picture's edge, wider
    np.testing.assert_array_equal(person[:, 2], head[:, 2])
    np.testing.assert_array_equal(make_scene(dataset, frames, (EyesCode(),), 6, SUBJECTS["person"]).box, person)
    np.testing.assert_array_equal(make_scene(dataset, frames, (EyesCode(),), 6).box, head)


def test_a_dataset_that_shows_no_head(dataset, frames):
    empty = frames.replace(packed=np.zeros_like(frames.packed))
    with pytest.raises(UserError, match="no frame shows a head"):
        subject_box(empty, dataset.camera)


def test_the_scene_is_made_of_training_frames(dataset, frames):
    scene = make_scene(dataset, frames, (AudioCode(64), LipsCode(), EyesCode()), audio_components=6)
    assert (scene.near, scene.far) == pytest.approx((tiny.DEPTH - 0.2, tiny.DEPTH + 0.4), abs=1e-6)
    assert scene.codes["audio"]["basis"].shape == (8, 6)
    eyes = dataset.tracks["eyes"][dataset.train.aud_id]
    np.testing.assert_allclose(scene.codes["eyes"]["mean"], eyes.mean(0), rtol=1e-5)
    assert make_scene(dataset, frames, (EyesCode(),), 6).codes.keys() == {"eyes"}
    # The highest row of neck or torso that any frame shows, and a margin of 2%.
    first = np.flatnonzero(np.isin(frames.parts, (NECK, TORSO)).any((0, 2)))[0]
    assert scene.torso_top == pytest.approx(first / tiny.SIZE - 0.02)
    chex.assert_tree_all_finite(scene)
    for leaf in [scene.box, scene.pose_mean, scene.pose_scale, scene.torso_top, scene.near]:
        assert leaf.dtype == np.float32
