"""Against numbers that the published PyTorch code computed from random weights (`data/golden_shared.npz`)."""

import pathlib

import jax
import numpy as np
import pytest

from adnerf_jax.audio_nets import AudioAttNet, AudioNet
from adnerf_jax.cameras import rays_through
from adnerf_jax.encoding import positional
from adnerf_jax.optim import learning_rate
from adnerf_jax.types import Camera

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Float32 round-off of another order of operations; an implementation from the paper alone reached it.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(pathlib.Path(__file__).parent / "data/golden_shared.npz", allow_pickle=False) as stored:
        return dict(stored)


def layer(golden, name: str) -> dict[str, np.ndarray]:
    """A layer in flax's layout: PyTorch keeps linear [out, in] and convolution [out, in, width]."""
    weight = golden[f"params/{name}.weight"]
    return {"kernel": weight.transpose(), "bias": golden[f"params/{name}.bias"]}


def audio_net(golden):
    convolutions = {f"conv{i}": layer(golden, f"audnet/encoder_conv.{2 * i}") for i in range(4)}
    dense = {"hidden": layer(golden, "audnet/encoder_fc1.0"), "out": layer(golden, "audnet/encoder_fc1.2")}
    return {"params": convolutions | dense}


def attention_net(golden):
    convolutions = {f"conv{i}": layer(golden, f"audattnet/attentionConvNet.{2 * i}") for i in range(5)}
    return {"params": convolutions | {"out": layer(golden, "audattnet/attentionNet.0")}}


@pytest.mark.parametrize("levels", [10, 4, 3])
def test_positional_encoding(golden, levels):
    np.testing.assert_allclose(positional(golden["pe_in"], levels), golden[f"pe{levels}"], atol=TOLERANCE)


def test_audio_net(golden):
    codes = jax.jit(AudioNet().apply)(audio_net(golden), golden["deepspeech_windows"])
    np.testing.assert_allclose(codes, golden["audionet_out"], atol=TOLERANCE)


def test_attention(golden):
    params, attention = attention_net(golden), jax.jit(AudioAttNet().apply)
    np.testing.assert_allclose(attention(params, golden["att_in"]), golden["att_out"], atol=TOLERANCE)
    # The upper channels have no say in the weights; the identity in their place shows them.
    codes = golden["att_in"].copy()
    codes[..., 32:40] = np.eye(8)
    weights = attention(params, codes)[..., 32:40]
    np.testing.assert_allclose(weights, golden["att_weights"], atol=TOLERANCE)


def test_windows_to_smoothed_codes(golden):
    codes = golden["audionet_out"]
    neighbours = np.stack([codes[0:8], codes[1:9], codes[2:10]])
    smoothed = jax.jit(AudioAttNet().apply)(attention_net(golden), neighbours)
    np.testing.assert_allclose(smoothed, golden["audioattnet_out"], atol=TOLERANCE)


def test_rays(golden):
    camera = Camera(
        float(golden["focal"]), float(golden["cx"]), float(golden["cy"]), int(golden["height"]), int(golden["width"])
    )
    pixels = golden["ray_rows_cols"].astype(np.float32)
    rays = rays_through(pixels, golden["poses"][1], camera)
    np.testing.assert_allclose(rays.origins, golden["rays_o"], atol=TOLERANCE)
    np.testing.assert_allclose(rays.directions, golden["rays_d"], atol=TOLERANCE)


def test_learning_rate(golden):
    schedule = learning_rate(5e-4, 0.1, 250_000)
    rates = [schedule(k) for k in golden["lr_update_index"]]
    np.testing.assert_allclose(rates, golden["lr_networks"], rtol=1e-6)  # a float32 power
