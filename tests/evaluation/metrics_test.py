"""Image metrics against hand-computed values and scikit-image, and their sensitivity to known distortions."""

import cv2
import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from adnerf_jax.evaluation.metrics import crop, ms_ssim, psnr, psnr_of, seam_band, seam_error, ssim
from adnerf_jax.face.parsing import BACKGROUND, HEAD, NECK, TORSO


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


def test_ssim_of_equal_and_of_inverted_images():
    x = np.random.default_rng(1).random((20, 20, 3))
    assert ssim(x, x) == pytest.approx(1.0)
    assert ssim(x, 1 - x) < 0


def test_crop_is_x_y_width_height():
    image = np.arange(30).reshape(5, 6)
    assert crop(image, np.array([1, 2, 3, 2])).tolist() == [[13, 14, 15], [19, 20, 21]]
    assert crop(image, np.array([-1, -2, 3, 4])).tolist() == [[0, 1], [6, 7]]


def picture(height: int = 190, width: int = 180, seed: int = 5) -> np.ndarray:
    """Smooth colours, an edge, fine texture; float [H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.random((7, 6, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    image[height // 3 : height // 2, width // 4 : width // 2] += 0.3
    return np.clip(image + 0.05 * rng.normal(size=image.shape), 0, 1)


def distortions(image: np.ndarray) -> list[list[np.ndarray]]:
    """Four series of increasing distortion: blur, noise, darkening, translation."""
    noise = np.random.default_rng(6).normal(size=image.shape)
    return [
        [cv2.GaussianBlur(image, (0, 0), s) for s in (0.7, 1.5, 4.0)],
        [np.clip(image + s * noise, 0, 1) for s in (0.02, 0.06, 0.2)],
        [image * s for s in (0.9, 0.7, 0.3)],
        [np.roll(image, s, axis=1) for s in (1, 2, 5)],
    ]


@pytest.mark.parametrize("size", [(40, 53), (180, 170)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_psnr_and_ssim_are_those_of_scikit_image(size, dtype):
    truth = picture(*size).astype(dtype)
    for image in (series[1] for series in distortions(truth)):
        image = image.astype(dtype)
        theirs = structural_similarity(
            truth, image, gaussian_weights=True, use_sample_covariance=False, channel_axis=-1, data_range=1.0
        )
        assert ssim(image, truth) == pytest.approx(theirs, abs=1e-6)
        assert psnr(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=1.0), abs=1e-6)


def slow_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2003 with plain convolutions, for each channel."""
    at = np.arange(-5, 6)
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / 4.5)
    kernel /= kernel.sum()
    scores = []
    for a, b in zip(np.moveaxis(x, -1, 0), np.moveaxis(y, -1, 0), strict=True):
        score = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            if scale:
                a, b = (convolve2d(z, np.full((2, 2), 0.25), "valid")[::2, ::2] for z in (a, b))
            ma, mb, aa, bb, ab = (convolve2d(z, kernel, "valid") for z in (a, b, a * a, b * b, a * b))
            cs = (2 * (ab - ma * mb) + 9e-4) / (aa - ma**2 + bb - mb**2 + 9e-4)
            if scale == 4:
                cs *= (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
            score *= max(cs.mean(), 0.0) ** weight
        scores.append(score)
    return float(np.mean(scores))


@pytest.mark.parametrize("size", [(176, 179), (190, 207)])
def test_ms_ssim_against_plain_convolutions(size):
    truth = picture(*size)
    for image in (series[1] for series in distortions(truth)):
        assert ms_ssim(image, truth) == pytest.approx(slow_ms_ssim(image, truth), abs=1e-10)
    assert ms_ssim(1 - truth, truth) == pytest.approx(slow_ms_ssim(1 - truth, truth))


def test_ms_ssim_needs_176_pixels():
    assert np.isnan(ms_ssim(picture(175, 300), picture(175, 300)))
    assert ms_ssim(picture(176, 176), picture(176, 176)) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])
def test_metrics_fall_with_increasing_distortion(metric):
    truth = picture()
    perfect = 100.0 if metric is psnr else 1.0
    assert metric(truth, truth) == pytest.approx(perfect)
    for series in distortions(truth):
        scores = [perfect, *(metric(image, truth) for image in series)]
        assert (np.diff(scores) < 0).all()


def person() -> np.ndarray:
    """A part map [60, 40]: head above row 20, neck to row 30, torso below, background at the sides."""
    parts = np.full((60, 40), BACKGROUND, np.uint8)
    parts[5:20, 10:30] = HEAD
    parts[20:30, 15:25] = NECK
    parts[30:, 2:38] = TORSO
    return parts


def test_the_seam_band_lies_where_head_and_body_meet():
    band = seam_band(person(), np.array([10, 5, 20, 100]))  # 3 pixels to each side
    rows, columns = np.nonzero(band)
    assert (rows.min(), rows.max()) == (17, 22)
    assert band[17:23, 16:24].all() and not band[:, :10].any() and not band[30:].any()
    assert not (band & (person() == BACKGROUND)).any()
    assert (columns.min(), columns.max()) == (12, 27)  # the head's pixels beside the neck
    # At least 2 pixels; empty without a body.
    assert np.nonzero(seam_band(person(), np.array([0, 0, 1, 1])))[0].tolist()[0] == 18
    assert not seam_band(np.where(person() == HEAD, HEAD, BACKGROUND), np.array([0, 0, 1, 1])).any()


def test_seam_error_by_hand():
    truth = np.full((60, 40, 3), 0.5)
    band = seam_band(person(), np.array([10, 5, 20, 100]))
    image = truth.copy()
    image[~band] = 0.0  # outside the band nothing counts
    assert seam_error(image, truth, band) == 0.0
    image[band] += 10 / 255
    assert seam_error(image, truth, band) == pytest.approx(10.0)
    gap = truth.copy()
    gap[20:22, 15:25] = 1.0  # the wall shows through between head and neck
    wider = truth.copy()
    wider[19:22, 12:28] = 1.0
    assert 0 < seam_error(gap, truth, band) < seam_error(wider, truth, band)
    assert np.isnan(seam_error(image, truth, np.zeros_like(band)))
