"""The alpha matte at the silhouette."""

import cv2
import numpy as np
import pytest

from adnerf_jax.preprocessing.matting import soft_alpha

_SIZE, _FINE = 96, 8


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, ...]:
    """A disc in front of a striped wall, supersampled 8 times: frame, wall and the true alpha of each pixel."""
    y, x = np.mgrid[: _SIZE * _FINE, : _SIZE * _FINE] / _FINE
    disc = (((x - 47) / 30) ** 2 + ((y - 50) / 34) ** 2 < 1).astype(np.float32)
    share = cv2.resize(disc, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA)
    wall = np.full((_SIZE, _SIZE, 3), 60.0)
    wall[:, ::6] = (90, 130, 70)
    rgb = share[..., None] * (210, 160, 130) + (1 - share[..., None]) * wall
    return rgb.round().astype(np.uint8), wall.astype(np.uint8), share


def test_alpha_is_recovered_from_a_mask_that_is_a_pixel_off(scene):
    rgb, wall, share = scene
    mask = np.roll(share > 0.5, 1, axis=1)
    everywhere = np.ones_like(mask)
    exact = soft_alpha(rgb, share > 0.5, wall, everywhere) / 255
    moved = soft_alpha(rgb, mask, wall, everywhere) / 255
    # Rounding to 8 bits at a contrast of 150, and the bounds around the mask's edge, leave a few hundredths.
    edge = (share > 0) & (share < 1)
    assert np.abs(exact - share)[edge].mean() < 0.05
    # With a mask that is off by one pixel, less than half of the mask's own error remains.
    assert np.abs(moved - share).sum() < 0.5 * np.abs(mask - share).sum()
    assert (moved[cv2.erode(mask.astype(np.uint8), np.ones((7, 7))) > 0] == 1).all()
    assert (moved[cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) == 0] == 0).all()


@pytest.mark.parametrize("why", ["never seen", "no contrast"])
def test_without_a_usable_background_the_edge_is_a_ramp(scene, why):
    rgb, wall, share = scene
    mask = share > 0.5
    if why == "no contrast":
        rgb = wall = np.full_like(wall, 60)
    alpha = soft_alpha(rgb, mask, wall, np.full_like(mask, why != "never seen"))
    assert ((alpha > 127) == mask).all()
    assert ((alpha > 0) & (alpha < 255)).any() and alpha[50, 47] == 255 and alpha[0, 0] == 0


def test_an_empty_and_a_full_mask_have_no_edge(scene):
    rgb, wall, share = scene
    for person in (np.zeros_like(share, bool), np.ones_like(share, bool)):
        alpha = soft_alpha(rgb, person, wall, np.ones_like(person))
        np.testing.assert_array_equal(alpha, 255 * person)
