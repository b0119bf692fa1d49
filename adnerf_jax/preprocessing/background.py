"""The background without the person, recovered from the frames in which the person does not cover it."""

import math
from collections.abc import Iterable

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from adnerf_jax.face.person import person_in_frame
from adnerf_jax.face.views import crop, whole_frame
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.selfie_segmentation import SIDE, PersonSegmenter

# Distance from the person, as a share of the frame's longer side, at which a pixel counts as background: excludes soft
# edges, hair and motion blur (5 px at 450, as published).
MARGIN = 0.012
MAX_FRAMES = 120
MEMORY = 128 << 20  # bytes of the frames held at once: fewer of larger frames
# Share of the frames that must show a pixel's background: fewer are more often a mistake of the parsing.
MIN_SEEN_SHARE = 0.05
NEVER_SEEN = 128  # grey level where no frame shows any background
TOLERANCE, MAX_ITERATIONS = 1e-4, 2000  # limits of the solver; the error stays below a grey level


def choose_frames(ids: np.ndarray, height: int, width: int) -> np.ndarray:
    """Evenly spaced elements of `ids`, both ends included: at most `MAX_FRAMES`, and no more than fit in `MEMORY`.

    Args:
      ids: int [N], in order of time.
      height, width: frame size in pixels.

    Returns:
      int [≤ 120].
    """
    count = min(len(ids), MAX_FRAMES, max(MEMORY // (height * width * 4), 3))
    return ids[np.unique(np.linspace(0, len(ids) - 1, count).round().astype(int))]


def far_from(person: np.ndarray, distance: float) -> np.ndarray:
    """Mask of the pixels more than `distance` pixels away from every pixel of the person.

    Args:
      person: bool [H, W].
      distance: distance in pixels.

    Returns:
      bool [H, W].
    """
    if not person.any():
        return np.ones(person.shape, bool)
    return cv2.distanceTransform((~person).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > distance


def masked_median(pictures: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Per-pixel median over the pictures in which the pixel shows the background.

    Args:
      pictures: uint8 [K, H, W, 3].
      seen: bool [K, H, W], where the background is visible.

    Returns:
      float32 [H, W, 3]; 0 where the background is never visible.
    """
    median = np.zeros(pictures.shape[1:], np.float32)
    for row in range(len(median)):  # a row at a time: the sort needs an int16 copy
        values = np.where(seen[:, row, :, None], pictures[:, row], np.int16(256))
        values.sort(axis=0)  # 256, hidden, comes last
        count = seen[:, row].sum(axis=0)
        low, high = (
            np.take_along_axis(values, np.maximum(middle, 0)[None, :, None], axis=0)[0]
            for middle in ((count - 1) // 2, count // 2)
        )
        median[row] = np.where(count[:, None] > 0, (low + high) / 2.0, 0.0)
    return median


def _laplace_system(values: np.ndarray, known: np.ndarray) -> tuple[scipy.sparse.spmatrix, np.ndarray]:
    """Laplace's equation on the U unknown pixels: matrix [U, U] and right-hand side [U, C] from the known pixels."""
    unknown = ~known
    index = np.full(known.shape, -1)
    index[unknown] = np.arange(unknown.sum())
    degree, edge, pairs = np.zeros(known.shape), np.zeros_like(values), []
    vertical, horizontal = (np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:])
    for a, b in (vertical, vertical[::-1], horizontal, horizontal[::-1]):
        degree[a] += 1
        edge[a] += np.where(known[b][..., None], values[b], 0.0)
        coupled = unknown[a] & unknown[b]
        pairs.append((index[a][coupled], index[b][coupled]))
    rows, columns = np.concatenate(pairs, axis=1)
    neighbours = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(unknown.sum(),) * 2)
    return scipy.sparse.diags(degree[unknown]) - neighbours, edge[unknown]


def fill_smoothly(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills the unknown pixels with the solution of Laplace's equation whose boundary values are the known pixels.

    Each unknown pixel becomes the mean of its neighbours (four, fewer at the picture's edge), so the filled region
    stays within the range of its surroundings and has no seam. Conjugate gradients start from the solution at half the
    resolution, so that a few iterations are enough at each level.

    Args:
      values: float [H, W, C]; read only where known.
      known: bool [H, W].

    Returns:
      float64 [H, W, C]; `NEVER_SEEN` where nothing is known.
    """
    values = np.where(known[..., None], values, 0.0).astype(np.float64)
    if known.all() or not known.any():
        return values if known.any() else np.full_like(values, NEVER_SEEN)
    height, width = known.shape
    if min(height, width) <= 2:
        return np.where(known[..., None], values, values[known].mean(axis=0))

    half = (math.ceil(width / 2), math.ceil(height / 2))
    weight = cv2.resize(known.astype(np.float64), half, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(values, half, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-9)[..., None]
    guess = cv2.resize(fill_smoothly(coarse, weight > 1e-6), (width, height), interpolation=cv2.INTER_LINEAR)

    matrix, right = _laplace_system(values, known)
    for channel in range(values.shape[-1]):
        values[~known, channel], _ = scipy.sparse.linalg.cg(
            matrix, right[:, channel], x0=guess[~known][:, channel], rtol=TOLERANCE, maxiter=MAX_ITERATIONS
        )
    return values


def clean_background(frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The static background behind a person who moves in front of it.

    The published `process_data.py`, step 4, takes each pixel from the one frame in which it is farthest from the
    person. Here it is the median over all frames in which it is far enough from the person, which is robust to noise
    and to single parsing mistakes.

    Args:
      frames: pairs of the picture, uint8 RGB [H, W, 3], and the person's mask, bool [H, W]. All are held in memory:
        subsample them with `choose_frames`.

    Returns:
      the background, uint8 RGB [H, W, 3], and in how many of the frames each of its pixels is visible, int [H, W]. A
      pixel visible in less than `MIN_SEEN_SHARE` of the frames counts as never visible (0) and is filled smoothly.
    """
    pictures, seen = [], []
    for picture, person in frames:
        pictures.append(picture)
        seen.append(far_from(person, max(MARGIN * max(person.shape), 2.0)))
    stack, visible = np.stack(pictures), np.stack(seen)
    del pictures, seen  # frees the second copy
    count = visible.sum(axis=0)
    count[count < MIN_SEEN_SHARE * len(visible)] = 0
    background = fill_smoothly(masked_median(stack, visible), count > 0)
    return np.clip(background + 0.5, 0, 255).astype(np.uint8), count


def person_left(picture: np.ndarray, frames: Iterable[np.ndarray]) -> float:
    """Share of a clean background that is left of the person, as the person network sees it: 0 is right.

    Args:
      picture: the background, uint8 RGB [H, W, 3].
      frames: some of the frames that it was recovered from. What the network takes for a person in none of them is a
        thing, such as a dark flag, which it takes for one only where nobody is in view.
    """
    segment = PersonSegmenter(weights.path("selfie_segmentation"))

    def seen(rgb: np.ndarray) -> np.ndarray:
        height, width = rgb.shape[:2]
        return person_in_frame(segment(crop(rgb, whole_frame(width, height), SIDE)), height, width) > 0

    return float((seen(picture) & np.any([seen(frame) for frame in frames], axis=0)).mean())
