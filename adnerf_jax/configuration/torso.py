"""The torso stage: what `--config=configs/torso.py` reads."""

from ml_collections import ConfigDict

from adnerf_jax.configuration import base


def get_config(arg: str | None = None) -> ConfigDict:
    """The configuration; `arg` is what follows the colon of `--config`."""
    return base.get_config("torso", arg)
