"""`python -m adnerf_jax.configuration` prints the page of all settings."""

from adnerf_jax.configuration.page import page

if __name__ == "__main__":
    print(page(), end="")
