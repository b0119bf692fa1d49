"""How close a picture is to the truth. Images are float [H, W, 3] in [0, 1] unless said otherwise."""

import cv2
import numpy as np

PSNR_CAP = 100.0
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, capped at 100."""
    return psnr_of(float(np.mean(np.square(image - truth, dtype=np.float64))))


def psnr_of(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error over values in [0, 1], capped at 100."""
    if mean_squared_error <= 10 ** (-PSNR_CAP / 10):
        return PSNR_CAP
    return -10.0 * float(np.log10(mean_squared_error))


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), mean over pixels and channels.

    Gaussian window 11, σ 1.5, population covariance, the border of 5 pixels left out: what scikit-image computes with
    `gaussian_weights=True, use_sample_covariance=False, channel_axis=-1, data_range=1`.
    """

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (_SSIM_WINDOW, _SSIM_WINDOW), _SSIM_SIGMA, borderType=cv2.BORDER_REFLECT)

    x, y = image.astype(np.float64), truth.astype(np.float64)
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    values = ((2 * mx * my + _SSIM_C1) * (2 * vxy + _SSIM_C2)) / ((mx * mx + my * my + _SSIM_C1) * (vx + vy + _SSIM_C2))
    pad = _SSIM_WINDOW // 2
    return float(values[pad:-pad, pad:-pad].mean())


def crop(image: np.ndarray, rect: np.ndarray) -> np.ndarray:
    """The part of an image inside x, y, width, height."""
    x, y, width, height = (int(v) for v in rect)
    return image[max(y, 0) : y + height, max(x, 0) : x + width]
