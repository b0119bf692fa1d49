"""Against numbers that the published PyTorch code computed from random weights (`data/golden.npz`, `data/*.tar`).

Networks 32 wide with 16 + 32 samples, everything else as published, no jitter.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adnerf_jax.common.types import Batch, Camera, Conditions
from adnerf_jax.configuration import base as common
from adnerf_jax.models.audio_nets import AudioAttNet, AudioNet
from adnerf_jax.models.build import build_head, build_torso
from adnerf_jax.nerf.cameras import euler_angles, rays_through
from adnerf_jax.nerf.compositing import composite_samples, over
from adnerf_jax.nerf.encoding import positional
from adnerf_jax.nerf.sampling import inverse_cdf_samples
from adnerf_jax.training.import_reference import read_checkpoint
from adnerf_jax.training.optim import learning_rate, make_optimizer
from adnerf_jax.training.stages import head_stage
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.update import make_update

pytestmark = pytest.mark.usefixtures("quick_compilation")

DATA = pathlib.Path(__file__).parents[1] / "data"
# Float32 round-off of another order of operations; an implementation from the paper alone reached it.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "golden.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def head():
    """The head's checkpoint."""
    return read_checkpoint(DATA / "000000_head.tar")


@pytest.fixture(scope="module")
def body():
    """The torso's checkpoint."""
    return read_checkpoint(DATA / "000000_body.tar")


@pytest.fixture(scope="module")
def config():
    """The published settings at the golden run's sizes, with the published torso angles."""
    config = common.get_config("torso", None)
    config.compat.torso_angles = True
    for model in config.model.values():
        model.update(width=32, colour_width=16, coarse_samples=16, fine_samples=32)
    return config


@pytest.fixture(scope="module")
def camera(golden) -> Camera:
    height, width = int(golden["height"]), int(golden["width"])
    return Camera(float(golden["focal"]), float(golden["cx"]), float(golden["cy"]), height=height, width=width)


class Range:
    """The part of a scene that the published method has."""

    def __init__(self, golden):
        self.near, self.far = np.float32(golden["near"]), np.float32(golden["far"])
        self.torso_camera = golden["poses"][0]
        self.codes = {"audio": {"mean": np.zeros(29, np.float32), "basis": np.eye(29, dtype=np.float32)}}


def fields_of(checkpoint) -> dict:
    return {"volume": {name: net.params for name, net in checkpoint.fields.items()}}


def head_params(checkpoint) -> dict:
    nets = {"net": checkpoint.audio.params, "attention": checkpoint.attention.params}
    return fields_of(checkpoint) | {"code_nets": {"audio": nets}}


def pixels_of(golden) -> np.ndarray:
    return golden["ray_rows_cols"].astype(np.float32)[None]


@pytest.mark.parametrize("levels", [10, 4, 3])
def test_positional_encoding(golden, levels):
    np.testing.assert_allclose(positional(golden["pe_in"], levels), golden[f"pe{levels}"], atol=TOLERANCE)


def test_audio_net(golden, head):
    codes = jax.jit(AudioNet().apply)({"params": head.audio.params}, golden["deepspeech_windows"])
    np.testing.assert_allclose(codes, golden["audionet_out"], atol=TOLERANCE)


def test_attention(golden, head):
    params, attention = {"params": head.attention.params}, jax.jit(AudioAttNet().apply)
    np.testing.assert_allclose(attention(params, golden["att_in"]), golden["att_out"], atol=TOLERANCE)
    # The upper channels do not enter the weights; the identity in their place reveals them.
    codes = golden["att_in"].copy()
    codes[..., 32:40] = np.eye(8)
    weights = attention(params, codes)[..., 32:40]
    np.testing.assert_allclose(weights, golden["att_weights"], atol=TOLERANCE)


def test_windows_to_smoothed_codes(golden, head):
    codes = golden["audionet_out"]
    neighbours = np.stack([codes[0:8], codes[1:9], codes[2:10]])
    smoothed = jax.jit(AudioAttNet().apply)({"params": head.attention.params}, neighbours)
    np.testing.assert_allclose(smoothed, golden["audioattnet_out"], atol=TOLERANCE)


def test_the_heads_code_with_and_without_smoothing(golden, head, config):
    model = build_head(config.model.head, config.compat)
    conditions = Conditions(golden["deepspeech_windows"][None, 1:9], {"eyes": np.zeros((1, 2), np.float32)})
    params = {"params": head_params(head)}
    smooth, plain = (
        model.apply(params, conditions, Range(golden), smoothing, method="codes")["audio"][0]
        for smoothing in (True, False)
    )
    np.testing.assert_allclose(smooth, golden["audio_code_smoothed"], atol=TOLERANCE)
    np.testing.assert_allclose(plain, golden["audionet_out"][5], atol=TOLERANCE)  # the frame is the fifth of its eight


