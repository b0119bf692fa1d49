"""The head stage: what `--config=configs/head.py` reads."""

from ml_collections import ConfigDict

from adnerf_jax.configuration import base


def get_config(arg: str | None = None) -> ConfigDict:
    """The configuration; `arg` is what follows the colon of `--config`."""
    return base.get_config("head", arg)
