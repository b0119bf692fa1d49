"""The `fast` family: properties of its renders, and which inputs affect them."""

import chex
import jax
import numpy as np
import pytest
import tiny

from adnerf_jax.common.types import Rays, RenderOptions
from adnerf_jax.models.build import build_head, build_torso

pytestmark = pytest.mark.usefixtures("quick_compilation")

FRAMES, COUNT = 2, 40


@pytest.fixture(scope="module")
def head():
    """A head with parameters away from their initialisation: render, codes and visible as functions, and the inputs."""
    settings = tiny.config("head")
    model = build_head(settings.model.head, settings.compat)
    scene, conditions = tiny.scene(), tiny.conditions(FRAMES)
    rays = tiny.random_rays(FRAMES, COUNT)
    background = np.random.default_rng(0).random((FRAMES, COUNT, 3)).astype(np.float32)

    def once(module, conditions, rays, background):
        return module(rays, module.codes(conditions, scene), background, scene)

    params = jax.jit(lambda *args: model.init(*args, method=once))(jax.random.key(0), conditions, rays, background)
    params = params["params"]
    rng = np.random.default_rng(1)
    params["proposal"]["grids"] = rng.normal(0.1, 0.2, params["proposal"]["grids"].shape).astype(np.float32)
    params["field"]["density"]["out"]["bias"] += 3.0  # so that some rays end in it
    params["field"]["grid"]["grids"] = rng.normal(0.0, 5.0, params["field"]["grid"]["grids"].shape).astype(np.float32)

    class Head:
        """The model's methods, compiled, and one set of inputs."""

        codes = staticmethod(jax.jit(lambda p, c: model.apply({"params": p}, c, scene, method="codes")))
        render = staticmethod(
            jax.jit(lambda p, r, c, b, k, s=scene: model.apply({"params": p}, r, c, b, s, RenderOptions(k)))
        )
        visible = staticmethod(jax.jit(lambda p, r: model.apply({"params": p}, r, scene, method="visible")))

    Head.params, Head.scene, Head.conditions, Head.rays, Head.background = params, scene, conditions, rays, background
    return Head


def test_a_render_is_a_mixture_of_colours(head):
    levels = head.render(head.params, head.rays, head.codes(head.params, head.conditions), head.background, None)
    (fine,) = levels.rendered
    assert fine.rgb.shape == (FRAMES, COUNT, 3) and fine.weights.shape == (FRAMES, COUNT, 6)
    chex.assert_tree_all_finite(levels)
    rgb, opacity = np.asarray(fine.rgb), np.asarray(fine.opacity)
    assert rgb.min() >= 0 and rgb.max() <= 1 + 1e-6
    assert opacity.min() >= 0 and opacity.max() <= 1 + 1e-6 and opacity.max() > 0.5
    assert levels.sampler_loss >= 0
    # Depth is a mean of positions between near and far.
    mean = np.asarray(fine.depth)[opacity > 0.1] / opacity[opacity > 0.1]
    assert mean.min() >= head.scene.near and mean.max() <= head.scene.far


def test_rays_past_the_box_show_the_background_and_train_nothing(head):
    origins = np.full((FRAMES, COUNT, 3), [0.5, 0.0, tiny.DEPTH], np.float32)
    rays = Rays(origins, np.broadcast_to(np.array([0, 0, -1], np.float32), origins.shape))
    codes = head.codes(head.params, head.conditions)
    levels = head.render(head.params, rays, codes, head.background, None)
    np.testing.assert_allclose(levels.rendered[-1].rgb, head.background, atol=1e-6)
    np.testing.assert_array_equal(levels.rendered[-1].opacity, 0.0)
    np.testing.assert_array_equal(head.visible(head.params, rays), False)

    @jax.jit
    @jax.grad
    def gradient(params):
        levels = head.render(params, rays, codes, head.background, jax.random.key(0))
        return levels.rendered[-1].rgb.sum() + levels.sampler_loss

    for leaf in jax.tree.leaves(gradient(head.params)):
        np.testing.assert_array_equal(leaf, 0.0)


def test_a_frame_is_rendered_as_if_alone(head):
    codes = head.codes(head.params, head.conditions)
    both = head.render(head.params, head.rays, codes, head.background, None).rendered[-1]
    alone = head.render(
        head.params,
        jax.tree.map(lambda a: a[1:], head.rays),
        jax.tree.map(lambda a: a[1:], codes),
        head.background[1:],
        None,
    ).rendered[-1]
    # Another number of rays: sums in another order, steepened by densities up to e^8.
    np.testing.assert_allclose(alone.rgb[0], both.rgb[1], atol=1e-4)


