"""The fields' networks against their formulas in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adnerf_jax.models.fields import (
    BlendedGrid,
    ConditionedMLP,
    DensityGrid,
    GridField,
    MultiresolutionGrid,
    PlanarField,
    bounded_exp,
    product,
    saturating_sigmoid,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Sums of up to 64 float32 products of order 1, three layers deep.
TOLERANCE = 1e-5
GRID = dict(levels=2, features=2, table_size=64, coarsest=2, finest=5)


def dense(params: dict, x: np.ndarray) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0.0)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def shaken(params, seed: int = 0):
    """Parameters away from their initial values, where biases are zero and tables almost."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: np.asarray(a) + 0.3 * rng.normal(size=a.shape).astype(np.float32), params)


class UnveiledTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_reaches_both_ends_and_can_come_back_from_them(self):
        x = np.array([-30.0, -4.0, 0.0, 4.0, 30.0], np.float32)
        y, slope = self.variant(lambda x: (saturating_sigmoid(x), jax.vmap(jax.grad(saturating_sigmoid))(x)))(x)
        np.testing.assert_array_equal(np.asarray(y)[[0, 1, 3, 4]], [0, 0, 1, 1])
        np.testing.assert_allclose(y[2], 0.5, atol=1e-6)
        assert (np.asarray(slope)[1:4] > 0).all() and np.isfinite(slope).all()


class BoundedExpTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_is_exp_with_a_ceiling_and_a_gradient_everywhere(self):
        x = np.array([-1e4, -3.0, 0.0, 10.9, 11.1, 1e4], np.float32)
        y, slope = self.variant(lambda x: (bounded_exp(x), jax.vmap(jax.grad(bounded_exp))(x)))(x)
        expected = np.exp(np.minimum(x.astype(np.float64), 11.0))
        np.testing.assert_allclose(y, expected, rtol=1e-5)  # x = 11 is rounded to 1e-6, so exp is to 1e-6 relative
        # Above the ceiling the slope stays, so that a density that overshot can decrease again.
        np.testing.assert_allclose(slope, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_factors_have_the_given_type_in_the_gradient_too(dtype):
    a, b = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(6, 4), (4, 3)]))

    def loss(a, b):
        return jnp.sin(product(a, b, dtype)).sum()

    products = [e for e in jax.make_jaxpr(jax.grad(loss, (0, 1)))(a, b).eqns if e.primitive.name == "dot_general"]
    assert len(products) == 3
    assert {v.aval.dtype.name for e in products for v in e.invars} == {dtype}
    assert {e.outvars[0].aval.dtype.name for e in products} == {"float32"}
    exact = jax.grad(lambda a, b: jnp.sin(a @ b).sum(), (0, 1))(a, b)
    # Factors of 8 bits, sums of four terms of about 1.
    chex.assert_trees_all_close(jax.grad(loss, (0, 1))(a, b), exact, atol=1e-6 if dtype == "float32" else 0.05)


def test_density_grid_starts_at_density_one_and_reads_its_own_entries():
    grid = DensityGrid(resolution=2)
    x = np.array([[0.0, 0.5, 1.0], [0.25, 0.0, 0.0]], np.float32)
    params = grid.init(jax.random.key(0), x)
    np.testing.assert_array_equal(grid.apply(params, x), 1.0)
    gain = np.log(grid.apply({"params": {"grids": np.full(8, 0.1, np.float32)}}, x)[0]) / 0.1
    assert gain > 0
    entries = np.log(np.arange(1.0, 9.0, dtype=np.float32)) / gain
    density = grid.apply({"params": {"grids": entries}}, x)
    # The cells (0, 1, 1), the border being the last cell's, and (0, 0, 0).
    np.testing.assert_allclose(density, [7.0, 1.0], rtol=1e-5)


class BlendedGridTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_sum_of_look_ups_that_the_code_weights(self):
        rng = np.random.default_rng(4)
        x, shape = rng.random((3, 5, 3)).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
        blended, single = BlendedGrid(**GRID), MultiresolutionGrid(**GRID)
        params = shaken(blended.init(jax.random.key(0), x, shape)["params"])
        looked_up = [np.asarray(single.apply({"params": {"grids": grids}}, x)) for grids in params["grids"]]
        expected = sum(shape[:, m, None, None] * looked_up[m] for m in range(2))
        np.testing.assert_allclose(self.variant(blended.apply)({"params": params}, x, shape), expected, atol=TOLERANCE)


class ConditionedMLPTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_is_an_mlp_on_point_and_code_together(self):
        rng = np.random.default_rng(1)
        x, code = (rng.normal(size=s).astype(np.float32) for s in ((3, 5, 4), (3, 6)))
        net = ConditionedMLP(8, 3, 2)
        params = shaken(jax.jit(net.init)(jax.random.key(0), x, code)["params"])
        out = self.variant(net.apply)({"params": params}, x, code)
        first = {
            "kernel": np.concatenate([params["in"]["kernel"], params["shift"]["kernel"]]),
            "bias": params["shift"]["bias"],
        }
        together = np.concatenate([x, np.repeat(code[:, None], 5, axis=1)], axis=-1)
        h = relu(dense(first, together))
        h = relu(dense(params["hidden2"], relu(dense(params["hidden1"], h))))
        np.testing.assert_allclose(out, dense(params["out"], h), rtol=TOLERANCE, atol=TOLERANCE)


