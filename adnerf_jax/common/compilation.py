"""JAX's persistent compilation cache in the user's cache folder, so that only the first run of a command compiles."""

import jax

from adnerf_jax.common.files import cache_folder, can_write_into

_NEVER = 1e9  # seconds of compilation from which a program would be kept


def enable_cache() -> None:
    """Turns on JAX's persistent compilation cache, unless the user has set one up."""
    # Flags are attributes that JAX adds at run time.
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder = cache_folder() / "compiled"
        # A cache that is filled but read-only is read; JAX would warn of each program that it cannot write.
        writable = can_write_into(folder)
        if writable or folder.is_dir():
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2 if writable else _NEVER)
