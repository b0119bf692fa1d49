"""Decoded frames in a mapped file: the same as decoded, made once, made again when a source file changes."""

import fcntl
import json
import os
import resource
import shutil
import threading

import chex
import numpy as np
import pytest
import tiny
from toy_code import JawCode

from adnerf_jax.common.errors import UserError
from adnerf_jax.data import frame_cache, tracks
from adnerf_jax.data.datasets import load_dataset, load_frames
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.models.codes import registry


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the small dataset."""
    return shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".frames"))


def read(data):
    dataset = load_dataset(data)
    return cached_frames(dataset, dataset.train)


def files(data):
    return sorted(p for p in (data / ".frames").rglob("*") if p.is_file())


def test_frames_are_as_decoded_and_made_once(data, monkeypatch):
    dataset = load_dataset(data)
    frames, digest = cached_frames(dataset, dataset.train)
    chex.assert_trees_all_equal(frames, load_frames(dataset, dataset.train))
    assert not frames.packed.flags.writeable
    monkeypatch.setattr(frame_cache, "decode_frame", None)
    again, same = cached_frames(dataset, dataset.train)
    chex.assert_trees_all_equal(again, frames)
    assert same == digest


def test_the_digest_is_that_of_the_data_not_of_their_place_or_time(data, tmp_path):
    _, digest = read(data)
    moved = shutil.move(data, tmp_path / "elsewhere")
    os.utime(moved / "gt/3.png")
    assert read(moved)[1] == digest
    eyes = np.load(moved / "eyes.npy")
    np.save(moved / "eyes.npy", eyes + 0.01)
    other = read(moved)[1]
    np.save(moved / "eyes.npy", eyes)
    assert other != digest == read(moved)[1]


def test_of_the_tracks_the_digest_covers_those_that_the_codes_read(data, monkeypatch):
    def digest(*codes: str) -> str:
        dataset = load_dataset(data, codes=codes)
        return cached_frames(dataset, dataset.train)[1]

    names = ("audio",), ("audio", "eyes"), ("audio", "lips"), ("audio", "expression")
    assert len({digest(*codes) for codes in names[:2]}) == 2
    plain, eyes, lips, expression = (digest(*codes) for codes in names)
    monkeypatch.setitem(registry.CODES, "jaw", JawCode)
    monkeypatch.setitem(tracks.READERS, "gaze", lambda clip: np.ones((clip.frames, 3), np.float32))
    assert "gaze" in load_dataset(data).tracks
    assert [digest(*codes) for codes in names] == [plain, eyes, lips, expression]
    tiny.add_landmarks(data)
    assert digest("audio") == plain and digest("audio", "eyes") == eyes
    assert digest("audio", "lips") != lips and digest("audio", "expression") != expression
    assert digest("audio", "expression") == digest("audio", "jaw", "expression")  # which read the same track


def test_a_changed_picture_is_decoded_again(data):
    before, digest = read(data)
    before = np.array(before.images[3])
    shutil.copy(data / "gt/4.png", data / "gt/3.png")
    frames, other = read(data)
    assert other != digest
    np.testing.assert_array_equal(frames.images[3], frames.images[4])
    assert not np.array_equal(frames.images[3], before)


@pytest.mark.parametrize("how", ["flipped", "cut", "no info", "info flipped", "info of another shape"])
def test_a_damaged_cache_is_made_again(data, capsys, how):
    frames, digest = read(data)
    frames = frames.replace(packed=np.array(frames.packed))
    (array,) = (p for p in files(data) if p.name == "frames.npy")
    content = bytearray(array.read_bytes())
    info = array.with_name("info.json")
    if how == "flipped":
        content[len(content) // 2] ^= 1
        array.write_bytes(content)
    elif how == "cut":
        array.write_bytes(content[:-1])
    elif how == "no info":
        info.unlink()
    elif how == "info flipped":
        known = json.loads(info.read_text())
        known["sources"] = "0" + known["sources"][1:] if known["sources"][0] != "0" else "1" + known["sources"][1:]
        info.write_text(json.dumps(known))
    else:
        info.write_text(json.dumps([1]))
    again, same = read(data)
    chex.assert_trees_all_equal(again, frames)
    assert same == digest
    assert capsys.readouterr().err.count("is damaged or out of date") == 1


def test_many_read_at_once_and_nobody_while_they_are_made(data, monkeypatch):
    locks, flock = [], fcntl.flock
    monkeypatch.setattr(frame_cache.fcntl, "flock", lambda file, how: locks.append(how) or flock(file, how))
    read(data)
    assert locks == [fcntl.LOCK_SH, fcntl.LOCK_EX]
    with next((data / ".frames").glob("*.lock")).open() as other:
        flock(other, fcntl.LOCK_SH)
        read(data)  # beside another reader
        assert locks[2:] == [fcntl.LOCK_SH]
        flock(other, fcntl.LOCK_EX)
        reader = threading.Thread(target=read, args=[data], daemon=True)
        reader.start()
        reader.join(1)
        assert reader.is_alive()
        flock(other, fcntl.LOCK_UN)
        reader.join(30)
        assert not reader.is_alive()


def test_what_killed_builds_left_is_removed(data):
    read(data)
    name = next((data / ".frames").glob("*.lock")).stem
    left = [data / ".frames" / f"{name}.1.part", data / ".frames" / f".{name}.0a1b2c3d.part"]
    for folder in left:
        folder.mkdir()
        (folder / "frames.npy").write_bytes(b"half")
    other = data / ".frames/.other.0a1b2c3d.part"
    other.mkdir()
    (data / ".frames" / name / "info.json").unlink()
    read(data)
    assert other.exists() and not any(folder.exists() for folder in left)


def test_without_room_there_is_an_error_and_nothing_is_left(data):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        with pytest.raises(OSError):
            read(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.suffix for p in files(data)] == [".lock"]
    read(data)


def test_a_frame_that_is_missing_is_named(data):
    (data / "parsing/3.png").unlink()
    with pytest.raises(UserError, match="lacks parsing/3.png"):
        read(data)


def test_links_of_a_hostile_dataset_are_not_followed(data, tmp_path, monkeypatch):
    read(data)
    lock = next((data / ".frames").glob("*.lock"))
    victim = tmp_path / "victim"
    victim.write_text("mine")
    lock.unlink()
    lock.symlink_to(victim)
    with pytest.raises(UserError, match="lock is a link"):
        read(data)
    assert victim.read_text() == "mine"
    shutil.rmtree(data / ".frames")
    (tmp_path / "other").mkdir()
    (data / ".frames").symlink_to(tmp_path / "other")
    monkeypatch.setenv("ADNERF_CACHE", str(tmp_path / "cache"))
    read(data)
    assert not list((tmp_path / "other").iterdir())
