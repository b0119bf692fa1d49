"""Adam's rates: over time, and by group of parameters."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from adnerf_jax.optim import learning_rate, make_optimizer

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIM = ConfigDict(
    {"learning_rate": 5e-4, "decay": 0.1, "decay_steps": 10, "grid_multiple": 20.0, "attention_multiple": 5.0}
)
PARAMS = {
    "field": {"grid": {"grids": np.ones((2, 3), np.float32)}, "out": {"kernel": np.ones((3, 2), np.float32)}},
    "proposal": {"grids": np.ones(4, np.float32)},
}
GRADIENTS = {
    "field": {
        "grid": {"grids": np.full((2, 3), 1e-3, np.float32)},
        "out": {"kernel": np.full((3, 2), -7.0, np.float32)},
    },
    "proposal": {"grids": np.full(4, 0.5, np.float32)},
}


@pytest.mark.parametrize(("k", "expected"), [(0, 5e-4), (1, 5e-4), (2, 5e-4 * 0.1**0.1), (11, 5e-5), (21, 5e-6)])
def test_the_rate_of_update_k(k, expected):
    assert float(learning_rate(5e-4, 0.1, 10)(k)) == pytest.approx(expected, rel=1e-6)  # a float32 power


def test_updates_have_the_groups_rates():
    tx = make_optimizer(OPTIM, attention_from=0)
    state = tx.init(PARAMS)
    for k in range(3):
        # Gradients that never change make Adam's step the rate itself, whatever their size.
        changes, state = jax.jit(tx.update)(GRADIENTS, state, PARAMS)
        rate = 5e-4 * 0.1 ** (max(k - 1, 0) / 10)
        # eps = 1e-8 against gradients of 1e-3 is 1e-5, and as much from rounding 1 − 0.999^k.
        np.testing.assert_allclose(changes["field"]["out"]["kernel"], rate, rtol=1e-4)
        np.testing.assert_allclose(changes["field"]["grid"]["grids"], -20 * rate, rtol=1e-4)
        np.testing.assert_allclose(changes["proposal"]["grids"], -20 * rate, rtol=1e-4)


def test_moments_are_adams():
    tx = make_optimizer(OPTIM, attention_from=0)
    state = tx.init(PARAMS)
    rng = np.random.default_rng(0)
    m = v = 0.0
    for k in range(4):
        gradient = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), PARAMS)
        changes, state = jax.jit(tx.update)(gradient, state, PARAMS)
        g = gradient["proposal"]["grids"].astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9 ** (k + 1)) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
        rate = 20 * 5e-4 * 0.1 ** (max(k - 1, 0) / 10)
        np.testing.assert_allclose(changes["proposal"]["grids"], -rate * step, rtol=1e-4)  # 1 − 0.999^k cancels
