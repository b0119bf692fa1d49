"""The alpha matte of the person at the silhouette, from the recovered background."""

import cv2
import numpy as np

# Half width of the band around the mask's edge in which alpha is estimated: share of the frame's height, and its
# minimum in pixels.
_BAND, _MIN_BAND = 0.005, 2.0
_MIN_CONTRAST = 40.0  # grey levels between person and background; below, the colours do not determine alpha


def soft_alpha(rgb: np.ndarray, person: np.ndarray, background: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The alpha of each pixel: the person's share of it.

    A pixel at the edge is I = αF + (1 − α)B, with the person's colour F taken from the nearest pixel well inside the
    mask and the background's colour B; α is the projection of I − B on F − B. Where B was never visible or differs too
    little from F, α is a linear ramp across the mask's edge instead. Outside a narrow band around that edge the mask is
    taken as it is; within the band α is bounded by linear ramps to the mask's values at the band's borders.

    Args:
      rgb: uint8 [H, W, 3].
      person: bool [H, W], the mask.
      background: uint8 [H, W, 3].
      seen: bool [H, W], where the background was visible in some frame.

    Returns:
      uint8 [H, W], 255 where only the person is visible.
    """
    if not person.any() or person.all():
        return np.where(person, 255, 0).astype(np.uint8)
    band = max(_BAND * len(person), _MIN_BAND)
    depth = _inside(person) - _inside(~person)  # signed distance to the edge, positive within the person
    alpha = np.clip(0.5 + depth / 2, 0, 1)
    sure = depth >= band
    edge = (np.abs(depth) < band) & seen & sure.any()
    if edge.any():
        behind = background[edge].astype(np.float32)
        contrast = _nearest_colour(rgb, sure)[edge] - behind
        strength = np.square(contrast).sum(-1)
        share = ((rgb[edge] - behind) * contrast).sum(-1) / np.maximum(strength, 1)
        alpha[edge] = np.where(strength > _MIN_CONTRAST**2, share, alpha[edge])
    alpha = np.clip(alpha, np.clip(depth / band, 0, 1), np.clip(1 + depth / band, 0, 1))
    return np.round(255 * alpha).astype(np.uint8)


def _inside(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels of the mask's pixels from its edge, which runs between pixels: 0.5 next to it; 0 outside."""
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.maximum(distance - 0.5, 0)


def _nearest_colour(rgb: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3]: the mean colour of the sure pixels in the 3×3 neighbourhood of the nearest sure pixel."""
    count = cv2.blur(sure.astype(np.float32), (3, 3))[..., None]
    colours = cv2.blur(np.where(sure[..., None], rgb, 0).astype(np.float32), (3, 3)) / np.maximum(count, 1e-6)
    _, labels = cv2.distanceTransformWithLabels(
        (~sure).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros((labels.max() + 1, 3), np.float32)
    of_label[labels[sure]] = colours[sure]
    return of_label[labels]
