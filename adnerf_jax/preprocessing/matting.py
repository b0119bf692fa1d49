"""How much of a pixel at the silhouette is the person: alpha where the background is known."""

import cv2
import numpy as np

_BAND = 0.005  # of the frame's height to each side of the mask's edge, but at least:
_LEAST_BAND = 2.0  # pixels
_CONTRAST = 40.0  # of 255, between person and background: with less, colours do not tell


def soft_alpha(rgb: np.ndarray, person: np.ndarray, background: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The person's share of each pixel.

    A pixel I = αF + (1 − α)B at the edge mixes the person's colour F, taken from the nearest pixel well inside, with
    the background B; α is the projection of I − B on F − B. Where B was never seen or is too like F, the edge of the
    mask is softened instead. Farther than the band from that edge the mask is believed, and within it α cannot leave
    the mask faster than linearly.

    Args:
      rgb: uint8 [H, W, 3].
      person: bool [H, W], the mask.
      background: uint8 [H, W, 3].
      seen: bool [H, W], where the background was ever seen.

    Returns:
      uint8 [H, W], 255 for the person alone.
    """
    if not person.any() or person.all():
        return np.where(person, 255, 0).astype(np.uint8)
    band = max(_BAND * len(person), _LEAST_BAND)
    depth = _inside(person) - _inside(~person)  # signed distance to the edge, positive within the person
    alpha = np.clip(0.5 + depth / 2, 0, 1)
    sure = depth >= band
    edge = (np.abs(depth) < band) & seen & sure.any()
    if edge.any():
        behind = background[edge].astype(np.float32)
        contrast = _nearest_colour(rgb, sure)[edge] - behind
        strength = np.square(contrast).sum(-1)
        share = ((rgb[edge] - behind) * contrast).sum(-1) / np.maximum(strength, 1)
        alpha[edge] = np.where(strength > _CONTRAST**2, share, alpha[edge])
    alpha = np.clip(alpha, np.clip(depth / band, 0, 1), np.clip(1 + depth / band, 0, 1))
    return np.round(255 * alpha).astype(np.uint8)


def _inside(mask: np.ndarray) -> np.ndarray:
    """Distance of the mask's pixels from its edge, which runs between pixels: 0.5 next to it; 0 outside."""
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.maximum(distance - 0.5, 0)


def _nearest_colour(rgb: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3]: the colour around the nearest sure pixel, the mean of the sure ones among its 3×3."""
    count = cv2.blur(sure.astype(np.float32), (3, 3))[..., None]
    colours = cv2.blur(np.where(sure[..., None], rgb, 0).astype(np.float32), (3, 3)) / np.maximum(count, 1e-6)
    _, labels = cv2.distanceTransformWithLabels(
        (~sure).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros((labels.max() + 1, 3), np.float32)
    of_label[labels[sure]] = colours[sure]
    return of_label[labels]
