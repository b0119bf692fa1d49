"""Talking heads by AD-NeRF in JAX: `Avatar` is the way in for programs, `run.py` for the command line."""


def __getattr__(name: str):
    # Not at import: tools of this package that need no networks should not wait for them.
    if name == "Avatar":
        from adnerf_jax.inference.avatar import Avatar

        return Avatar
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
