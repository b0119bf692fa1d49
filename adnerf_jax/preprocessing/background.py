"""The scene without the person: what the camera sees behind them, in the frames in which they do not cover it."""

import math
from collections.abc import Iterable

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

MARGIN = 0.012  # of the picture's width: soft edges, hair and motion blur stay outside (5 px at 450, as published)
MOST_FRAMES = 120
MEMORY = 128 << 20  # bytes of pixels held at once: fewer frames of larger pictures
SEEN_AT_LEAST = 0.05  # of the frames: less is more often a mistake of the parsing than a glimpse of the wall
NEVER_SEEN = 128  # grey, where no frame shows any background
TOLERANCE, MOST_ITERATIONS = 1e-4, 2000  # of the solver: less than a grey level


def choose_frames(ids: np.ndarray, height: int, width: int) -> np.ndarray:
    """Evenly spaced ones of `ids`, both ends included: at most `MOST_FRAMES`, and no more than fit in `MEMORY`.

    Args:
      ids: int [N], in order of time.
      height, width: of the pictures, in pixels.

    Returns:
      int [≤ 120].
    """
    count = min(len(ids), MOST_FRAMES, max(MEMORY // (height * width * 4), 3))
    return ids[np.unique(np.linspace(0, len(ids) - 1, count).round().astype(int))]


def far_from(person: np.ndarray, distance: float) -> np.ndarray:
    """Pixels more than `distance` pixels from every pixel of the person.

    Args:
      person: bool [H, W].
      distance: in pixels.

    Returns:
      bool [H, W].
    """
    if not person.any():
        return np.ones(person.shape, bool)
    return cv2.distanceTransform((~person).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > distance


def masked_median(pictures: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Per-pixel median over the pictures in which the pixel is seen.

    Args:
      pictures: uint8 [K, H, W, 3].
      seen: bool [K, H, W].

    Returns:
      float32 [H, W, 3]; 0 where a pixel is never seen.
    """
    median = np.zeros(pictures.shape[1:], np.float32)
    for row in range(len(median)):  # a row at a time: sorting needs a wider copy of what it sorts
        values = np.where(seen[:, row, :, None], pictures[:, row], np.int16(256))
        values.sort(axis=0)  # what is not seen comes last
        count = seen[:, row].sum(axis=0)
        low, high = (
            np.take_along_axis(values, np.maximum(middle, 0)[None, :, None], axis=0)[0]
            for middle in ((count - 1) // 2, count // 2)
        )
        median[row] = np.where(count[:, None] > 0, (low + high) / 2.0, 0.0)
    return median


def _laplace_system(values: np.ndarray, known: np.ndarray) -> tuple[scipy.sparse.spmatrix, np.ndarray]:
    """Laplace's equation over the U unknown pixels: matrix [U, U], and right-hand side [U, C] from the known ones."""
    unknown = ~known
    index = np.full(known.shape, -1)
    index[unknown] = np.arange(unknown.sum())
    degree, edge, pairs = np.zeros(known.shape), np.zeros_like(values), []
    vertical, horizontal = (np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:])
    for a, b in (vertical, vertical[::-1], horizontal, horizontal[::-1]):
        degree[a] += 1
        edge[a] += np.where(known[b][..., None], values[b], 0.0)
        both = unknown[a] & unknown[b]
        pairs.append((index[a][both], index[b][both]))
    rows, columns = np.concatenate(pairs, axis=1)
    neighbours = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(unknown.sum(),) * 2)
    return scipy.sparse.diags(degree[unknown]) - neighbours, edge[unknown]


def fill_smoothly(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills the unknown pixels with the membrane through the known ones: the solution of Laplace's equation.

    Each unknown pixel becomes the mean of its neighbours (four, fewer at the picture's edge), so nothing in the
    filled region is brighter or darker than its surroundings, and there is no seam. Conjugate gradients start from
    the solution at half the size, so that a few steps are enough at each size.

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
            matrix, right[:, channel], x0=guess[~known][:, channel], rtol=TOLERANCE, maxiter=MOST_ITERATIONS
        )
    return values


def clean_background(frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The background behind a person who moves before it.

    The published `process_data.py`, step 4, takes each pixel from the one frame in which it is farthest from the
    person; the median over all the frames in which it is far enough is free of noise and of single parsing mistakes.

    Args:
      frames: pairs of the picture, uint8 RGB [H, W, 3], and the person's mask, bool [H, W]. All are held in memory:
        thin them out with `choose_frames`.

    Returns:
      the background, uint8 RGB [H, W, 3], and in how many of the frames each pixel was seen, int [H, W]; a pixel
      seen in fewer than `SEEN_AT_LEAST` of them counts as never seen (0), and is filled in from around it.
    """
    pictures, seen = [], []
    for picture, person in frames:
        pictures.append(picture)
        seen.append(far_from(person, max(MARGIN * person.shape[1], 2.0)))
    pictures, seen = np.stack(pictures), np.stack(seen)
    count = seen.sum(axis=0)
    count[count < SEEN_AT_LEAST * len(seen)] = 0
    background = fill_smoothly(masked_median(pictures, seen), count > 0)
    return np.clip(background + 0.5, 0, 255).astype(np.uint8), count
