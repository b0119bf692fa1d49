"""AudioNet and AudioAttNet: shapes, padding, what depends on what."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from adnerf_jax.models.audio_nets import AudioAttNet, AudioNet, TimeConvolution

pytestmark = pytest.mark.usefixtures("quick_compilation")


class TimeConvolutionTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_against_flax_with_the_published_padding(self):
        rng = np.random.default_rng(0)
        for stride, steps in ((1, 8), (2, 16), (2, 2), (2, 5)):
            x = rng.normal(size=(3, steps, 4)).astype(np.float32)
            params = {
                "kernel": rng.normal(size=(3, 4, 6)).astype(np.float32),
                "bias": rng.normal(size=6).astype(np.float32),
            }
            ours = self.variant(TimeConvolution(6, stride).apply)({"params": params}, x)
            theirs = nn.Conv(6, (3,), strides=stride, padding=((1, 1),)).apply({"params": params}, x)
            # Sums of 12 products of order 1, added in another order.
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_window_becomes_a_code():
    windows = np.random.default_rng(1).normal(size=(2, 8, 16, 29)).astype(np.float32)
    net = AudioNet()
    params = jax.jit(net.init)(jax.random.key(0), windows)
    codes = jax.jit(net.apply)(params, windows)
    assert codes.shape == (2, 8, 64)
    # Each window on its own; products over other batches may be added in another order.
    np.testing.assert_allclose(jax.jit(net.apply)(params, windows[1, 3]), codes[1, 3], atol=1e-5)


@pytest.fixture(scope="module")
def attention():
    """AudioAttNet with fresh parameters: [..., 8, 64] to [..., 64]."""
    net = AudioAttNet()
    params = jax.jit(net.init)(jax.random.key(1), np.zeros((1, 8, 64), np.float32))
    return jax.jit(lambda codes: net.apply(params, codes))


def test_equal_codes_are_left_as_they_are(attention):
    code = np.random.default_rng(2).normal(size=64).astype(np.float32)
    np.testing.assert_allclose(attention(np.tile(code, (3, 8, 1))), np.tile(code, (3, 1)), atol=1e-6)


def test_the_result_is_a_mean_with_weights_from_half_of_the_channels(attention):
    codes = np.random.default_rng(3).normal(size=(8, 64)).astype(np.float32) * 3
    codes[:, 32:40] = np.eye(8)  # channels that do not enter the weights reveal them
    weights = attention(codes)[32:40]
    assert (np.asarray(weights) >= 0).all() and np.asarray(weights).std() > 0.01
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(attention(codes), weights @ codes, atol=1e-5)
