"""How far a number could be off because it was taken from these frames: moving-block bootstrap (Künsch 1989)."""

import numpy as np

from adnerf_jax.evaluation.face_metrics import correlation

BLOCK = 12  # frames that are drawn together: neighbours are alike, and singly drawn they would look too certain
LEVEL = 0.95


def draws(frames: int, count: int, seed: int) -> np.ndarray:
    """Numbers of frames, [count, frames]: blocks of 12 in a row, or a quarter of all, that go round at the end."""
    block = max(min(BLOCK, frames // 4), 1)
    starts = np.random.default_rng(seed).integers(0, frames, (count, -(-frames // block)))
    return ((starts[..., None] + np.arange(block)) % frames).reshape(count, -1)[:, :frames]


def means(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Means of a column [N] over each draw [count, frames], of the frames that have a value; NaN where none has."""
    values = column[rows]
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def correlations(ours: np.ndarray, theirs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pearson's of two curves [N] over each draw [count, frames], where both have a value (`correlation`)."""
    both = np.isfinite(ours + theirs)
    kept = (row[both[row]] for row in rows)
    return np.array([correlation(ours[row], theirs[row]) for row in kept])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 of 100 of some values; NaN where there is none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
