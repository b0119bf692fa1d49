"""The `paper` family: properties of its renders, which inputs affect them, and that optimisations change no number."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from adnerf_jax.common.types import Occupancy, Rays, RenderOptions
from adnerf_jax.models import paper as volume_models
from adnerf_jax.models.build import build_head, build_torso
from adnerf_jax.models.fields import MLPField
from adnerf_jax.nerf.cameras import euler_angles
from adnerf_jax.nerf.encoding import positional

pytestmark = pytest.mark.usefixtures("quick_compilation")

FRAMES, COUNT = 2, 24
COARSE, FINE = 8, 6  # samples of `tiny.config`
BOX = np.array([[-0.5, -0.5, -0.6], [0.5, 0.5, 0.6]], np.float32)


def build(stage: str, **changes):
    """The head or the torso of the small configuration with changes of its fields."""
    settings = tiny.config(stage, variants="smoke")
    settings.model[stage].update(changes)
    return {"head": build_head, "torso": build_torso}[stage](settings.model[stage], settings.compat)


def spread(model, params, code):
    """Parameters with which some rays end in the volume and others hardly meet it; initial densities are all low."""
    params = jax.tree.map(np.array, params)
    for field in params["volume"].values():
        for layer in field.values():
            layer["kernel"] *= 2.45  # the spread of activations stays from layer to layer
        field["density"]["kernel"] *= 40.0
    points = np.random.default_rng(9).uniform(-0.25, 0.25, (200, 3)).astype(np.float32)
    found = jax.jit(lambda p: model.apply({"params": p}, points, code, method="densities"))(params)
    for field, raw in zip(("coarse", "fine"), found, strict=True):
        params["volume"][field]["density"]["bias"] -= np.quantile(raw, 0.6)
    return params


@pytest.fixture(scope="module")
def head():
    """A head with parameters away from their initialisation: its volume's render as a function, and the inputs."""
    model, scene = build("head"), tiny.scene()
    rays = tiny.random_rays(FRAMES, COUNT)
    background = np.random.default_rng(0).random((FRAMES, COUNT, 3)).astype(np.float32)

    def once(module):
        return module(rays, module.codes(tiny.conditions(FRAMES), scene), background, scene)

    params = jax.jit(lambda key: model.init(key, method=once))(jax.random.key(0))["params"]
    codes = jax.jit(lambda: model.apply({"params": params}, tiny.conditions(FRAMES), scene, method="codes"))()
    params = spread(model, params, jnp.concatenate(list(codes.values()), axis=-1)[0])

    class Head:
        """The model's methods, compiled, and one set of inputs."""

        render = staticmethod(
            jax.jit(lambda p, r, c, b, k, s=scene: model.apply({"params": p}, r, c, b, s, RenderOptions(k)))
        )

    Head.model, Head.params, Head.scene, Head.codes = model, params, scene, codes
    Head.rays, Head.background = rays, background
    return Head


def first_frame(head):
    """The inputs of a render, of the first frame alone."""
    first = functools.partial(jax.tree.map, lambda a: a[:1])
    return first(head.rays), first(head.codes), head.background[:1]


def wall(params, density: float = 50.0):
    """Parameters set by hand: both fields have the raw density `density`·max(x, 0), for any code."""
    nothing = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), params)
    for field in nothing["volume"].values():
        field["layer0"]["kernel"][0, 0] = 1.0  # the position comes first in its encoding
        field["layer1"]["kernel"][0, 0] = 1.0
        field["layer2"]["kernel"][-16, 0] = 1.0  # hidden units come last where the input enters again
        field["density"]["kernel"][0, 0] = density
    return nothing


def straight_rays(x: np.ndarray) -> Rays:
    """Rays along the camera's axis at some x, half as long again as a unit."""
    origins = np.stack([x, 0.01 * np.ones_like(x), tiny.DEPTH * np.ones_like(x)], axis=-1)[None]
    return Rays(origins.astype(np.float32), np.broadcast_to(np.float32([0, 0, -1.5]), origins.shape))


def test_a_render_is_a_mixture_of_colours(head):
    levels = head.render(head.params, head.rays, head.codes, head.background, None)
    chex.assert_tree_all_finite(levels)
    assert levels.sampler_loss == 0
    # The closing sample, the background, is no sample of the field.
    assert [level.weights.shape for level in levels.rendered] == [(FRAMES, COUNT, s - 1) for s in (8, 8 + 6)]
    for level in map(jax.device_get, levels.rendered):
        assert level.rgb.min() >= 0 and level.rgb.max() <= 1 + 1e-6
        assert level.weights.min() >= 0
        np.testing.assert_allclose(level.weights.sum(-1), level.opacity, atol=1e-6)
        assert level.opacity.max() <= 1 + 1e-6 and level.opacity.max() > 0.9 and level.opacity.min() < 0.5
        behind = (1 - level.opacity)[..., None] * head.background
        np.testing.assert_allclose(level.rgb, level.foreground + behind, atol=1e-6)
        seen = level.opacity > 0.1
        mean = level.depth[seen] / level.opacity[seen]
        assert mean.min() >= head.scene.near - 1e-5 and mean.max() <= head.scene.far