def grid_field() -> GridField:
    return GridField(MultiresolutionGrid(**GRID), BlendedGrid(**GRID), width=8, geometry=3, direction_levels=2)


def test_the_head_field_evaluates_each_point_with_its_own_ray_and_frame():
    rng = np.random.default_rng(2)
    x = rng.random((2, 3, 4, 3)).astype(np.float32)
    directions = rng.normal(size=(2, 3, 3)).astype(np.float32)
    code = rng.normal(size=(2, 5)).astype(np.float32)
    shape = rng.normal(size=(2, 2)).astype(np.float32)
    field = grid_field()
    params = shaken(jax.jit(field.init)(jax.random.key(0), x, directions, code, shape))
    apply = jax.jit(field.apply)
    density, colours = apply(params, x, directions, code, shape)
    assert density.shape == (2, 3, 4) and colours.shape == (2, 3, 4, 3)
    assert (density > 0).all() and (colours > 0).all() and (colours < 1).all()
    assert density.std() > 0.01 and colours.std() > 0.01
    for f, r, s in np.ndindex(2, 3, 4):
        alone = x[f, r, s][None, None, None], directions[f, r][None, None], code[f][None], shape[f][None]
        one = apply(params, *alone)
        np.testing.assert_allclose(one[0].item(), density[f, r, s], rtol=10 * TOLERANCE)  # an exponential
        np.testing.assert_allclose(one[1][0, 0, 0], colours[f, r, s], atol=TOLERANCE)


class PlanarFieldTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(3)
        self.x = rng.random((2, 6, 2)).astype(np.float32)
        self.pose = rng.normal(size=(2, 6)).astype(np.float32)
        self.code = rng.normal(size=(2, 5)).astype(np.float32)

    def field(self, reach: float) -> PlanarField:
        return PlanarField(MultiresolutionGrid(**GRID), width=8, deformation_width=6, position_levels=2, reach=reach)

    def test_each_pixel_is_evaluated_with_its_own_code(self):
        field = self.field(0.1)
        params = shaken(jax.jit(field.init)(jax.random.key(0), self.x, self.pose, self.code))
        apply = jax.jit(field.apply)
        colours, opacity = apply(params, self.x, self.pose, self.code)
        assert colours.shape == (2, 6, 3) and opacity.shape == (2, 6)
        assert ((colours > 0) & (colours < 1)).all() and ((opacity > 0) & (opacity < 1)).all()
        for f, r in np.ndindex(2, 6):
            one = apply(params, self.x[f, r][None, None], self.pose[f][None], self.code[f][None])
            np.testing.assert_allclose(one[0][0, 0], colours[f, r], atol=TOLERANCE)
            np.testing.assert_allclose(one[1].item(), opacity[f, r], atol=TOLERANCE)

    def test_the_initial_deformation_is_zero(self):
        field = self.field(0.1)
        params = jax.jit(field.init)(jax.random.key(0), self.x, self.pose, self.code)
        _, kept = field.apply(params, self.x, self.pose, self.code, capture_intermediates=True, mutable="intermediates")
        np.testing.assert_array_equal(kept["intermediates"]["deformation_out"]["__call__"][0], 0.0)

    def test_the_look_up_moves_no_further_than_its_reach(self):
        # A picture whose only entries lie at the left: seen from within reach of them, from nowhere else.
        grid = dict(levels=1, features=1, table_size=121, coarsest=10, finest=10)
        field = PlanarField(MultiresolutionGrid(**grid), width=8, deformation_width=6, position_levels=2, reach=0.2)
        params = shaken(jax.jit(field.init)(jax.random.key(0), self.x, self.pose, self.code))["params"]
        params["deformation_out"] = jax.tree.map(lambda a: 100 * a, params["deformation_out"])  # as far as it can
        table = np.zeros((1, 121, 1), np.float32)
        blank = {"params": params | {"grid": {"grids": table}}}
        table = table.copy()
        table[0, :11] = 5.0  # the last coordinate, the column, is 0 there
        drawn = {"params": params | {"grid": {"grids": table}}}
        x = np.random.default_rng(4).random((2, 200, 2)).astype(np.float32)
        apply = jax.jit(field.apply)
        changed = (
            np.abs(apply(drawn, x, self.pose, self.code)[0] - apply(blank, x, self.pose, self.code)[0]).max(-1) > 0
        )
        # The picture is the frame with a border of 0.2: its first cells end at 1.4 / 10 − 0.2, outside the frame, and
        # 0.2 further right when moved as far as it goes.
        assert changed.any() and x[changed][:, 1].max() < 0.14


def test_tables_are_called_grids_so_that_the_optimizer_finds_them():
    field = grid_field()
    x = jnp.zeros((1, 1, 1, 3))
    shapes = jax.eval_shape(field.init, jax.random.key(0), x, x[:, :, 0], jnp.zeros((1, 2)), jnp.zeros((1, 2)))[
        "params"
    ]
    tables = [p for p, a in jax.tree_util.tree_flatten_with_path(shapes)[0] if 64 in a.shape]
    names = {jax.tree_util.keystr(p, simple=True, separator="/") for p in tables}
    assert names == {"grid/grids", "shapes/grids"}
