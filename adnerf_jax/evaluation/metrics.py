"""Image metrics: PSNR, SSIM, MS-SSIM and the error at the neck. Images are float [H, W, 3] in [0, 1]."""

import math

import cv2
import numpy as np

from adnerf_jax.face.parsing import HEAD, NECK, TORSO
from adnerf_jax.training.losses import psnr_of

_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2
_MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SMALLEST = 176  # pixels of the shorter side: at the coarsest scale it holds exactly one window
SEAM_REACH = 0.03  # half width of the seam band, relative to the face rectangle's height


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, capped at 100."""
    return psnr_of(float(np.mean(np.square(image - truth, dtype=np.float64))))


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), mean over pixels and channels.

    Gaussian window 11, σ 1.5, population covariance, without the border of 5 pixels: what scikit-image computes with
    `gaussian_weights=True, use_sample_covariance=False, channel_axis=-1, data_range=1`.
    """
    luminance, structure = _similarity(image.astype(np.float64), truth.astype(np.float64))
    return float((luminance * structure).mean())


def ms_ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Multi-scale structural similarity (Wang et al. 2003), mean over channels; NaN below 176 pixels.

    Five scales, each halving the resolution (averages of 2x2 pixels), with the published exponents; contrast and
    structure at every scale, luminance at the coarsest. Negative means count as 0.
    """
    if min(image.shape[:2]) < MS_SSIM_SMALLEST:
        return float("nan")
    x, y = image.astype(np.float64), truth.astype(np.float64)
    product = np.ones(x.shape[-1])
    for scale, exponent in enumerate(_MS_SSIM_EXPONENTS):
        if scale:
            x, y = _halved(x), _halved(y)
        luminance, structure = _similarity(x, y)
        values = luminance * structure if scale == len(_MS_SSIM_EXPONENTS) - 1 else structure
        product *= np.maximum(values.mean((0, 1)), 0.0) ** exponent
    return float(product.mean())


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM's luminance term and its contrast-structure term of float64 [H, W, C]: [H − 10, W − 10, C] each."""
    pad = _SSIM_WINDOW // 2

    def blur(z: np.ndarray) -> np.ndarray:
        blurred = cv2.GaussianBlur(z, (_SSIM_WINDOW, _SSIM_WINDOW), _SSIM_SIGMA, borderType=cv2.BORDER_REFLECT)
        return blurred.reshape(z.shape)[pad:-pad, pad:-pad]

    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    return (2 * mx * my + _SSIM_C1) / (mx * mx + my * my + _SSIM_C1), (2 * vxy + _SSIM_C2) / (vx + vy + _SSIM_C2)


def _halved(x: np.ndarray) -> np.ndarray:
    rows, columns = (n // 2 for n in x.shape[:2])
    return x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).mean((1, 3))


def crop(image: np.ndarray, rect: np.ndarray) -> np.ndarray:
    """The part of an image inside the rectangle (x, y, width, height)."""
    x, y, width, height = (int(v) for v in rect)
    return image[max(y, 0) : y + height, max(x, 0) : x + width]


def seam_band(parts: np.ndarray, face_rect: np.ndarray) -> np.ndarray:
    """The band along which the head meets neck or torso, bool [H, W]; all False where they do not meet.

    Args:
      parts: uint8 [H, W], `face.parsing` part map of the ground truth.
      face_rect: x, y, width, height; the band reaches 3 % of the height, at least 2 pixels, to each side.
    """
    reach = max(math.ceil(SEAM_REACH * float(face_rect[3])), 2)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    head, body = (np.isin(parts, which).astype(np.uint8) for which in (HEAD, (NECK, TORSO)))
    near_head, near_body = np.asarray(cv2.dilate(head, disk)) > 0, np.asarray(cv2.dilate(body, disk)) > 0
    return near_head & near_body & ((head | body) > 0)


def seam_error(image: np.ndarray, truth: np.ndarray, band: np.ndarray) -> float:
    """Mean absolute difference in grey levels (0 to 255) inside a band, bool [H, W]; NaN where it is empty."""
    return float(255.0 * np.abs(image[band] - truth[band]).mean(dtype=np.float64)) if band.any() else float("nan")
