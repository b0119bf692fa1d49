"""Openness of the eyes from random blinks, numbers and curves."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.models.codes.eyes import EyeRange, EyesCode, blinks

EYES = np.tile([0.30, 0.32], (400, 1)).astype(np.float32)
EYES[::20] = [0.02, 0.04]


def first(given, count: int = 1, seed: int = 0):
    return list(itertools.islice(EyesCode.source(given, EYES, seed)(), count))


def test_fractions_and_openness():
    own = EyeRange.of(EYES)
    np.testing.assert_allclose(own.openness(np.array([0.0, 1.0])), [0.02, 0.32], atol=1e-6)
    np.testing.assert_allclose(own.fraction(own.openness(0.4)), 0.4, atol=1e-6)
    still = EyeRange.of(np.full((9, 2), 0.3))
    np.testing.assert_allclose(still.fraction(np.full((3, 2), 0.3)), 1.0)


def test_open_eyes_that_never_blink_do_not_blink_elsewhere():
    rng = np.random.default_rng(0)
    openness = 0.3 + 0.01 * rng.standard_normal((200, 2))
    fraction = EyeRange.of(openness).fraction(openness)
    assert fraction.min() > 0.8
    assert EyeRange.of(EYES).fraction(np.array([5.0, -1.0])).tolist() == [1.5, 0.0]


def test_numbers_curves_and_the_poses_own(tmp_path):
    np.testing.assert_allclose(first("0.5")[0], [0.16, 0.18], atol=1e-6)
    np.testing.assert_allclose(first(0)[0], [0.02, 0.04], atol=1e-6)
    assert first("pose", 3) == [None] * 3
    (tmp_path / "e.csv").write_text("time,eyes\n0,1\n1,0\n")
    np.testing.assert_allclose(first(tmp_path / "e.csv", 26)[25], [0.02, 0.04], atol=1e-6)


@pytest.mark.parametrize("half", [np.float32(0.5), np.array(0.5), np.array(0.5, np.float16), jnp.array(0.5)])
def test_arrays_without_a_dimension_are_numbers(half):
    np.testing.assert_array_equal(first(half)[0], first(0.5)[0])
    assert first(np.array(1))[0].shape == first(jnp.array(1))[0].shape == (2,)


def test_blinks_are_as_many_and_as_long_as_a_persons():
    minutes = 10
    openness = np.array(list(itertools.islice(blinks(5), 1500 * minutes)))
    closing = np.flatnonzero((openness[1:] < 0.3) & (openness[:-1] >= 0.3))
    assert 12 <= len(closing) / minutes <= 22
    assert np.diff(closing).min() >= 25  # never twice a second
    assert openness.min() == 0 and openness.max() == 1
    assert 0.03 < (openness < 1).mean() < 0.15
    np.testing.assert_array_equal(first("blinks", 200, seed=3), first("blinks", 200, seed=3))
    assert not np.array_equal(first("blinks", 500, seed=3), first("blinks", 500, seed=4))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wink", "eyes: there is no 'wink'; take blinks, pose"),
        ("7", "from 7 to 7: 0 is closed, 1 open"),
        (-0.5, "0 is closed, 1 open"),
        ("nan", "not finite"),
        ("lids=1", "there is no 'lids'"),
        ({}, "the curve `eyes` is missing"),
    ],
)
def test_invalid_eyes_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        EyesCode.source(given, EYES)
