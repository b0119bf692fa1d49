"""The torso stage.

    python run.py --config=configs/torso.py --config.data=D --config.head_checkpoint=W/head         # the paper's
    python run.py --config=configs/torso.py:fast --config.data=D --config.head_checkpoint=W/head    # on two CPU cores

learns the torso of a dataset in front of its trained head (see the README for times and results). Variants, combined
by commas, are those of the head: `fast`, `small`, `smoke`, `expression`.
"""

from adnerf_jax.configuration.torso import get_config

__all__ = ["get_config"]
