"""The dataset in memory, made by this and by other programs."""

import json
import shutil

import chex
import cv2
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.types import Camera
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import (
    SUBJECTS,
    load_dataset,
    load_frames,
    neighbours_in_lists,
    neighbours_in_time,
    shrink_camera,
    tuning_split,
)
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.face.landmarks import face_rect
from adnerf_jax.face.parsing import HEAD, write_parts
from adnerf_jax.models.codes.audio import AudioCode
from adnerf_jax.models.codes.expression import ExpressionCode
from adnerf_jax.models.codes.eyes import EyesCode
from adnerf_jax.models.codes.lips import LipsCode


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


def test_zeros_past_the_ends_are_no_frames(tiny_data):
    assert neighbours_in_time(tiny.CLIP, zero_padded=True)[[0, 12]].tolist() == [
        [-1, -1, -1, -1, 0, 1, 2, 3],
        [8, 9, 10, 11, 12, -1, -1, -1],
    ]
    dataset = load_dataset(tiny_data, zero_padded=True)
    audio = dataset.conditions(np.array([1])).audio[0]
    np.testing.assert_array_equal(audio[:3], 0.0)
    np.testing.assert_array_equal(audio[3:], np.load(tiny_data / "aud.npy")[:5])


def test_the_published_neighbours_go_by_place_in_the_split(tiny_data):
    dataset = load_dataset(tiny_data, neighbours_by_list=True)
    # Frame 6 is the sixth of the training list, which lacks frame 5; frame 11 begins the held-out list.
    assert dataset.neighbours[6].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert dataset.neighbours[11].tolist() == [11, 11, 11, 11, 11, 12, 12, 12]
    assert dataset.neighbours[5].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]  # in no list
    padded = neighbours_in_lists([dataset.train.aud_id, dataset.val.aud_id], tiny.CLIP, zero_padded=True)
    assert padded[12].tolist() == [-1, -1, -1, 11, 12, -1, -1, -1]
    assert padded[6].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_conditions_are_those_of_the_frame(dataset, tiny_data):
    conditions = dataset.conditions(np.array([6, 2]))
    np.testing.assert_array_equal(conditions.audio[:, 4], np.load(tiny_data / "aud.npy")[[6, 2]])
    np.testing.assert_array_equal(conditions.tracks["eyes"], np.load(tiny_data / "eyes.npy")[[6, 2]])


def test_tracked_codes_are_added_by_name(tmp_path):
    data = tiny.add_landmarks(tiny.make_dataset(tmp_path / "data"))
    dataset, rows = load_dataset(data, codes=("audio", "lips", "eyes", "expression")), np.array([6, 2])
    assert dataset.conditions(rows).tracks.keys() == {"eyes"}
    added = dataset.conditions(rows, ("expression", "audio", "lips")).tracks
    assert added.keys() == {"eyes", "expression"}
    np.testing.assert_array_equal(added["expression"], dataset.tracks["expression"][rows])
    assert not load_dataset(data, codes=("audio",)).conditions(rows, ("audio", "expression")).tracks


def test_a_dataset_of_another_program_has_no_eyes_and_no_manifest(spoilt):
    (spoilt / schema.EYES).unlink()
    dataset = load_dataset(spoilt)
    assert (
        dataset.speech == "deepspeech"
        and not dataset.conditions(np.arange(tiny.CLIP)).tracks["eyes"].any()
        and dataset.conditions(np.arange(tiny.CLIP)).tracks["eyes"].shape == (tiny.CLIP, 2)
    )
    assert not dataset.tracks


def test_fewer_speech_windows_than_frames(spoilt):
    path = spoilt / schema.TRANSFORMS["val"]
    meta = json.loads(path.read_text())
    meta["frames"][-1]["aud_id"] = 34
    path.write_text(json.dumps(meta))
    np.save(spoilt / schema.AUDIO_WINDOWS, np.zeros((8, 16, 8), np.float32))
    with pytest.raises(UserError, match="aud.npy has 8 rows but the frames go up to 34: the sound ends 1.1 s before"):
        load_dataset(spoilt)


def test_a_sound_that_ends_a_little_early_keeps_its_last_window(spoilt, capsys):
    windows = np.load(spoilt / schema.AUDIO_WINDOWS)
    np.save(spoilt / schema.AUDIO_WINDOWS, windows[:-2])
    dataset = load_dataset(spoilt)
    np.testing.assert_array_equal(dataset.windows, np.concatenate([windows[:-2], windows[[-3, -3]]]))
    assert "the sound ends 2 frame(s) before the video; the last speech window is repeated" in capsys.readouterr().err
    np.save(spoilt / schema.AUDIO_WINDOWS, windows[:0])
    with pytest.raises(UserError, match="aud.npy has 0 rows but the frames go up to 12"):
        load_dataset(spoilt)


