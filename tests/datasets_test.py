"""The dataset in memory, whoever made it."""

import json
import shutil

import cv2
import numpy as np
import pytest
import tiny

from adnerf_jax import schema
from adnerf_jax.datasets import SUBJECTS, load_dataset, load_frames, neighbours_in_time, tuning_split
from adnerf_jax.errors import UserError
from adnerf_jax.face.parsing import HEAD


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
        np.testing.assert_array_equal(frames.showing(SUBJECTS["head"], row, background), head)


def test_a_dataset_without_lossless_frames_is_read_from_its_jpgs(spoilt, frames):
    shutil.rmtree(spoilt / "gt")
    dataset = load_dataset(spoilt)
    decoded = load_frames(dataset, dataset.train)
    difference = np.abs(decoded.images.astype(int) - frames.images)
    assert 0 < difference.mean() < 5


def test_neighbours_are_found_by_time():
    found = neighbours_in_time(tiny.CLIP)[[0, 6, 12]]
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
    path = spoilt / schema.TRANSFORMS["val"]
    meta = json.loads(path.read_text())
    meta["frames"][-1]["aud_id"] = 34
    path.write_text(json.dumps(meta))
    np.save(spoilt / schema.AUDIO_WINDOWS, np.zeros((8, 16, 8), np.float32))
    with pytest.raises(UserError, match="aud.npy has 8 rows but the frames go up to 34: the sound ends 1.1 s before"):
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
    with pytest.raises(UserError, match="gt/3.png is 20x16, its part map 32x32"):
        load_frames(dataset, dataset.train)
    cv2.imwrite(str(spoilt / "parsing/3.png"), np.zeros((16, 20, 3), np.uint8))
    with pytest.raises(UserError, match="frame 3 of .* is 20x16, its background is 32x32"):
        load_frames(dataset, dataset.train)


def test_tuning_holds_out_the_last_tenth_of_the_training_frames(dataset):
    first, last = tuning_split(dataset.train)
    assert first.img_id.tolist() + last.img_id.tolist() == dataset.train.img_id.tolist()
    assert last.img_id.tolist() == [10]


def test_the_mouth_is_where_the_landmarks_are(dataset, tiny_data):
    lips = np.loadtxt(tiny_data / "ori_imgs/3.lms")[48:]
    x, y, width, height = dataset.mouth_rect[3]
    low, high = lips.min(0), lips.max(0)
    assert (low >= [x, y]).all() and (high <= [x + width, y + height]).all()
    assert width == pytest.approx(2 * (high - low)[0], abs=2)  # whole pixels