@pytest.mark.parametrize("level", ["coarse", "fine"])
def test_field(golden, head, config, level):
    field = getattr(build_head(config.model.head, config.compat).volume, level)
    density, colours = jax.jit(field.apply)(
        {"params": head.fields[level].params},
        golden["field_x"][None, :, None],
        golden["field_d"][None],
        golden["field_a"][None],
    )
    expected = golden[f"field_{level}"]
    np.testing.assert_allclose(density[0, :, 0], expected[:, 3], atol=TOLERANCE)
    np.testing.assert_allclose(colours[0, :, 0], 1 / (1 + np.exp(-expected[:, :3])), atol=TOLERANCE)


def test_drawn_positions(golden):
    drawn = inverse_cdf_samples(golden["pdf_bins"], golden["pdf_weights"], 24, None)
    np.testing.assert_allclose(drawn[:, :-1], golden["pdf_det"][:, :-1], atol=TOLERANCE)
    # At the quantile 1 the result depends on whether the last sum is just below 1 or just above.
    np.testing.assert_allclose(drawn[:, -1], golden["pdf_det"][:, -1], atol=1e-4)


def test_compositing(golden):
    raw, t = golden["comp_raw"], golden["comp_t"]
    length = np.linalg.norm(golden["comp_d"], axis=-1, keepdims=True)
    colours = 1 / (1 + np.exp(-raw[:, :-1, :3]))
    ray = composite_samples(raw[:, :-1, 3], colours, t, length, golden["comp_bg"])
    np.testing.assert_allclose(ray.rgb, golden["comp_rgb"], atol=TOLERANCE)
    np.testing.assert_allclose(ray.foreground, golden["comp_rgb_fg"], atol=TOLERANCE)
    np.testing.assert_allclose(ray.weights, golden["comp_weights"][:, :-1], atol=TOLERANCE)
    # The published weights, depth and opacity have the closing sample among them.
    last = 1 - np.asarray(ray.opacity)
    np.testing.assert_allclose(last, golden["comp_weights"][:, -1], atol=TOLERANCE)
    depth = np.asarray(ray.depth) + last * t[:, -1]
    np.testing.assert_allclose(depth, golden["comp_depth"], atol=TOLERANCE)
    np.testing.assert_allclose(np.asarray(ray.opacity) + last, golden["comp_acc"], atol=TOLERANCE)
    np.testing.assert_allclose(1 / np.maximum(1e-10, depth), golden["comp_disp"], rtol=1e-5)


def test_rays(golden, camera):
    rays = rays_through(pixels_of(golden)[0], golden["poses"][1], camera)
    np.testing.assert_allclose(rays.origins, golden["rays_o"], atol=TOLERANCE)
    np.testing.assert_allclose(rays.directions, golden["rays_d"], atol=TOLERANCE)


def test_torso_angles_and_pose_code(golden, config):
    poses = golden["poses"]
    angles = euler_angles(poses, swapped=True)
    np.testing.assert_allclose(
        np.concatenate([angles, poses[:, :3, 3]], axis=-1), golden["torso_euler_trans"], atol=TOLERANCE
    )
    torso = build_torso(config.model.torso, config.compat)
    code = torso.code(poses, np.zeros((len(poses), 64), np.float32))
    np.testing.assert_allclose(code[:, 64:], golden["torso_pose_code"], atol=TOLERANCE)
    signal = torso.code(poses[1:2], golden["audio_code_smoothed"][None])
    np.testing.assert_allclose(signal[0], golden["torso_signal"], atol=TOLERANCE)


def render_head(golden, head, config, camera):
    model = build_head(config.model.head, config.compat)
    rays = rays_through(pixels_of(golden), golden["poses"][1:2], camera)
    codes = {"audio": golden["audio_code_smoothed"][None]}
    scene, background = Range(golden), golden["bg"][None]
    return jax.jit(lambda p: model.apply(p, rays, codes, background, scene).rendered)({"params": head_params(head)})


def test_head_render(golden, head, config, camera):
    coarse, fine = render_head(golden, head, config, camera)
    np.testing.assert_allclose(coarse.rgb[0], golden["head_rgb_coarse"], atol=TOLERANCE)
    np.testing.assert_allclose(fine.rgb[0], golden["head_rgb"], atol=TOLERANCE)
    np.testing.assert_allclose(fine.foreground[0], golden["head_rgb_fg"], atol=TOLERANCE)
    np.testing.assert_allclose(1 - fine.opacity[0], golden["head_last_weight"], atol=TOLERANCE)
    depth = np.asarray(fine.depth[0] + (1 - fine.opacity[0]) * np.float32(golden["far"]))
    np.testing.assert_allclose(1 / depth, golden["head_disp"], atol=TOLERANCE)


