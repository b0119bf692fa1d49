"""Train, render and evaluate: `python run.py --config=configs/quickstart.py`. The README has every command."""

import sys

from adnerf_jax.cli import main, run

__all__ = ["main"]

if __name__ == "__main__":
    run(sys.argv)