def test_rays_along_a_known_density(head):
    x = np.linspace(-0.3, 0.3, COUNT)
    background = np.random.default_rng(1).random((1, COUNT, 3)).astype(np.float32)
    codes = {"audio": head.codes["audio"][:1]}
    levels = head.render(wall(head.params), straight_rays(x), codes, background, None).rendered
    length = 1.5 * (head.scene.far - head.scene.near)
    expected = 1 - np.exp(-(50 * np.maximum(x, 0) + 1e-6) * length)
    for level in levels:
        # Thirteen roundings of 6e-8 and positions, x = 0.3 at most, to 3e-8 under a slope of 50 · 0.9.
        np.testing.assert_allclose(level.opacity[0], expected, atol=2e-6)
        # Hidden units of zero give grey; where there is no density the background is untouched.
        np.testing.assert_allclose(level.foreground[0], np.repeat(0.5 * expected[:, None], 3, 1), atol=2e-6)
        empty = x < 0
        np.testing.assert_allclose(level.rgb[0][empty], background[0][empty], atol=2e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-3, 1.0, 1e3, 1e6])
def test_gradients_stay_finite_at_extreme_densities(head, scale):
    params = jax.tree.map(jnp.asarray, head.params)
    for field in params["volume"].values():
        field["density"] = jax.tree.map(lambda a: scale * a, field["density"])

    def total(params):
        levels = head.render(params, head.rays, head.codes, head.background, jax.random.key(0)).rendered
        return sum(jnp.square(level.rgb - 0.3).mean() for level in levels)

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    chex.assert_tree_all_finite((value, gradient))


def test_a_frame_is_rendered_as_if_alone(head):
    both = head.render(head.params, head.rays, head.codes, head.background, None).rendered
    alone = head.render(head.params, *first_frame(head), None).rendered
    for one, other in zip(alone, both, strict=True):
        np.testing.assert_allclose(one.rgb[0], other.rgb[0], atol=1e-5)  # sums in another order


def test_the_key_moves_samples_a_little(head):
    still = head.render(head.params, head.rays, head.codes, head.background, None).rendered[-1]
    moved, again = (
        head.render(head.params, head.rays, head.codes, head.background, jax.random.key(5)).rendered[-1]
        for _ in range(2)
    )
    chex.assert_trees_all_equal(moved, again)
    assert 0 < np.abs(np.asarray(moved.rgb) - np.asarray(still.rgb)).mean() < 0.2


def test_the_code_is_in_the_order_of_the_names_however_it_comes():
    model = build("head", codes=("eyes", "audio"))
    codes = {"audio": np.zeros((1, 2)), "eyes": np.ones((1, 3))}
    for given in (codes, dict(reversed(codes.items()))):
        np.testing.assert_array_equal(model.code(given), [[1, 1, 1, 0, 0]])


def test_an_occupancy_that_is_true_everywhere_changes_nothing(head):
    everywhere = Occupancy(box=BOX, cells=np.ones((2, 4**3), bool))
    rays, codes, background = first_frame(head)
    apply = jax.jit(lambda occupancy: head.model.apply(
        {"params": head.params}, rays, codes, background, head.scene, RenderOptions(occupancy=occupancy)).rendered
    )  # fmt: skip
    for with_grid, without in zip(apply(everywhere), apply(None), strict=True):
        # Products over packed samples: another order of sums.
        chex.assert_trees_all_close(with_grid, without, atol=2e-5)