def test_torso_render_and_composite_at_both_levels(golden, head, body, config, camera):
    torso = build_torso(config.model.torso, config.compat)
    code, scene, pose = golden["audio_code_smoothed"][None], Range(golden), golden["poses"][1:2]
    layers = jax.jit(lambda p: torso.apply(p, pixels_of(golden), camera, pose, code, scene))(
        {"params": fields_of(body)}
    )
    colour, opacity = layers[1]
    np.testing.assert_allclose(colour[0], golden["torso_rgb_fg"], atol=TOLERANCE)
    np.testing.assert_allclose(1 - opacity[0], golden["torso_last_weight"], atol=TOLERANCE)
    levels = render_head(golden, head, config, camera)
    for level, layer, name in zip(levels, layers, ("composite_rgb_coarse", "composite_rgb"), strict=True):
        np.testing.assert_allclose(over(*layer, level.rgb)[0], golden[name], atol=TOLERANCE)


@pytest.fixture(scope="module")
def first_batch(golden) -> Batch:
    """The batch of the golden steps: 48 rays of frame 1 with its own window alone."""
    windows = np.repeat(golden["deepspeech_windows"][None, 1:2], 8, axis=1)
    return Batch(
        pixels=pixels_of(golden),
        target=golden["target"][None],
        background=golden["bg"][None],
        transforms=golden["poses"][1:2],
        conditions=Conditions(windows, {"eyes": np.zeros((1, 2), np.float32)}),
    )


def golden_stage(config, camera):
    """The head stage without jitter."""
    stage = head_stage(build_head(config.model.head, config.compat), camera, 0.0, attention_from=10**6)
    return stage.replace(loss=lambda *args: stage.loss(*args[:4], None, args[5]))


def test_gradients_of_the_first_step(golden, head, config, camera, first_batch):
    stage, scene = golden_stage(config, camera), Range(golden)
    step = jnp.zeros((), jnp.int32)
    gradient = jax.jit(jax.grad(lambda p: stage.loss(p, {}, scene, first_batch, None, step)[0]))(head_params(head))
    expected = {key.removeprefix("grad/"): value for key, value in golden.items() if key.startswith("grad/")}
    compared = 0
    for network, net in (("network_fn", "coarse"), ("network_fine", "fine")):
        for layer, arrays in gradient["volume"][net].items():
            kind = {"density": "alpha_linear", "colour": "rgb_linear"}.get(layer)
            name = kind or layer.replace("layer", "pts_linears.").replace("colour", "views_linears.")
            compared += same_norms(arrays, expected, f"{network}/{name}")
    for layer, arrays in gradient["code_nets"]["audio"]["net"].items():
        name = {"hidden": "encoder_fc1.0", "out": "encoder_fc1.2"}.get(layer)
        compared += same_norms(arrays, expected, f"audnet/{name or f'encoder_conv.{2 * int(layer[-1])}'}")
    assert compared == len(expected)


def same_norms(arrays: dict, expected: dict, name: str) -> int:
    for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
        # Sums of thousands of float32 products in another order.
        np.testing.assert_allclose(np.linalg.norm(arrays[ours]), expected[f"{name}.{theirs}"], rtol=1e-3, err_msg=name)
    return len(arrays)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_twenty_losses(golden, head, config, camera, first_batch, micro_batches):
    stage = golden_stage(config, camera)
    tx = make_optimizer(config.optim, attention_from=10**6)
    state = TrainState.create(head_params(head), tx, {}, Range(golden))
    state = state.replace(scene=None)
    stage = stage.replace(loss=lambda p, f, _, *rest, loss=stage.loss: loss(p, f, Range(golden), *rest))
    update = make_update(stage, tx, 0, micro_batches)
    losses = []
    for _ in golden["head_train_losses"]:
        state, metrics = update(state, first_batch)
        losses.append(float(metrics["loss"]))
    # Adam divides by gradients' sizes, which lets round-off of the smallest ones grow with the steps.
    np.testing.assert_allclose(losses, golden["head_train_losses"], rtol=1e-3)


def test_learning_rates(golden):
    schedule = learning_rate(5e-4, 0.1, 250_000)
    rates = [schedule(k) for k in golden["lr_update_index"]]
    np.testing.assert_allclose(rates, golden["lr_networks"], rtol=1e-6)  # a float32 power
