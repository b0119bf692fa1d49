"""The dataset in memory, what is derived from it, and the rays drawn from it."""

import shutil

import chex
import cv2
import numpy as np
import pytest
import tiny

from adnerf_jax import schema
from adnerf_jax.datasets import (
    head_box,
    load_dataset,
    load_frames,
    make_scene,
    neighbour_windows,
    regions_of,
    tuning_split,
    whiten,
)
from adnerf_jax.errors import UserError
from adnerf_jax.face.parsing import HEAD, NECK, TORSO
from adnerf_jax.person import Person


@pytest.fixture(scope="module")
def dataset(tiny_data):
    return load_dataset(tiny_data)


@pytest.fixture(scope="module")
def frames(dataset):
    return load_frames(dataset, dataset.train)


@pytest.fixture
def spoilt(tiny_data, tmp_path):
    """A copy of the small dataset, to be changed."""
    return shutil.copytree(tiny_data, tmp_path / "dataset")


def test_frames_are_the_lossless_ones_in_rgb(dataset, frames):
    assert len(frames) == tiny.TRAIN
    background = dataset.background
    for row, i in enumerate(dataset.train.img_id):
        parts = tiny.part_map(i)
        np.testing.assert_array_equal(frames.parts[row], parts)
        np.testing.assert_array_equal(frames.images[row], tiny.picture(i, background, parts))
        head = np.where((parts == HEAD)[..., None], frames.images[row], background)
        np.testing.assert_array_equal(frames.head_images(row, background), head)


def test_a_dataset_without_lossless_frames_is_read_from_its_jpgs(spoilt, frames):
    shutil.rmtree(spoilt / "gt")
    dataset = load_dataset(spoilt)
    decoded = load_frames(dataset, dataset.train)
    difference = np.abs(decoded.images.astype(int) - frames.images)
    assert 0 < difference.mean() < 5


def test_neighbours_are_found_by_time():
    windows = np.arange(tiny.CLIP, dtype=np.float32)[:, None, None] * np.ones((1, 16, 2), np.float32)
    found = neighbour_windows(windows, np.array([0, 6, 12]))[..., 0, 0]
    # The dropped frame 5 is a neighbour like every other; the ends are repeated.
    assert found.tolist() == [[0, 0, 0, 0, 0, 1, 2, 3], [2, 3, 4, 5, 6, 7, 8, 9], [8, 9, 10, 11, 12, 12, 12, 12]]


def test_conditions_are_those_of_the_frame(dataset, tiny_data):
    conditions = dataset.conditions(np.array([6, 2]))
    np.testing.assert_array_equal(conditions.audio[:, 4], np.load(tiny_data / "aud.npy")[[6, 2]])
    np.testing.assert_array_equal(conditions.eyes, np.load(tiny_data / "eyes.npy")[[6, 2]])


def test_a_dataset_of_another_program_has_no_eyes_and_no_manifest(spoilt):
    (spoilt / schema.EYES).unlink()
    dataset = load_dataset(spoilt)
    assert dataset.speech == "deepspeech" and not dataset.eyes.any() and dataset.eyes.shape == (tiny.CLIP, 2)


def test_fewer_speech_windows_than_frames(spoilt):
    np.save(spoilt / schema.AUDIO_WINDOWS, np.zeros((8, 16, 8), np.float32))
    with pytest.raises(UserError, match="aud.npy has 8 rows but the frames go up to 12"):
        load_dataset(spoilt)


@pytest.mark.parametrize("name", ["gt/3.png", "parsing/3.png", "gt/bc.png"])
def test_a_damaged_image_is_named(spoilt, name):
    (spoilt / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"cannot read the image .*{name}"):
        dataset = load_dataset(spoilt)
        load_frames(dataset, dataset.train)


def test_a_frame_of_another_size(spoilt):
    cv2.imwrite(str(spoilt / "gt/3.png"), np.zeros((16, 20, 3), np.uint8))
    dataset = load_dataset(spoilt)
    with pytest.raises(UserError, match="frame 3 of .* is 20x16, its background is not"):
        load_frames(dataset, dataset.train)