def test_an_occupancy_of_the_density_leaves_out_only_what_has_none(head):
    # Cells are 0.25 wide: density begins at the border between two, x = 0.
    cells = np.arange(4**3) % 4 >= 2
    occupancy = Occupancy(box=BOX, cells=np.stack([cells, cells]))
    x = np.linspace(-0.3, 0.3, COUNT)
    codes, background = {"audio": head.codes["audio"][:1]}, head.background[:1]
    rays = straight_rays(x)
    apply = jax.jit(lambda params, occupancy: head.model.apply(
        {"params": params}, rays, codes, background, head.scene, RenderOptions(occupancy=occupancy)).rendered
    )  # fmt: skip
    params = wall(head.params)
    for with_grid, without in zip(apply(params, occupancy), apply(params, None), strict=True):
        chex.assert_trees_all_close(with_grid, without, atol=2e-6)
    visible = head.model.apply(
        {"params": params}, straight_rays(x), head.scene, RenderOptions(occupancy=occupancy), method="visible"
    )
    np.testing.assert_array_equal(visible[0], x >= 0)
    visible = head.model.apply({"params": params}, straight_rays(x), head.scene, method="visible")
    assert visible.shape == (1, COUNT) and visible.dtype == bool and visible.all()
    # A sample in a cell without density is left out, whatever density the field returns there.
    denser = jax.tree.map(np.copy, params)
    for field in denser["volume"].values():
        field["density"]["bias"][:] = 20.0
    with_grid, without = apply(denser, occupancy)[-1], apply(denser, None)[-1]
    assert (with_grid.opacity[0][x < 0] < 2e-6).all() and (without.opacity[0] > 0.99).all()


def test_a_render_in_blocks_is_a_render_in_one(head, monkeypatch):
    inputs = ({"params": head.params}, head.rays, head.codes, head.background, head.scene)
    # The size of blocks is read while a function is traced: a new function each time.
    whole = jax.jit(lambda *inputs: head.model.apply(*inputs).rendered)(*inputs)
    # 5 of 24 rays at once for the coarse field, the last block padded; 2 for the fine one.
    monkeypatch.setattr(volume_models, "_block", lambda: 5 * FRAMES * (COARSE - 1))
    blocks = jax.jit(lambda *inputs: head.model.apply(*inputs).rendered)(*inputs)
    # Products of other shapes sum in another order.
    chex.assert_trees_all_close(blocks[0], whole[0], atol=2e-5)
    # Where a ray meets hardly anything, its fine positions follow such roundings, and its colour hardly does.
    np.testing.assert_allclose(blocks[1].rgb, whole[1].rgb, atol=1e-4)


def test_activations_computed_twice_give_the_same_gradient(head):
    def gradient(model):
        def total(params):
            levels = model.apply(
                {"params": params}, head.rays, head.codes, head.background, head.scene, RenderOptions(jax.random.key(1))
            )
            return sum(jnp.square(level.rgb).sum() for level in levels.rendered)

        return jax.jit(jax.grad(total))(head.params)

    kept, again = gradient(head.model), gradient(build("head", rematerialise=True))
    assert jax.tree.structure(kept) == jax.tree.structure(again)  # the same names of parameters
    # The same sums in another order, of 2 · 24 · 14 samples behind steep densities.
    chex.assert_trees_all_close(again, kept, rtol=1e-4, atol=1e-4)


def test_bfloat16_factors_give_nearly_the_same(head):
    model = build("head", dtype="bfloat16")
    params = jax.tree.map(jnp.asarray, head.params)
    for field in params["volume"].values():
        field["density"] = jax.tree.map(lambda a: a / 40.0, field["density"])  # low density
    whole = head.render(params, head.rays, head.codes, head.background, None)
    short = jax.jit(lambda p: model.apply({"params": p}, head.rays, head.codes, head.background, head.scene))(params)
    for one, other in zip(short.rendered, whole.rendered, strict=True):
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(one))
        difference = np.abs(np.asarray(one.rgb - other.rgb))
        # Factors to 2⁻⁹ in five layers: a percent of colours and of a density of about 1.
        assert 1e-5 < difference.max() < 0.02


