"""JAX's cache of compiled programs: kept where it can be written, only read where it cannot."""

import jax
import pytest

from adnerf_jax.common import compilation


@pytest.mark.parametrize(("writable", "least"), [(True, 0.2), (False, 1e9)])
def test_a_read_only_cache_is_read_and_never_written(monkeypatch, tmp_path, writable, least):
    """JAX warns of each program that it cannot write; it writes none that compiles faster than the least time."""
    monkeypatch.setenv("ADNERF_CACHE", str(tmp_path))
    (tmp_path / "compiled").mkdir()
    monkeypatch.setattr(compilation, "can_write_into", lambda folder: writable)
    updates = _updates(monkeypatch)
    compilation.enable_cache()
    assert updates == {
        "jax_compilation_cache_dir": str(tmp_path / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": least,
    }


def test_without_any_cache_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADNERF_CACHE", str(tmp_path / "file" / "cache"))
    updates = _updates(monkeypatch)
    compilation.enable_cache()
    assert updates == {}


def _updates(monkeypatch) -> dict:
    updates: dict = {}

    class Config:
        jax_compilation_cache_dir = None

        def update(self, name, value):
            updates[name] = value

    monkeypatch.setattr(jax, "config", Config())
    return updates