def test_tuning_holds_out_the_last_tenth_of_the_training_frames(dataset):
    first, last = tuning_split(dataset.train)
    assert first.img_id.tolist() + last.img_id.tolist() == dataset.train.img_id.tolist()
    assert last.img_id.tolist() == [10]


def test_whitened_features_have_variance_one_and_do_not_depend_on_each_other():
    rng = np.random.default_rng(0)
    windows = (rng.normal(size=(60, 16, 5)) * [9, 3, 2, 1, 0.1]) @ rng.normal(size=(5, 5)) + 7
    mean, basis = whiten(windows.astype(np.float32), 3)
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
    mean, basis = whiten(windows, 64)
    assert basis.shape == (4, 4)
    chex.assert_tree_all_finite((windows - mean) @ basis)


def test_the_box_holds_every_pixel_of_the_head_at_its_depth(dataset, frames):
    box = head_box(frames, dataset.camera)
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


def test_a_dataset_that_shows_no_head(dataset, frames):
    empty = frames.replace(parts=np.zeros_like(frames.parts))
    with pytest.raises(UserError, match="no frame shows a head"):
        head_box(empty, dataset.camera)


def test_the_scene_is_made_of_training_frames(dataset, frames):
    scene = make_scene(dataset, frames, audio_features=6)
    assert (scene.near, scene.far) == pytest.approx((tiny.DEPTH - 0.2, tiny.DEPTH + 0.4), abs=1e-6)
    assert scene.audio_basis.shape == (8, 6)
    np.testing.assert_allclose(scene.eyes_mean, dataset.eyes[dataset.train.aud_id].mean(0), rtol=1e-5)
    # The highest row of neck or torso that any frame shows, and a margin of 2%.
    first = np.flatnonzero(np.isin(frames.parts, (NECK, TORSO)).any((0, 2)))[0]
    assert scene.torso_top == pytest.approx(first / tiny.SIZE - 0.02)
    chex.assert_tree_all_finite(scene)
    for leaf in [scene.box, scene.pose_mean, scene.pose_scale, scene.torso_top, scene.near]:
        assert leaf.dtype == np.float32


def test_regions_lie_inside_the_image_and_hold_their_parts(dataset, frames):
    regions = regions_of(dataset, frames)
    for rects in regions.values():
        assert rects.shape == (tiny.TRAIN, 4)
        assert (rects[:, :2] >= 0).all() and (rects[:, 2:] >= 1).all()
        assert (rects[:, :2] + rects[:, 2:] <= tiny.SIZE).all()
    np.testing.assert_array_equal(regions["face"], dataset.train.face_rect)
    for name, parts in (("head", [HEAD]), ("torso", [NECK, TORSO])):
        for row, (x, y, width, height) in enumerate(regions[name]):
            outside = np.isin(frames.parts[row], parts)
            outside[y : y + height, x : x + width] = False
            assert not outside.any()
    assert (regions["head"][:, 2:] < 20).all()


def test_the_mouth_is_where_the_landmarks_are(dataset, tiny_data):
    lips = np.loadtxt(tiny_data / "ori_imgs/3.lms")[48:]
    x, y, width, height = dataset.mouth_rect[3]
    low, high = lips.min(0), lips.max(0)
    assert (low >= [x, y]).all() and (high <= [x + width, y + height]).all()
    assert width == pytest.approx(2 * (high - low)[0], abs=2)  # whole pixels


def test_a_step_draws_the_same_rays_whenever_it_comes(dataset, tiny_data):
    settings = tiny.config("head", tiny_data)
    sampler, other = tiny.ray_sampler(settings, dataset), tiny.ray_sampler(settings, dataset)
    third = sampler.batch(3)
    sampler.batch(8)
    chex.assert_trees_all_equal(third, sampler.batch(3), other.batch(3))
    assert not np.array_equal(third.pixels, sampler.batch(4).pixels)
    assert not np.array_equal(third.pixels, tiny.ray_sampler(settings, dataset, seed=1).batch(3).pixels)