@pytest.mark.parametrize("name", ["gt/3.png", "parsing/3.png", "gt/bc.png"])
def test_a_damaged_image_is_named(spoilt, name):
    (spoilt / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"cannot read the image .*{name}"):
        dataset = load_dataset(spoilt)
        load_frames(dataset, dataset.train)


@pytest.mark.parametrize("size", [None, 16])
def test_a_frame_of_another_size(spoilt, size):
    cv2.imwrite(str(spoilt / "gt/3.png"), np.zeros((16, 20, 3), np.uint8))
    dataset = load_dataset(spoilt, size)
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


@pytest.mark.parametrize(("width", "height", "size"), [(450, 450, 112), (640, 480, 100), (32, 32, 32)])
def test_a_shrunk_camera_sees_a_point_at_the_same_place(width, height, size):
    camera = Camera(1.1 * width, 0.48 * width, 0.53 * height, height=height, width=width)
    small = shrink_camera(camera, size)
    assert (small.width, small.height) == (size, round(height * size / width))
    points = np.random.default_rng(0).uniform([-0.4, -0.4, 0.8], [0.4, 0.4, 1.2], (50, 3))

    def place(camera):
        """Columns and rows from the picture's corner, which is half a pixel before the first pixel's middle."""
        seen = camera.focal * points[:, :2] / points[:, 2:] + [camera.cx, camera.cy]
        return (seen + 0.5) / [camera.width, camera.height]

    # The smaller side is rounded to whole pixels: at most half a pixel in all.
    np.testing.assert_allclose(place(small), place(camera), atol=1e-9 if width == height else 0.5 / small.height)


@pytest.mark.parametrize("size", [15, 33])
def test_frames_are_not_enlarged(tiny_data, size):
    with pytest.raises(UserError, match=rf"config.size is {size}: the frames can be shrunk to 16 … 32 pixels"):
        load_dataset(tiny_data, size)


