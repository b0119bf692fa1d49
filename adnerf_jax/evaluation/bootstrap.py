"""Confidence intervals of metrics over frames: the moving-block bootstrap (Künsch 1989)."""

import numpy as np

from adnerf_jax.evaluation.face_metrics import correlation

# Frames that are drawn together: neighbouring frames are correlated, so drawing single frames would make the intervals
# too narrow.
BLOCK = 12
LEVEL = 0.95


def draws(frames: int, count: int, seed: int) -> np.ndarray:
    """Resampled frame indices, int [count, frames].

    Each resample joins blocks of 12 consecutive frames (at most a quarter of all), which wrap around at the end.
    """
    block = max(min(BLOCK, frames // 4), 1)
    starts = np.random.default_rng(seed).integers(0, frames, (count, -(-frames // block)))
    return ((starts[..., None] + np.arange(block)) % frames).reshape(count, -1)[:, :frames]


def means(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean of a column [N] in each resample [count, frames]; NaN values are skipped, NaN where all are."""
    values = column[rows]
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def correlations(ours: np.ndarray, theirs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pearson correlation of two curves [N] in each resample [count, frames], over the frames where both are finite."""
    finite = np.isfinite(ours + theirs)
    kept = (row[finite[row]] for row in rows)
    return np.array([correlation(ours[row], theirs[row]) for row in kept])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bounds of the central 95 % of the finite values; NaN where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
