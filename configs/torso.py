"""The torso stage.

    python run.py --config=configs/torso.py:fast --config.data=D --config.head_checkpoint=W/head

learns the torso of a dataset in front of its trained head (see the README for times and results). Variants, combined
by commas: `fast` (grid fields, minutes on two CPU cores), `smoke` (with `fast`: seconds, for testing the way).
"""

from configs import common


def get_config(arg: str | None = None):
    """The configuration; `arg` is what follows the colon of `--config`."""
    return common.get_config("torso", arg)
