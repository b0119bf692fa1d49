"""The head stage.

    python run.py --config=configs/head.py --config.data=D           # the paper's settings: GPUs, TPUs
    python run.py --config=configs/head.py:fast --config.data=D      # minutes on two CPU cores

learns the head of a dataset (see the README for times and results). Variants, combined by commas: `fast` (grid fields),
`small` (the paper's method at 112 pixels, half an hour on two cores), `smoke` (either in seconds, to test the way),
`single_nerf` and `expression` (the paper's ablations).
"""

from adnerf_jax.configuration.head import get_config

__all__ = ["get_config"]