def field_by_hand(params, points, directions, code, skip: int) -> tuple[np.ndarray, np.ndarray]:
    """The published field for each sample by itself: the code is joined to every position (float64)."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    samples = points.shape[:3]

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def every(x):
        return np.broadcast_to(x, (*samples, x.shape[-1]))

    inputs = np.concatenate([positional(points, 4), every(code[:, None, None])], axis=-1)
    h = np.maximum(dense("layer0", inputs), 0)
    for layer in (1, 2):
        h = np.maximum(dense(f"layer{layer}", np.concatenate([inputs, h], -1) if layer == skip + 1 else h), 0)
    towards = every(np.asarray(positional(directions, 2))[:, :, None])
    c = np.maximum(dense("colour0", np.concatenate([h, towards], axis=-1)), 0)
    c = np.maximum(dense("colour1", c), 0)
    return dense("density", h)[..., 0], 1 / (1 + np.exp(-dense("colour", c)))


class MLPFieldTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_codes_multiplied_once_are_codes_joined_to_every_sample(self):
        rng = np.random.default_rng(2)
        points = rng.uniform(-0.3, 0.3, (2, 3, 5, 3)).astype(np.float32)
        directions = rng.normal(size=(2, 3, 3)).astype(np.float32)
        code = rng.normal(size=(2, 7)).astype(np.float32)
        for skip in (0, 1):
            field = MLPField(16, 3, skip, 8, 2, 4, 2, dtype="float32")
            params = field.init(jax.random.key(skip), points, directions, code)["params"]
            density, colours = self.variant(field.apply)({"params": params}, points, directions, code)
            expected, expected_colours = field_by_hand(params, points, directions, code, skip)
            # Sums of up to 50 float32 products of order 1, five layers deep.
            np.testing.assert_allclose(density, expected, atol=1e-5)
            np.testing.assert_allclose(colours, expected_colours, atol=1e-5)
            assert np.std(density) > 0.01 and np.std(colours) > 0.001


class TorsoTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(3)
        self.model, self.scene, self.camera = build("torso"), tiny.scene(), tiny.camera()
        self.pixels = rng.uniform(0, tiny.SIZE, (FRAMES, COUNT, 2)).astype(np.float32)
        self.transforms = np.stack([tiny.pose(0.1, 0.0), tiny.pose(-0.2, 0.1)]).astype(np.float32)
        self.audio = rng.normal(size=(FRAMES, 64)).astype(np.float32)
        init = jax.jit(
            lambda key: self.model.init(key, self.pixels, self.camera, self.transforms, self.audio, self.scene)
        )
        self.params = init(jax.random.key(0))["params"]
        self.params = spread(self.model, self.params, self.model.code(self.transforms, self.audio)[0])

    def layers(self, params, transforms, audio):
        """(colour, opacity) of both levels."""
        apply = jax.jit(lambda p, *args: self.model.apply({"params": p}, self.pixels, self.camera, *args, self.scene))
        return apply(params, transforms, audio)

    def test_both_levels_are_premultiplied_colours(self):
        layers = self.layers(self.params, self.transforms, self.audio)
        assert len(layers) == 2
        for colour, opacity in map(jax.device_get, layers):
            assert colour.shape == (FRAMES, COUNT, 3) and opacity.shape == (FRAMES, COUNT)
            assert colour.min() >= 0 and (colour <= opacity[..., None] + 1e-6).all()
            assert opacity.max() <= 1 + 1e-6 and opacity.max() > 0.1

    def test_pose_and_speech_enter_by_the_code_alone(self):
        here = self.layers(self.params, self.transforms, self.audio)[-1][0]
        assert np.abs(here - self.layers(self.params, self.transforms[::-1], self.audio)[-1][0]).max() > 1e-5
        assert np.abs(here - self.layers(self.params, self.transforms, self.audio[::-1])[-1][0]).max() > 1e-5
        # Without the code's rows nothing depends on the head's pose: the camera is static.
        deaf = jax.tree.map(np.array, self.params)
        where = 3 * (1 + 2 * 4)
        for field in deaf["volume"].values():
            field["layer0"]["kernel"][where:] = 0.0
            field["layer2"]["kernel"][where:-16] = 0.0
        still = self.layers(deaf, self.transforms, self.audio)
        chex.assert_trees_all_equal(still, self.layers(deaf, self.transforms[::-1], self.audio[::-1]))

    def test_the_code_is_the_heads_then_angles_then_translation(self):
        code = self.model.code(self.transforms, self.audio)
        assert code.shape == (FRAMES, 64 + 2 * 21)
        np.testing.assert_array_equal(code[:, :64], self.audio)
        angles, place = euler_angles(self.transforms), self.transforms[:, :3, 3]
        np.testing.assert_allclose(code[:, 64:85], positional(angles, 3), atol=1e-6)
        np.testing.assert_allclose(code[:, 85:], positional(place, 3), atol=1e-6)

    def test_pixels_are_visible_where_their_rays_cross_density(self):
        visible = self.model.apply({"params": self.params}, self.pixels, self.camera, self.scene, method="visible")
        assert visible.dtype == bool and visible.all()
        # Everything at x < 0: the left half of the picture, up to the camera's turn by 0.1 rad.
        cells = np.broadcast_to(np.arange(16**3) % 16 < 8, (2, 16**3))
        occupancy = Occupancy(box=2 * BOX, cells=cells)
        visible = self.model.apply(
            {"params": self.params},
            self.pixels,
            self.camera,
            self.scene,
            RenderOptions(occupancy=occupancy),
            method="visible",
        )
        rays = self.model._rays(self.pixels, self.camera, self.scene)
        t = np.linspace(self.scene.near, self.scene.far, 32)[:, None, None]
        x = np.asarray(rays.origins[..., 0]) + t * np.asarray(rays.directions[..., 0])
        np.testing.assert_array_equal(visible, (x < 0).any(0))
        assert visible.any() and not visible.all()
