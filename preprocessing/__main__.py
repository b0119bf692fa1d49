"""`python -m preprocessing --video V.mp4 --out D`: a portrait video becomes a dataset."""

import sys

from adnerf_jax.preprocessing.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