def test_the_length_of_directions_is_only_a_unit_of_t(head):
    codes = head.codes(head.params, head.conditions)
    one = head.render(head.params, head.rays, codes, head.background, None, head.scene).rendered[-1]
    rays = head.rays.replace(directions=2 * head.rays.directions)
    scene = head.scene.replace(near=head.scene.near / 2, far=head.scene.far / 2)
    other = head.render(head.params, rays, codes, head.background, None, scene).rendered[-1]
    # Multiples of two are exact, norms are rounded once more, densities up to e^8 steepen that.
    np.testing.assert_allclose(other.rgb, one.rgb, atol=1e-5)
    np.testing.assert_allclose(other.opacity, one.opacity, atol=1e-5)
    np.testing.assert_allclose(2 * other.depth, one.depth, atol=1e-5)
    # Lengths count: the same density over longer rays is more opaque.
    assert np.asarray(one.opacity).max() > 0.5


def test_the_key_moves_samples_a_little(head):
    codes = head.codes(head.params, head.conditions)
    still = head.render(head.params, head.rays, codes, head.background, None).rendered[-1]
    moved, again = (
        head.render(head.params, head.rays, codes, head.background, jax.random.key(5)).rendered[-1] for _ in range(2)
    )
    chex.assert_trees_all_equal(moved, again)
    difference = np.abs(np.asarray(moved.rgb) - np.asarray(still.rgb))
    assert 0 < difference.mean() < 0.2


def test_the_proposal_learns_where_nothing_is(head):
    """Without this, densities of the initialisation stay in empty space, and every ray counts as visible."""
    codes = head.codes(head.params, head.conditions)
    field = jax.tree.map(lambda a: a, head.params["field"])
    field["density"]["out"]["bias"] = field["density"]["out"]["bias"] - 60.0

    @jax.jit
    @jax.grad
    def gradient(proposal):
        params = {"proposal": proposal, "field": field} | {
            name: tree for name, tree in head.params.items() if name not in ("proposal", "field")
        }
        return head.render(params, head.rays, codes, head.background, None).sampler_loss

    grids = np.asarray(gradient(head.params["proposal"])["grids"])
    assert (grids >= 0).all() and (grids > 0).any()  # a step of the descent lowers densities alone


class TorsoTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(2)
        self.scene = tiny.scene()
        settings = tiny.config("torso")
        self.model = build_torso(settings.model.torso, settings.compat)
        self.camera = tiny.camera()
        self.pixels = rng.uniform(0, tiny.SIZE, (FRAMES, COUNT, 2)).astype(np.float32)
        self.transforms = np.stack([tiny.pose(0.1, 0.0), tiny.pose(-0.2, 0.1)]).astype(np.float32)
        self.audio = rng.normal(size=(FRAMES, 64)).astype(np.float32)
        init = jax.jit(
            lambda key: self.model.init(key, self.pixels, self.camera, self.transforms, self.audio, self.scene)
        )
        self.params = init(jax.random.key(0))

    def layer(self, transforms, audio):
        """Colour and opacity of the only level, as numpy arrays."""
        apply = jax.jit(lambda *args: self.model.apply(self.params, self.pixels, self.camera, *args, self.scene))
        (layer,) = apply(transforms, audio)
        return tuple(map(np.asarray, layer))

    def test_colour_is_premultiplied_and_zero_above_the_shoulders(self):
        colour, opacity = self.layer(self.transforms, self.audio)
        assert (colour <= opacity[..., None]).all() and (colour >= 0).all()
        above = self.pixels[..., 0] / tiny.SIZE < self.scene.torso_top
        assert (opacity[above] == 0).all() and (colour[above] == 0).all()
        assert (opacity[~above] > 0).all() and above.any() and not above.all()
        visible = self.model.apply(self.params, self.pixels, self.camera, self.scene, method="visible")
        np.testing.assert_array_equal(visible, ~above)

    def test_the_torso_moves_with_pose_and_speech(self):
        here = self.layer(self.transforms, self.audio)[0]
        assert np.abs(here - self.layer(self.transforms[::-1], self.audio)[0]).max() > 1e-5
        assert np.abs(here - self.layer(self.transforms, self.audio[::-1])[0]).max() > 1e-5
