"""The quickstart, from dataset to talking video: what `--config=configs/quickstart.py` reads."""

from ml_collections import ConfigDict

from adnerf_jax.configuration import base
from adnerf_jax.configuration.declaration import build
from adnerf_jax.configuration.settings.quickstart import QUICKSTART


def get_config(arg: str | None = None) -> ConfigDict:
    """The configuration; `arg` is what follows the colon of `--config`: nothing, or smoke."""
    variants = base.parse_variants(arg, known=("smoke",))
    config = build(QUICKSTART, "quickstart")
    config.variants = ("quickstart", *variants)
    if "smoke" in variants:
        config.subject.update(size=96, seconds=2.0, driving_seconds=2.0, head_steps=200)
    stages = ",".join(("fast", *variants))
    config.head = base.get_config("head", stages)
    config.torso = base.get_config("torso", stages)
    return config.lock()
