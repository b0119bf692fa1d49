"""The dataset on disk: what is read, and the messages about invalid ones."""

import json
import shutil

import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.data import schema
from adnerf_jax.data.schema import load_audio_windows, load_index, load_manifest, mean_depth


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the small dataset's index and sounds, to be spoilt."""
    for name in (*schema.TRANSFORMS.values(), schema.AUDIO_WINDOWS, schema.BACKGROUND):
        shutil.copy(tiny_data / name, tmp_path / name)
    return tmp_path


def edit(path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_an_index_is_read_as_written(tiny_data):
    index = load_index(tiny_data)
    assert (index.focal, index.cx, index.cy) == (2.67 * tiny.SIZE, tiny.SIZE / 2, tiny.SIZE / 2)
    assert index.train.img_id.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert index.val.aud_id.tolist() == [11, 12]
    assert index.train.transforms.dtype == np.float32 and index.train.transforms.shape == (tiny.TRAIN, 4, 4)
    assert index.val.face_rect.tolist() == [[9, 6, 14, 12]] * 2


def test_depth_is_measured_along_the_cameras_axis():
    # A head 0.7 and one 0.9 in front of a camera that is turned and moved sideways: head-to-camera is −Rᵀt.
    transforms = np.stack([tiny.pose(0.4, 0.2), tiny.pose(-0.3, 0.1, (0.2, 0.1))])
    rotations = transforms[:, :3, :3]
    transforms[:, :3, 3] = np.einsum("nij,nj->ni", rotations, [[0.0, 0.0, 0.7], [0.3, -0.2, 0.9]])
    assert mean_depth(transforms) == pytest.approx(0.8)


def test_near_and_far_are_those_of_all_frames(tiny_data):
    # Every frame of the small dataset is at the same depth.
    assert load_index(tiny_data).near_far == pytest.approx((tiny.DEPTH - 0.2, tiny.DEPTH + 0.4), abs=1e-6)


def test_rows_of_a_split(tiny_data):
    split = load_index(tiny_data).train.take(slice(3, 6))
    assert len(split) == 3 and split.img_id.tolist() == [3, 4, 6] and split.transforms.shape == (3, 4, 4)


def test_a_missing_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"no dataset at .*python -m adnerf_jax.preprocessing"):
        load_index(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["transforms_val.json", "aud.npy", "bc.jpg"])
def test_an_unfinished_dataset_names_what_is_missing(data, name):
    (data / name).unlink()
    with pytest.raises(UserError, match=rf"not a finished dataset \({name} missing\)"):
        load_index(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda meta: meta.pop("focal_len"),
        lambda meta: meta.pop("frames"),
        lambda meta: meta["frames"][0].pop("aud_id"),
        lambda meta: meta["frames"][0].update(face_rect=[1, 2, 3]),
        lambda meta: meta["frames"][0].update(transform_matrix=[[1, 2], [3]]),
        lambda meta: meta.update(cx=None),
    ],
)
def test_a_malformed_index_is_named(data, spoil):
    edit(data / "transforms_train.json", spoil)
    with pytest.raises(UserError, match="transforms_train.json is not an AD-NeRF dataset index"):
        load_index(data)


def test_poses_are_numbers(data):
    edit(data / "transforms_train.json", lambda m: m["frames"][1]["transform_matrix"][0].__setitem__(3, float("nan")))
    with pytest.raises(UserError, match="not finite"):
        load_index(data)


def test_a_dataset_without_training_frames(data):
    edit(data / "transforms_train.json", lambda meta: meta.update(frames=[]))
    with pytest.raises(UserError, match="no training frames"):
        load_index(data)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: np.save(path, np.zeros((5, 8, 29))),
        lambda path: np.save(path, np.zeros((5, 29))),
        lambda path: np.save(path, np.array([{"a": 1}], object), allow_pickle=True),
        lambda path: path.write_text("not an array"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_audio_windows_of_another_kind(data, write):
    write(data / schema.AUDIO_WINDOWS)
    with pytest.raises(UserError, match="aud.npy"):
        load_audio_windows(data)


def test_audio_windows_become_float32(data):
    np.save(data / schema.AUDIO_WINDOWS, np.ones((4, 16, 29)))
    windows = load_audio_windows(data)
    assert windows.dtype == np.float32 and windows.shape == (4, 16, 29)


def test_datasets_of_other_programs_have_no_manifest(data):
    assert load_manifest(data) == {}