def test_shrunk_frames_show_the_same(tiny_data, dataset, frames):
    half = load_dataset(tiny_data, 16)
    small = load_frames(half, half.train)
    assert small.images.shape == (tiny.TRAIN, 16, 16, 3) and small.parts.shape == small.alpha.shape == (
        tiny.TRAIN,
        16,
        16,
    )
    average = frames.images.reshape(tiny.TRAIN, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(small.images - average).max() <= 0.5  # rounded to a byte
    behind = dataset.background.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(half.background - behind).max() <= 0.5
    # A part is one of the four that its pixel is made of.
    four = frames.parts.reshape(tiny.TRAIN, 16, 2, 16, 2)
    share = frames.alpha.reshape(tiny.TRAIN, 16, 2, 16, 2).mean((2, 4))
    assert np.abs(small.alpha - share).max() <= 0.5
    clear = four.min((2, 4)) == four.max((2, 4))
    np.testing.assert_array_equal(small.parts[clear], four[:, :, 0, :, 0][clear])
    np.testing.assert_array_equal(half.train.face_rect, np.tile([4, 3, 7, 6], (tiny.TRAIN, 1)))  # [9, 6, 14, 12] / 2
    np.testing.assert_allclose(half.mouth_rect, dataset.mouth_rect / 2, atol=0.5)
    np.testing.assert_array_equal(half.windows, dataset.windows)


def _edit(path, change) -> None:
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def _frames_of(path) -> list[int]:
    return [frame["img_id"] for frame in json.loads(path.read_text())["frames"]]


@pytest.fixture
def adnerfs(spoilt):
    """The small dataset as AD-NeRF's preparation leaves it: JPEGs, nothing of this project's own."""
    shutil.rmtree(spoilt / "gt")
    (spoilt / schema.EYES).unlink()
    return spoilt


@pytest.fixture
def radnerfs(adnerfs):
    """… as RAD-NeRF's leaves it: no composites under the old name, no face rectangles, torsos apart."""
    (adnerfs / "com_imgs").rename(adnerfs / "gt_imgs")
    shutil.rmtree(adnerfs / "head_imgs")
    (adnerfs / "aud.npy").rename(adnerfs / "aud_ds.npy")
    (adnerfs / "torso_imgs").mkdir()
    for i in _frames_of(adnerfs / schema.TRANSFORMS["train"]):
        cv2.imwrite(str(adnerfs / f"torso_imgs/{i}.png"), np.zeros((tiny.SIZE, tiny.SIZE, 4), np.uint8))
    for name in schema.TRANSFORMS.values():
        _edit(adnerfs / name, lambda meta: [frame.pop("face_rect") for frame in meta["frames"]])
    return adnerfs


@pytest.mark.parametrize("layout", ["adnerfs", "radnerfs"])
def test_datasets_of_others_are_read_as_they_are(request, layout, dataset, frames):
    data = request.getfixturevalue(layout)
    assert not {"gt", "alpha", schema.MANIFEST, schema.LANDMARKS, schema.EYES} & {p.name for p in data.iterdir()}
    theirs = load_dataset(data)
    assert theirs.speech == "deepspeech" and theirs.camera == dataset.camera
    np.testing.assert_array_equal(theirs.windows, dataset.windows)
    np.testing.assert_array_equal(theirs.train.img_id, dataset.train.img_id)
    assert not any(track.any() for track in theirs.conditions(np.arange(tiny.CLIP)).tracks.values())
    assert not theirs.tracks
    for ours, split in ((frames, theirs.train), (load_frames(dataset, dataset.val), theirs.val)):
        decoded = load_frames(theirs, split)
        np.testing.assert_array_equal(decoded.parts, ours.parts)
        np.testing.assert_array_equal(decoded.alpha, ours.alpha)
        assert np.abs(decoded.images.astype(int) - ours.images).mean() < 5  # JPEG
    codes = AudioCode(64), LipsCode(), EyesCode()
    scene = make_scene(theirs, load_frames(theirs, theirs.train), codes, 6)
    chex.assert_tree_all_finite(scene)
    # As if the eyes were always 0 and the lips never moved.
    assert not any(leaf.any() for leaf in scene.codes["lips"].values()) and not scene.codes["eyes"]["mean"].any()
    assert [code.check(theirs.tracks_of(code.name), tiny.CLIP) for code in codes] == [None] * 3
    assert "tracked expressions" in ExpressionCode().check(theirs.tracks_of("expression"), tiny.CLIP)


def test_a_face_is_looked_for_where_the_index_has_none(radnerfs, dataset):
    theirs = load_dataset(radnerfs)
    points = np.loadtxt(radnerfs / "ori_imgs/3.lms")
    np.testing.assert_array_equal(theirs.train.face_rect[3], face_rect(points, tiny.SIZE, tiny.SIZE))
    for path in (radnerfs / "ori_imgs").glob("*.lms"):
        path.unlink()
    # Without landmarks, around the head in the part map.
    rows, columns = np.nonzero(tiny.part_map(3) == HEAD)
    x, y = columns.min(), rows.min()
    expected = [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
    theirs = load_dataset(radnerfs)
    assert theirs.train.face_rect[3].tolist() == expected
    # The mouth is in its lower middle.
    x, y, width, height = expected
    assert theirs.mouth_rect[3].tolist() == [x + width // 4, y + 6 * height // 10, width // 2, 4 * height // 10]
    write_parts(radnerfs / "parsing/3.png", np.zeros((tiny.SIZE, tiny.SIZE), np.uint8))
    with pytest.raises(UserError, match="frame 3 has no face_rect in the index, no ori_imgs/3.lms and no head in its"):
        load_dataset(radnerfs)


def test_torsos_apart_are_not_needed_and_pictures_may_be_pngs(radnerfs, frames):
    shutil.rmtree(radnerfs / "torso_imgs")
    for path in list((radnerfs / "gt_imgs").iterdir()):
        cv2.imwrite(str(path.with_suffix(".png")), cv2.imread(str(path)))
        path.unlink()
    cv2.imwrite(str(radnerfs / "bc.png"), cv2.imread(str(radnerfs / "bc.jpg")))
    (radnerfs / "bc.jpg").unlink()
    dataset = load_dataset(radnerfs)
    assert np.abs(load_frames(dataset, dataset.train).images.astype(int) - frames.images).mean() < 5


def test_composites_are_made_of_filmed_frames(adnerfs, frames):
    shutil.rmtree(adnerfs / "com_imgs")
    for i in range(tiny.CLIP):  # another background than the clean one
        path = adnerfs / schema.original_image(i)
        if path.exists():
            image = tiny.picture(i, np.full((tiny.SIZE, tiny.SIZE, 3), 7, np.uint8), tiny.part_map(i))
            cv2.imwrite(str(path), image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 100))
    dataset = load_dataset(adnerfs)
    made = load_frames(dataset, dataset.train)
    behind = made.parts == 0
    np.testing.assert_array_equal(made.images[behind], np.broadcast_to(dataset.background, made.images.shape)[behind])
    assert np.abs(made.images.astype(int) - frames.images)[~behind].mean() < 15  # the edges of a JPEG


def test_held_out_frames_that_are_counted_from_0_again(spoilt, dataset, capsys):
    def relative(meta):
        for number, frame in enumerate(meta["frames"]):
            frame.update(img_id=number, aud_id=number)

    _edit(spoilt / schema.TRANSFORMS["val"], relative)
    theirs = load_dataset(spoilt)
    assert (
        "the held-out frames are numbered from 0 again; they are taken for frames 11 and on" in capsys.readouterr().err
    )
    np.testing.assert_array_equal(theirs.val.img_id, [11, 12])
    np.testing.assert_array_equal(theirs.val.aud_id, [11, 12])
    chex.assert_trees_all_equal(load_frames(theirs, theirs.val), load_frames(dataset, dataset.val))


def test_a_frame_in_both_splits(spoilt):
    _edit(spoilt / schema.TRANSFORMS["val"], lambda meta: meta["frames"][0].update(img_id=4))
    with pytest.raises(UserError, match="frame 4 is in both splits, so nothing is held out"):
        load_dataset(spoilt)


def test_frames_out_of_order_are_sorted_with_a_message(spoilt, dataset, capsys):
    _edit(spoilt / schema.TRANSFORMS["train"], lambda meta: meta["frames"].reverse())
    theirs = load_dataset(spoilt)
    assert "transforms_train.json: the frames are not in order of time; they are sorted" in capsys.readouterr().err
    chex.assert_trees_all_equal(theirs.train, dataset.train)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda meta: meta["frames"].append(meta["frames"][2]), "transforms_train.json lists a frame twice"),
        (lambda meta: meta.update(frames=[]), "has no training frames"),
        (lambda meta: meta["frames"][1].update(img_id=-1), "names frames by negative numbers"),
        (
            lambda meta: meta["frames"][1]["transform_matrix"][1].__setitem__(1, float("nan")),
            "transforms_train.json holds poses that are not finite numbers",
        ),
        (
            lambda meta: meta["frames"][1]["transform_matrix"][1].__setitem__(1, 1e308),
            "transforms_train.json holds poses that are not finite numbers",
        ),
        (
            lambda meta: meta["frames"][3]["transform_matrix"][0].__setitem__(0, 0.5),
            "the transform_matrix of frame 3 is not a rotation and a translation",
        ),
        (  # a mirror
            lambda meta: meta["frames"][3].update(transform_matrix=np.diag([1.0, 1, -1, 1]).tolist()),
            "the transform_matrix of frame 3 is not a rotation and a translation",
        ),
        (
            lambda meta: meta["frames"][3]["transform_matrix"].__setitem__(3, [0, 0, 0.1, 1]),
            "the transform_matrix of frame 3 is not a rotation and a translation",
        ),
        (
            lambda meta: meta["frames"][3]["transform_matrix"].__setitem__(3, [0, 0, 1]),
            "is not an AD-NeRF dataset index",
        ),
    ],
    ids=["twice", "empty", "negative", "nan", "huge", "scaled", "mirror", "projective", "ragged"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_errors_of_an_index_are_one_line(spoilt, spoil, message):
    _edit(spoilt / schema.TRANSFORMS["train"], spoil)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(spoilt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["gt/3.png", "com_imgs/3.jpg", "ori_imgs/3.jpg"], r"lacks gt/3.png \(or com_imgs/3.jpg, .*, ori_imgs/3.png\)"),
        (["parsing/3.png"], r"lacks parsing/3.png \(or parsing/3.jpg\)"),
        (["gt/bc.png", "bc.jpg"], r"not a finished dataset \(bc.jpg missing\)"),
        (["aud.npy"], r"not a finished dataset \(aud.npy missing\)"),
    ],
)
def test_a_missing_file_is_named_with_what_would_do_as_well(spoilt, gone, message):
    for name in gone:
        (spoilt / name).unlink()
    with pytest.raises(UserError, match=message) as caught:
        dataset = load_dataset(spoilt)
        load_frames(dataset, dataset.train)
    assert "\n" not in str(caught.value)


def test_a_silhouette_of_another_size(spoilt):
    (spoilt / "alpha").mkdir()
    cv2.imwrite(str(spoilt / "alpha/3.png"), np.zeros((16, 20), np.uint8))
    dataset = load_dataset(spoilt)
    with pytest.raises(UserError, match="alpha/3.png is 20x16, its part map 32x32"):
        load_frames(dataset, dataset.train)
