"""Files that are whole or absent, and JSON that says where it is broken."""

import errno
import os

import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import (
    atomic_path,
    cache_folder,
    can_write_into,
    explain_os_error,
    given_path,
    part_of,
    read_json,
    write_bytes,
    write_json,
)


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path):
    target = tmp_path / "new" / "picture.png"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".png"
        temporary.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert [p.name for p in target.parent.iterdir()] == ["picture.png"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_names_of_unfinished_files_differ_and_results_get_the_usual_permissions(tmp_path):
    target = tmp_path / "a.json"
    assert part_of(target) != part_of(target)
    before = os.umask(0o027)
    try:
        write_bytes(target, b"1")
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o640


def test_json_comes_back(tmp_path):
    value = {"a": [1, 2.5, None], "ü": "text"}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json", "value") == value


def test_broken_json_is_named(tmp_path):
    with pytest.raises(UserError, match="dataset index not found: .*gone.json"):
        read_json(tmp_path / "gone.json", "dataset index")
    for content in (b'{"a": 1', b"\xff\xfe\x00"):
        write_bytes(tmp_path / "bad.json", content)
        with pytest.raises(UserError, match="dataset index .*bad.json is not valid JSON") as caught:
            read_json(tmp_path / "bad.json", "dataset index")
        assert "\n" not in str(caught.value)


def test_operating_system_errors_in_one_line():
    full = explain_os_error(OSError(errno.ENOSPC, "No space left on device", "/w/f.png"))
    assert "disk is full" in full and "/w/f.png" in full
    assert explain_os_error(PermissionError(errno.EACCES, "Permission denied", "/w")) == "Permission denied (/w)"
    assert explain_os_error(OSError("odd")) == "odd"


def test_the_cache_folder_is_set_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ADNERF_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ADNERF_CACHE")
    monkeypatch.setenv("HOME", "/someone")
    assert str(cache_folder()) == "/someone/.cache/adnerf_jax"


def test_a_given_path_may_begin_at_home_and_is_no_url(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/me.mp4") == f"{tmp_path}/me.mp4" and given_path("a/~b: c.mp4") == "a/~b: c.mp4"
    for url in ("https://host/a//me.mp4?x=1", "file:///me.mp4", "s3://bucket/me.mp4"):
        with pytest.raises(UserError) as refused:
            given_path(url)
        assert str(refused.value).startswith(f"{url} is a URL")


def test_whether_a_folder_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert can_write_into(tmp_path / "new" / "one") and not can_write_into(tmp_path / "file" / "in")
    assert [path.name for path in (tmp_path / "new" / "one").iterdir()] == []


def test_the_home_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ADNERF_CACHE", "~/kept")
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.delenv("ADNERF_CACHE")
    assert cache_folder() == tmp_path / ".cache" / "adnerf_jax"
