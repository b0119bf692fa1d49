"""The head stage.

    python run.py --config=configs/head.py:fast --config.data=D

learns the head of a dataset (see the README for times and results). Variants, combined by commas: `fast` (grid fields,
minutes on two CPU cores), `smoke` (with `fast`: seconds, for testing the way).
"""

from configs import common


def get_config(arg: str | None = None):
    """The configuration; `arg` is what follows the colon of `--config`."""
    return common.get_config("head", arg)
