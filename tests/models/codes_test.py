"""The encodings of the condition codes."""

import jax
import numpy as np
import pytest
import tiny

from adnerf_jax.models.audio_nets import AudioAttNet, AudioNet
from adnerf_jax.models.build import build_head
from adnerf_jax.models.codes.audio import AudioCode
from adnerf_jax.models.codes.encoder import Codes
from adnerf_jax.models.codes.expression import ExpressionCode
from adnerf_jax.models.codes.eyes import EyesCode
from adnerf_jax.models.codes.lips import LipsCode

pytestmark = pytest.mark.usefixtures("quick_compilation")

FRAMES = 2
NAMES = ("audio", "lips", "eyes", "expression")


@pytest.fixture(scope="module")
def codes():
    """All codes with their parameters: `conditions, smooth → codes`, compiled."""
    module, scene = Codes((AudioCode(64), LipsCode(), EyesCode(), ExpressionCode())), tiny.scene()
    variables = jax.jit(lambda key: module.init(key, tiny.conditions(FRAMES), scene))(jax.random.key(0))

    class Bound:
        params = variables["params"]
        apply = staticmethod(jax.jit(lambda conditions, smooth: module.apply(variables, conditions, scene, smooth)))

    return Bound


def test_codes_equal_their_formulas(codes):
    conditions, scene = tiny.conditions(FRAMES), tiny.scene()
    made = codes.apply(conditions, True)
    assert made.keys() == set(NAMES)
    eyes = scene.codes["eyes"]
    np.testing.assert_allclose(made["eyes"], (conditions.tracks["eyes"] - eyes["mean"]) / eyes["scale"], rtol=1e-5)
    # Three frames, the middle one twice as heavy, through the linear map.
    now = np.asarray(conditions.audio)[:, 3:6]
    now = (now[:, 0] + 2 * now[:, 1] + now[:, 2]) / 4
    for name in ("lips", "expression"):
        weights, bias = scene.codes[name]["weights"], scene.codes[name]["bias"]
        expected = np.einsum("ftc,tcm->fm", now, weights) + bias
        np.testing.assert_allclose(made[name], expected, rtol=1e-4, atol=1e-5)  # sums of 128 terms in another order
    features = (conditions.audio - scene.codes["audio"]["mean"]) @ scene.codes["audio"]["basis"]
    nets = codes.params["audio"]
    windows = jax.jit(AudioNet().apply)({"params": nets["net"]}, features)
    smoothed = jax.jit(AudioAttNet().apply)({"params": nets["attention"]}, windows)
    np.testing.assert_allclose(made["audio"], smoothed, rtol=1e-4, atol=1e-5)  # projections added in another order
    plain = codes.apply(conditions, False)["audio"]
    np.testing.assert_allclose(plain, windows[:, 4], rtol=1e-4, atol=1e-5)  # the fifth of i−4 … i+3 is i
    assert np.abs(plain - smoothed).max() > 1e-2


def test_only_the_audio_code_is_smoothed_and_only_it_is_trained(codes):
    conditions = tiny.conditions(FRAMES)
    smooth, plain = codes.apply(conditions, True), codes.apply(conditions, False)
    for name in ("lips", "eyes", "expression"):
        np.testing.assert_array_equal(smooth[name], plain[name])
    assert codes.params.keys() == {"audio"}


def with_expression(tracked: np.ndarray):
    """Conditions with the tracked expression."""
    conditions = tiny.conditions(FRAMES)
    return conditions.replace(tracks=conditions.tracks | {"expression": tracked})


def test_a_tracked_expression_is_standardised_and_not_estimated(codes):
    scene = tiny.scene()
    tracked = np.random.default_rng(0).random((FRAMES, 52)).astype(np.float32)
    made = codes.apply(with_expression(tracked), True)
    np.testing.assert_allclose(made["expression"], (tracked - 0.2) / 0.3, rtol=1e-4, atol=1e-5)  # of order 1
    louder = with_expression(tracked)
    louder = louder.replace(audio=3 * louder.audio)
    np.testing.assert_array_equal(codes.apply(louder, True)["expression"], made["expression"])
    constants = scene.codes["expression"]
    assert constants["mean"][0] == np.float32(0.2) and constants["scale"][0] == np.float32(0.3)


def test_a_head_without_sound_has_no_audio_nets():
    settings = tiny.config("head")
    settings.model.head.update(codes=("eyes",), shape_codes=("eyes",))
    model = build_head(settings.model.head, settings.compat)
    scene = tiny.scene()

    def once(module):
        return module(
            tiny.random_rays(1, 2), module.codes(tiny.conditions(1), scene), np.zeros((1, 2, 3), np.float32), scene
        )

    shapes = jax.eval_shape(lambda key: model.init(key, method=once), jax.random.key(0))["params"]
    assert shapes.keys() == {"field", "proposal"}
    assert shapes["field"]["density"]["shift"]["kernel"].shape[0] == 2
