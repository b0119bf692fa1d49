"""Every setting, declared once. To add one, add its declaration to the group that it belongs to.

`run.py` holds what names a run, and the mistakes of the published code; the other modules are named after their groups.
"""

from ml_collections import ConfigDict

from adnerf_jax.configuration.declaration import Group
from adnerf_jax.configuration.settings.evaluation import COMPARE, EVAL
from adnerf_jax.configuration.settings.model import MODEL
from adnerf_jax.configuration.settings.quickstart import QUICKSTART
from adnerf_jax.configuration.settings.rendering import RENDER
from adnerf_jax.configuration.settings.run import COMPAT, REFERENCE, RUN
from adnerf_jax.configuration.settings.training import OPTIM, TRAIN

STAGES = ("head", "torso")
FAMILIES = tuple(MODEL)


def declarations(stage: str, family: str) -> Group:
    """The settings of a stage of a family, nested as in its configuration."""
    model = MODEL[family]
    return {
        **RUN,
        "compat": COMPAT,
        "model": {"head": model["head"]} if stage == "head" else model,
        "optim": OPTIM,
        "train": TRAIN,
        "render": RENDER,
        "eval": EVAL,
        "compare": COMPARE,
        "reference": REFERENCE,
    }


def declarations_of(config: ConfigDict) -> Group:
    """The settings of a configuration, of a stage or of the quickstart."""
    return QUICKSTART if config.stage == "quickstart" else declarations(config.stage, config.family)
