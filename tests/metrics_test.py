"""PSNR by hand, SSIM window by window."""

import numpy as np
import pytest

from adnerf_jax.metrics import crop, psnr, psnr_of, ssim


def test_psnr_by_hand():
    truth = np.zeros((4, 5, 3), np.float32)
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-5)  # 0.1 in float32
    assert psnr_of(1e-4) == pytest.approx(40.0)
    image = truth.copy()
    image[0, 0] = 1.0  # one of twenty pixels
    assert psnr(image, truth) == pytest.approx(10 * np.log10(20))


def test_psnr_is_capped():
    image = np.full((3, 3, 3), 0.5)
    assert psnr(image, image) == 100.0
    assert psnr(image + 1e-7, image) == 100.0


def test_ssim_against_each_window():
    rng = np.random.default_rng(0)
    x = rng.random((17, 19, 3))
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1)
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    kernel = (kernel / kernel.sum())[..., None]
    values = []
    for row in range(5, 17 - 5):
        for column in range(5, 19 - 5):
            a, b = (i[row - 5 : row + 6, column - 5 : column + 6] for i in (x, y))
            ma, mb = (kernel * a).sum((0, 1)), (kernel * b).sum((0, 1))
            va, vb = (kernel * (a - ma) ** 2).sum((0, 1)), (kernel * (b - mb) ** 2).sum((0, 1))
            covariance = (kernel * (a - ma) * (b - mb)).sum((0, 1))
            values.append((2 * ma * mb + 1e-4) * (2 * covariance + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert ssim(x, y) == pytest.approx(np.mean(values), abs=1e-10)  # float64 throughout


def test_ssim_of_equal_and_of_unlike_pictures():
    x = np.random.default_rng(1).random((20, 20, 3))
    assert ssim(x, x) == pytest.approx(1.0)
    assert ssim(x, 1 - x) < 0


def test_crop_is_x_y_width_height():
    image = np.arange(30).reshape(5, 6)
    assert crop(image, np.array([1, 2, 3, 2])).tolist() == [[13, 14, 15], [19, 20, 21]]
    assert crop(image, np.array([-1, -2, 3, 4])).tolist() == [[0, 1], [6, 7]]
