"""The moving-block bootstrap, against known intervals of means and of correlations."""

import numpy as np
import pytest

from adnerf_jax.evaluation.bootstrap import correlations, draws, interval, means


def test_resamples_are_blocks_of_consecutive_frames():
    rows = draws(100, 50, seed=3)
    assert rows.shape == (50, 100) and rows.min() >= 0 and rows.max() < 100
    steps = np.diff(rows, axis=1) % 100
    inside = np.arange(99) % 12 != 11
    assert (steps[:, inside] == 1).all() and not (steps[:, ~inside] == 1).all()
    np.testing.assert_array_equal(rows, draws(100, 50, seed=3))
    assert (rows != draws(100, 50, seed=4)).any()
    assert draws(1, 5, 0).tolist() == [[0]] * 5


def test_intervals_of_a_mean():
    rng = np.random.default_rng(0)
    alone = rng.normal(5.0, 2.0, 400)
    low, high = interval(means(alone, draws(400, 2000, 0)))
    assert low < alone.mean() < high
    # Independent values: ± 1.96 σ / √N; a bootstrap of 33 blocks scatters by a fifth of that.
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 20, rel=0.3)
    # Each value four times in a row: a quarter of the independent values, so an interval twice as wide.
    alike = np.repeat(alone[:100], 4)
    low4, high4 = interval(means(alike, draws(400, 2000, 0)))
    assert 1.5 < (high4 - low4) / (high - low) < 2.5


def test_nan_values_are_skipped():
    column = np.array([1.0, np.nan, 3.0, np.nan])
    rows = np.array([[0, 1, 2, 3], [0, 0, 1, 1], [1, 1, 3, 3]])
    np.testing.assert_array_equal(means(column, rows), [2.0, 1.0, np.nan])
    assert interval(np.array([np.nan, 2.0, 2.0])) == (2.0, 2.0)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_correlations_of_resamples():
    time = np.arange(60)
    ours, theirs = np.sin(time / 3), np.sin(time / 3) + 0.0
    theirs[7] = np.nan
    found = correlations(ours, theirs, draws(60, 20, 1))
    np.testing.assert_allclose(found, 1.0, atol=1e-12)
    assert np.isnan(correlations(ours[:8], theirs[:8], draws(8, 2, 1))).all()  # too few frames