@pytest.mark.parametrize("random_background", [False, True])
@pytest.mark.parametrize("stage", ["head", "torso"])
def test_targets_are_the_pixels_of_their_frame(dataset, frames, stage, random_background):
    subject = {"head": [HEAD], "torso": [HEAD, NECK, TORSO]}[stage]
    sampler = tiny.ray_sampler(tiny.config(stage), dataset, random_background=random_background)
    batch = sampler.batch(0)
    assert batch.target.shape == (4, 32, 3) and batch.target.dtype == np.float32
    seen = []
    for f in range(4):
        (row,) = np.flatnonzero((frames.split.transforms == batch.transforms[f]).all((1, 2)))
        seen.append(row)
        np.testing.assert_array_equal(batch.conditions.eyes[f], dataset.eyes[frames.split.aud_id[row]])
        rows, columns = batch.pixels[f].astype(int).T
        inside = np.isin(frames.parts[row, rows, columns], subject)
        colours = frames.images[row, rows, columns] / np.float32(255)
        np.testing.assert_allclose(batch.target[f][inside], colours[inside], rtol=1e-6)
        np.testing.assert_array_equal(batch.target[f][~inside], batch.background[f][~inside])
        behind = dataset.background[rows, columns] / np.float32(255)
        assert np.allclose(batch.background[f], behind) != random_background
    assert len(set(seen)) == 4


@pytest.mark.parametrize("random_background", [False, True])
def test_behind_the_silhouette_the_background_is_exchanged(dataset, frames, random_background):
    """Pixels made of a known person, share and background: over any other background the mixture must be theirs."""
    rng = np.random.default_rng(0)
    person = rng.random(frames.images.shape)
    alpha = rng.integers(0, 256, frames.parts.shape).astype(np.uint8)
    share = alpha[..., None] / 255
    mixed = np.round(255 * person * share + (1 - share) * dataset.background).astype(np.uint8)
    frames = frames.replace(images=mixed, alpha=alpha, parts=np.full_like(frames.parts, HEAD))
    sampler = tiny.ray_sampler(tiny.config("head"), dataset, frames=frames, random_background=random_background)
    batch = sampler.batch(0)
    for f in range(4):
        (row,) = np.flatnonzero((frames.split.transforms == batch.transforms[f]).all((1, 2)))
        rows, columns = batch.pixels[f].astype(int).T
        true = person[row, rows, columns] * share[row, rows, columns]
        true = true + (1 - share[row, rows, columns]) * batch.background[f]
        np.testing.assert_allclose(batch.target[f], true, atol=0.51 / 255)  # the mixture was rounded to a byte


def test_rays_fill_their_rectangles(dataset, tiny_data):
    # Three quarters of the rays in the face rectangle, 14 wide and 12 high at (9, 6): transposed, this would show.
    sampler = tiny.ray_sampler(tiny.config("head", tiny_data), dataset, regions={"face": 0.75, "frame": 0.25})
    pixels = np.stack([sampler.batch(step).pixels for step in range(40)])
    assert pixels.shape == (40, 4, 32, 2)
    face, frame = pixels[:, :, :24].reshape(-1, 2), pixels[:, :, 24:].reshape(-1, 2)
    assert face.min(0).tolist() == [6, 9] and face.max(0).tolist() == [17, 22]
    assert frame.min(0).tolist() == [0, 0] and frame.max(0).tolist() == [31, 31]


def test_a_person_is_kept_as_it_is(dataset, tmp_path):
    person = Person.of(dataset)
    person.save(tmp_path)
    loaded = Person.load(tmp_path)
    chex.assert_trees_all_equal(loaded, person)
    assert (loaded.camera, loaded.speech) == (person.camera, "deepspeech")
    with pytest.raises(UserError, match="holds no trained person"):
        Person.load(tmp_path / "elsewhere")
