"""Whole pictures against direct evaluation, and the layers' order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.types import Camera
from adnerf_jax.models.build import build_head, build_torso
from adnerf_jax.nerf.cameras import pixel_grid, rays_through
from adnerf_jax.rendering.renderer import Layers, head_visibility, make_renderer, render_torso
from adnerf_jax.training.stages import example_batch, head_init

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def head():
    """A model and parameters whose proposal is empty but for the middle of the box."""
    camera = Camera(60.0, 9.0, 12.0, height=23, width=18)  # odd, not square, no multiple of the stride
    settings = tiny.config("head")
    model = build_head(settings.model.head, settings.compat)
    scene = tiny.scene()
    params = jax.jit(head_init(model, camera))(jax.random.key(0), example_batch(1, 1, (16, 8)), scene)
    cells = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    middle = (np.abs(cells - [3, 4, 4]) <= 1).all(-1)
    grid = np.zeros(8**3, np.float32)
    grid[cells @ [1, 8, 64]] = np.where(middle, 6.0, -12.0)
    params["proposal"]["grids"] = grid
    return model, params, scene, camera


TRANSFORM = tiny.pose(0.2, 0.1).astype(np.float32)


def test_no_pixel_of_the_head_is_skipped(head):
    model, params, scene, camera = head

    def proposed(module, rays):
        """Opacity of the proposal, which is under every condition."""
        return module._propose(rays, jnp.linalg.norm(rays.directions, axis=-1, keepdims=True), scene)[1].sum(-1)

    @jax.jit
    def visible_and_opaque(transform):
        rays = rays_through(pixel_grid(camera.height, camera.width)[None], transform[None], camera)
        opacity = model.apply({"params": params}, rays, method=proposed)[0]
        return head_visibility(model, params, scene, transform, camera), opacity > 0.01

    def within(mask, pixels):
        """Whether a set place lies within some number of pixels."""
        side = 2 * pixels + 1
        image = jnp.asarray(mask).reshape(camera.height, camera.width)
        return jax.lax.reduce_window(image, False, jnp.logical_or, (side, side), (1, 1), "SAME").reshape(-1)

    for step in range(8):  # the head's edge at every place between the pixels that are tested
        transform = tiny.pose(0.2, 0.1, (0.007 * step, 0.005 * step)).astype(np.float32)
        visible, opaque = visible_and_opaque(transform)
        assert 20 < int(opaque.sum()) < 0.5 * len(opaque)
        assert not np.any(opaque & ~visible)
        # A cell of 4 and its neighbours to each side: at most 8 pixels beyond the edge.
        assert not np.any(visible & ~within(opaque, 8))


def test_a_whole_picture_is_its_rays_one_by_one(head):
    model, params, scene, camera = head
    conditions = tiny.conditions(1)
    layers = make_renderer(model, None, camera, chunk=64)(params, None, scene, TRANSFORM, conditions)

    @jax.jit
    def direct(pixels):
        codes = model.apply({"params": params}, conditions, scene, method="codes")
        rays = rays_through(pixels[None], TRANSFORM[None], camera)
        return model.apply({"params": params}, rays, codes, jnp.zeros((1, len(pixels), 3)), scene).rendered[-1]

    every = direct(pixel_grid(camera.height, camera.width))
    visible = np.asarray(jax.jit(lambda: head_visibility(model, params, scene, TRANSFORM, camera))())
    assert visible.any() and not visible.all()
    shape = (camera.height, camera.width)
    for image, rays in (
        (layers.head, every.foreground),
        (layers.head_opacity, every.opacity),
        (layers.depth, every.depth),
    ):
        expected = np.where(visible.reshape(-1, *[1] * (rays.ndim - 2)), rays[0], 0.0)
        # Other batch sizes add in another order.
        np.testing.assert_allclose(image, expected.reshape(*shape, *rays.shape[2:]), atol=1e-5)
    assert not np.any(layers.torso) and not np.any(layers.torso_opacity)


def test_the_torso_fills_the_rows_below_its_top():
    camera = Camera(60.0, 9.0, 12.0, height=23, width=18)
    settings, scene = tiny.config("torso"), tiny.scene()
    model = build_torso(settings.model.torso, settings.compat)
    audio = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    pixels, pose = pixel_grid(23, 18)[None], TRANSFORM[None]
    params = jax.jit(lambda key: model.init(key, pixels, camera, pose, audio, scene))(jax.random.key(0))["params"]
    colour, opacity = jax.jit(lambda: render_torso(model, params, scene, TRANSFORM, audio, camera, 50))()
    ((expected, expected_opacity),) = jax.jit(
        lambda: model.apply({"params": params}, pixels, camera, pose, audio, scene)
    )()
    np.testing.assert_allclose(colour, expected.reshape(23, 18, 3), atol=1e-5)  # as above
    np.testing.assert_allclose(opacity, expected_opacity.reshape(23, 18), atol=1e-5)
    assert (opacity[:11] == 0).all() and (opacity[12:] > 0).all()  # torso_top is one half


def test_neighbouring_windows_affect_a_frame_only_with_smoothing(head):
    model, params, scene, camera = head
    conditions = tiny.conditions(1)
    audio = conditions.audio.copy()
    audio[:, 7] += 1.0  # of another frame
    for smooth in (False, True):
        render = make_renderer(model, None, camera, chunk=64, smooth=smooth)
        here, elsewhere = (
            render(params, None, scene, TRANSFORM, conditions.replace(audio=a)).head for a in (conditions.audio, audio)
        )
        # The lips code, a linear map, averages three frames: this one and its two neighbours.
        assert (np.abs(here - elsewhere).max() > 1e-6) == smooth


def test_layers_lie_torso_over_head_over_background():
    def image(*values):
        return np.array(values, np.float32).reshape(1, 1, -1)

    layers = Layers(
        head=image(0.4, 0.0, 0.0), head_opacity=np.array([[0.5]]), depth=np.zeros((1, 1)),
        torso=image(0.0, 0.2, 0.0), torso_opacity=np.array([[0.25]]),
    )  # fmt: skip
    background = image(0.0, 0.0, 1.0)
    np.testing.assert_allclose(layers.head_over(background), image(0.4, 0.0, 0.5))
    np.testing.assert_allclose(layers.person_over(background), image(0.3, 0.2, 0.375))
    np.testing.assert_allclose(layers.straight()[..., 3], 0.625)
    abutting = layers.replace(abutting=True)
    np.testing.assert_allclose(abutting.person_over(background), image(0.4, 0.2, 0.25))
    np.testing.assert_allclose(abutting.straight(), image(0.4 / 0.75, 0.2 / 0.75, 0.0, 0.75))


def test_the_fast_familys_layers_abut_and_the_papers_do_not():
    for variants, abutting in (("fast", True), ("smoke", False)):
        config = tiny.config("torso", variants=variants)
        assert build_torso(config.model.torso, config.compat).abutting == abutting


def test_bytes_are_rounded_and_clipped():
    values = jnp.array([-1.0, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]
