"""`python -m preprocessing`: the command; the code is `adnerf_jax.preprocessing`."""
