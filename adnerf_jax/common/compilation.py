"""JAX's persistent compilation cache in the user's cache folder, so that only the first run of a command compiles."""

import jax

from adnerf_jax.common.files import cache_folder


def enable_cache() -> None:
    """Turns on JAX's persistent compilation cache, unless the user has set one up."""
    # Flags are attributes that JAX adds at run time.
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
