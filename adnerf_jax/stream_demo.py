"""`python -m adnerf_jax.stream_demo`: the former name of `adnerf_jax.inference.stream_demo`."""

import sys

from adnerf_jax.inference.stream_demo import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
