"""Kept frames: which belong to a job, and which are deleted."""

import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.inference.shards import discard_frames, finished_frames, frame_path, parse_shard, read_frame
from adnerf_jax.media.image import read_image, write_image


def test_frames_of_another_job_are_not_reused(tmp_path):
    folder = tmp_path / "video.mp4.frames"
    job = {"audio": "abc", "step": 3}
    assert finished_frames(folder, job) == set()
    for i in (0, 2):
        write_image(folder / f"{i:06d}.png", np.zeros((2, 2, 3), np.uint8))
    assert finished_frames(folder, job) == {0, 2}
    assert finished_frames(folder, job | {"step": 4}) == set()
    assert finished_frames(folder, job | {"step": 4}) == set()
    (folder / "job.json").write_text("{")
    write_image(folder / "000001.png", np.zeros((2, 2, 3), np.uint8))
    assert finished_frames(folder, job) == set()


def test_other_files_among_kept_frames_are_no_frames(tmp_path):
    finished_frames(tmp_path / "frames", {})
    for name in ("000001 copy.png", "1.png", "000002.png.part", "٠٠٠٠٠٣.png"):
        (tmp_path / "frames" / name).touch()
    write_image(frame_path(tmp_path / "frames", 4), np.zeros((2, 2, 3), np.uint8))
    assert finished_frames(tmp_path / "frames", {}) == {4}


def test_frames_are_kept_in_no_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/job.json").write_text("{}")
    (tmp_path / "mine/notes.txt").touch()
    (tmp_path / "frames").symlink_to(tmp_path / "mine")
    for delete in (
        lambda: finished_frames(tmp_path / "frames", {"step": 1}),
        lambda: discard_frames(tmp_path / "frames"),
    ):
        with pytest.raises(UserError, match="frames is a link to .*mine"):
            delete()
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"job.json", "notes.txt"}


def test_a_damaged_frame_is_deleted(tmp_path):
    job, path = {"step": 3}, frame_path(tmp_path / "video.mp4.frames", 4)
    finished_frames(path.parent, job)
    write_image(path, np.full((2, 2, 3), 9, np.uint8))
    np.testing.assert_array_equal(read_frame(path.parent, 4, read_image), np.full((2, 2, 3), 9))
    assert finished_frames(path.parent, job) == {4}
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="000004.png was damaged and is deleted: run the same command again"):
        read_frame(path.parent, 4, read_image)
    assert finished_frames(path.parent, job) == set()


def test_parse_shard():
    assert parse_shard(None, "render.shard") == (0, 1) and parse_shard("2/4", "render.shard") == (1, 4)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/2", "²/4", "1/²", "1/" + "9" * 5000):
        with pytest.raises(UserError, match="eval.shard is .*give 1/4, 2/4, 3/4, 4/4"):
            parse_shard(text, "eval.shard")


def test_a_folder_left_by_a_full_disk_is_used(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/.job.json.part").touch()
    assert finished_frames(tmp_path / "frames", {"step": 1}) == set()
    write_image(frame_path(tmp_path / "frames", 0), np.zeros((2, 2, 3), np.uint8))
    discard_frames(tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


def test_a_folder_that_no_render_wrote_is_not_deleted(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no render wrote it"):
        finished_frames(tmp_path / "frames", {})
    assert (tmp_path / "frames/notes.txt").exists()
