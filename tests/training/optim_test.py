"""Adam's rates: over time, and by group of parameters."""

import pathlib

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from adnerf_jax.configuration import base as common
from adnerf_jax.training.optim import AdamMoments, learning_rate, make_optimizer, with_moments

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


# A head's: the attention net beside the audio net and the fields.
HEAD = {
    "code_nets": {
        "audio": {"attention": {"kernel": np.ones(3, np.float32)}, "net": {"kernel": np.ones(2, np.float32)}}
    },
    "volume": {"coarse": {"kernel": np.ones((2, 2), np.float32)}},
}


def attention_of(tree):
    return np.asarray(tree["code_nets"]["audio"]["attention"]["kernel"])


def published_rates():
    """The rates of the published code at some updates: of the networks, and of the attention net."""
    with np.load(pathlib.Path(__file__).parents[1] / "data/golden.npz", allow_pickle=False) as golden:
        return [golden[name] for name in ("lr_update_index", "lr_networks", "lr_attention")]


def test_the_rates_of_networks_and_attention_are_the_published_ones():
    tx = make_optimizer(common.get_config("head", None).optim, attention_from=0)
    gradients = jax.tree.map(lambda a: 0.5 * a, HEAD)
    fresh, update = tx.init(HEAD), jax.jit(tx.update)
    for k, networks, attention in zip(*published_rates(), strict=True):
        # With the moments of gradients that never changed, Adam's step is the rate itself.
        first, second = gradients, jax.tree.map(np.square, gradients)
        counts = {"networks": 10**6, "attention": 10**6}
        changes, _ = update(gradients, with_moments(fresh, AdamMoments(counts, first, second), k), HEAD)
        np.testing.assert_allclose(changes["volume"]["coarse"]["kernel"], -networks, rtol=2e-6)  # a float32 power
        np.testing.assert_allclose(changes["code_nets"]["audio"]["net"]["kernel"], -networks, rtol=2e-6)
        np.testing.assert_allclose(attention_of(changes), -attention, rtol=2e-6)
        assert attention / networks == pytest.approx(1.0 if k == 0 else 5.0)


def test_attention_is_constant_until_its_step_and_its_moments_begin_there():
    begins, rng = 3, np.random.default_rng(0)
    settings = common.get_config("head", None).optim
    tx = make_optimizer(settings, attention_from=begins)
    update = jax.jit(tx.update)
    state, m, v = tx.init(HEAD), 0.0, 0.0
    for k in range(8):
        gradients = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), HEAD)
        changes, state = update(gradients, state, HEAD)
        assert (np.abs(changes["volume"]["coarse"]["kernel"]) > 0).all()
        if k < begins:
            np.testing.assert_array_equal(attention_of(changes), 0.0)
            continue
        g = attention_of(gradients).astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        seen = k - begins + 1
        step = m / (1 - 0.9**seen) / (np.sqrt(v / (1 - 0.999**seen)) + 1e-8)
        # The rate goes by all updates, not by the attention net's own.
        rate = 5 * 5e-4 * 0.1 ** ((k - 1) / 250_000)
        np.testing.assert_allclose(attention_of(changes), -rate * step, rtol=1e-4)  # 1 − 0.999^k cancels


def test_moments_are_replaced_and_the_next_update_uses_them():
    tx = make_optimizer(common.get_config("head", None).optim, attention_from=4)
    update, rng = jax.jit(tx.update), np.random.default_rng(1)
    draws = [jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), HEAD) for _ in range(8)]
    state, moments = tx.init(HEAD), [jax.tree.map(np.zeros_like, HEAD) for _ in range(2)]
    for k, gradients in enumerate(draws[:7]):
        _, state = update(gradients, state, HEAD)

        def mean(old, new, decay, from_step, k=k):
            return jax.tree.map(lambda a, g: a if k < from_step else decay * a + (1 - decay) * g, old, new)

        for i, (decay, power) in enumerate(((0.9, 1), (0.999, 2))):
            new = jax.tree.map(lambda g, power=power: g**power, gradients)
            nets = mean(moments[i], new, decay, 0)
            nets["code_nets"]["audio"]["attention"] = mean(moments[i], new, decay, 4)["code_nets"]["audio"]["attention"]
            moments[i] = nets
    replaced = with_moments(tx.init(HEAD), AdamMoments({"networks": 7, "grids": 7, "attention": 3}, *moments), step=7)
    assert jax.tree.structure(replaced) == jax.tree.structure(state)
    chex.assert_trees_all_close(replaced, state, rtol=1e-5, atol=1e-9)  # float32 sums in another order
    chex.assert_trees_all_equal_dtypes(replaced, state)
    ours, theirs = update(draws[7], replaced, HEAD)[0], update(draws[7], state, HEAD)[0]
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4)


def test_a_group_without_a_count_starts_from_zero():
    tx = make_optimizer(common.get_config("head", None).optim, attention_from=4)
    zeros = jax.tree.map(np.zeros_like, HEAD)
    state = with_moments(tx.init(HEAD), AdamMoments({"networks": 9}, zeros, zeros), step=9)
    changes, _ = jax.jit(tx.update)(jax.tree.map(lambda a: 3 * a, HEAD), state, HEAD)
    # The first step of Adam is the rate, whatever the gradient.
    np.testing.assert_allclose(attention_of(changes), -5 * 5e-4 * 0.1 ** (8 / 250_000), rtol=1e-4)
