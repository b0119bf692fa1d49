"""The loss between a render and its target, by hand."""

import numpy as np

from adnerf_jax.training.losses import photometric


def test_photometric_is_the_mean_over_rays_and_channels():
    target = np.zeros((1, 2, 3), np.float32)
    rgb = np.array([[[0.5, 0, 0], [0, 0, 1]]], np.float32)
    np.testing.assert_allclose(photometric(rgb, target), (0.25 + 1) / 6)
