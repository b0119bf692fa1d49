"""Fields: functions from a position and a condition code to colour and density (or opacity)."""

import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.types import EXACT
from adnerf_jax.nerf.encoding import grid_resolutions, multiresolution_grid, nearest_cell, positional

_DENSITY_GAIN = 10.0
# Scale of the pose as an input of the appearance: the deformation should learn it first.
_APPEARANCE_POSE = 0.3
# Opacity this near to 0 or 1 becomes 0 or 1: a sigmoid reaches neither, and would tint every background
# slightly.
_VEIL = 0.02


def _uniform(scale: float):
    """Initialiser of grids: uniform in ±scale (Instant NGP, section 3)."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=-scale, maxval=scale)


@jax.custom_jvp
def bounded_exp(x: Array) -> Array:
    """exp(x), flat above x = 11, with a gradient that never leaves the range of float32."""
    return jnp.exp(jnp.minimum(x, 11.0))


@bounded_exp.defjvp
def _bounded_exp_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    # The gradient does not vanish above the bound, so that a density that overshot can decrease again.
    y = bounded_exp(x)
    return y, y * dx


def saturating_sigmoid(logit: Array) -> Array:
    """Opacity in [0, 1] of logits: a sigmoid that reaches 0 and 1, with the sigmoid's gradient everywhere.

    Saturated opacities that are wrong therefore still receive a gradient; for right ones the error is 0.
    """
    open_ended = nn.sigmoid(logit) * (1.0 + 2.0 * _VEIL) - _VEIL
    return open_ended + jax.lax.stop_gradient(jnp.clip(open_ended, 0.0, 1.0) - open_ended)


class MultiresolutionGrid(nn.Module):
    """Trainable grids of several resolutions (Müller et al. 2022)."""

    levels: int
    features: int
    table_size: int
    coarsest: int
    finest: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] in [0, 1] to [..., levels·features]."""
        grids = self.param("grids", _uniform(1e-2), (self.levels, self.table_size, self.features))
        return multiresolution_grid(grids, x, grid_resolutions(self.levels, self.coarsest, self.finest))


class BlendedGrid(nn.Module):
    """A set of trainable grids for each entry of a shape code; points are looked up in their sum, weighted by the code.

    Motions of lips and lids then train as fast as grids do (after Gao et al. 2022, "Reconstructing Personalized
    Semantic Facial NeRF Models", section 3.2). The grids are summed before the look-up, so that the many rays of a
    frame cost as much as with a single set.
    """

    levels: int
    features: int
    table_size: int
    coarsest: int
    finest: int

    @nn.compact
    def __call__(self, x: Array, shape: Array) -> Array:
        """x: [G, ..., D] in [0, 1], shape: [G, M]; returns [G, ..., levels·features]."""
        size = (self.levels, self.table_size, self.features)
        grids = self.param("grids", _uniform(1e-2), (shape.shape[-1], *size))
        blended = (shape @ grids.reshape(len(grids), -1)).reshape(len(shape), *size)
        resolutions = grid_resolutions(self.levels, self.coarsest, self.finest)
        return multiresolution_grid(blended.swapaxes(0, 1), x, resolutions)


class DensityGrid(nn.Module):
    """Density by look-up alone: the proposal from which the head field's intervals are drawn."""

    resolution: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., 3] in [0, 1] to densities [...]."""
        cells = self.param("grids", nn.initializers.zeros, (self.resolution**3,))
        # Densities span e^±8: without the gain, Adam's steps would take too long to cross that range.
        return bounded_exp(_DENSITY_GAIN * nearest_cell(cells, x, self.resolution))


def uniform_by_inputs(inputs: int):
    """Initialiser of the published networks (PyTorch's of linear layers): uniform in ±1/√inputs, biases as well."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0) * inputs**-0.5


def initialisers(init_scheme: str, inputs: int):
    """Initialisers of kernel and bias: `uniform` as published, or `lecun`, with larger differences between codes."""
    if init_scheme == "lecun":
        return nn.initializers.lecun_normal(), nn.initializers.zeros
    return uniform_by_inputs(inputs), uniform_by_inputs(inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(a: Array, b: Array, dtype: str) -> Array:
    """a [N, K] @ b [K, M] with factors rounded to `dtype` and sums in float32, and so the products of the gradient."""
    return _dot(a, b, ((1,), (0,)), dtype)


def _dot(a: Array, b: Array, contracted: tuple[tuple[int], tuple[int]], dtype: str) -> Array:
    return jax.lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (contracted, ((), ())),
        precision=EXACT if dtype == "float32" else None,
        preferred_element_type=jnp.float32,
    )


def _product_forward(a: Array, b: Array, dtype: str):
    a, b = a.astype(dtype), b.astype(dtype)
    return _dot(a, b, ((1,), (0,)), dtype), (a, b)


def _product_backward(dtype: str, factors: tuple[Array, Array], cotangent: Array):
    a, b = factors
    cotangent = cotangent.astype(dtype)
    return _dot(cotangent, b, ((1,), (1,)), dtype), _dot(a, cotangent, ((0,), (0,)), dtype)


product.defvjp(_product_forward, _product_backward)


class SharedDense(nn.Module):
    """A linear layer of concatenated inputs, each multiplied once at its own rank: for an image, a ray, or a sample.

    [a, b, …] @ kernel + bias, where leading axes of a may be 1 while those of b are larger. The kernel's rows follow
    the order of the inputs, as if they had been broadcast and concatenated.
    """

    features: int
    dtype: str = "float32"
    init_scheme: str = "uniform"

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """[..., d_i] each, of one number of axes, to float32 [..., features]."""
        sizes = [x.shape[-1] for x in inputs]
        of_kernel, of_bias = initialisers(self.init_scheme, sum(sizes))
        kernel = self.param("kernel", of_kernel, (sum(sizes), self.features))
        bias = self.param("bias", of_bias, (self.features,))
        terms, row = [], 0
        for x, size in zip(inputs, sizes, strict=True):
            # Two-dimensional products: their gradients are several times faster on CPUs than those with batch axes.
            flat = product(x.reshape(-1, size), kernel[row : row + size], self.dtype)
            terms.append(flat.reshape(*x.shape[:-1], self.features))
            row += size
        # Small terms first, so that only one addition has the size of the samples.
        terms.sort(key=lambda term: term.size)
        return functools.reduce(operator.add, terms, expand_leading(bias, terms[0].ndim))


class MLPField(nn.Module):
    """The paper's field (section 3.2; published `FaceNeRF`): position, direction and code to colour and density.

    Position and code enter the first layer and again the one after `skip`; the last hidden layer and the
    direction make the colour. The code is multiplied once for an image, the direction once for a ray.

    Attributes:
      width, depth: size and number of the hidden layers.
      skip: the layer (from 0) after which the input enters again.
      colour_width, colour_depth: size and number of the layers that the direction enters.
      position_levels, direction_levels: L of their encodings.
      dtype: type of the factors of matrix products; sums are float32.
    """

    width: int
    depth: int
    skip: int
    colour_width: int
    colour_depth: int
    position_levels: int
    direction_levels: int
    dtype: str

    @nn.compact
    def __call__(self, points: Array, directions: Array, code: Array) -> tuple[Array, Array]:
        """Raw density and colours.

        Args:
          points: [F, R, S, 3].
          directions: [F, R, 3], unit.
          code: [F, D].

        Returns:
          density [F, R, S] before the ReLU, colours [F, R, S, 3] in [0, 1].
        """
        where = positional(points, self.position_levels)
        code = code[:, None, None]
        h = nn.relu(SharedDense(self.width, self.dtype, name="layer0")(where, code))
        for layer in range(1, self.depth):
            # The input comes first, as in the published weights.
            inputs = (where, code, h) if layer == self.skip + 1 else (h,)
            h = nn.relu(SharedDense(self.width, self.dtype, name=f"layer{layer}")(*inputs))
        density = SharedDense(1, self.dtype, name="density")(h)[..., 0]
        towards = positional(directions, self.direction_levels)[..., None, :]
        c = nn.relu(SharedDense(self.colour_width, self.dtype, name="colour0")(h, towards))
        for layer in range(1, self.colour_depth):
            c = nn.relu(SharedDense(self.colour_width, self.dtype, name=f"colour{layer}")(c))
        return density, nn.sigmoid(SharedDense(3, self.dtype, name="colour")(c))


class ConditionedMLP(nn.Module):
    """A small network whose first hidden layer is shifted by a code, computed once for all points that share it."""

    width: int
    hidden: int
    out: int

    @nn.compact
    def __call__(self, x: Array, code: Array) -> Array:
        """x: [G, N, in], code: [G, D], one for each group of N points; returns [G, N, out]."""
        groups, points, _ = x.shape
        shift = nn.Dense(self.width, name="shift")(code)
        # Two-dimensional products: their gradients are several times faster on CPUs than those with batch axes.
        h = nn.Dense(self.width, use_bias=False, name="in")(x.reshape(groups * points, -1))
        h = nn.relu(h.reshape(groups, points, self.width) + shift[:, None]).reshape(groups * points, self.width)
        for layer in range(1, self.hidden):
            h = nn.relu(nn.Dense(self.width, name=f"hidden{layer}")(h))
        return nn.Dense(self.out, name="out")(h).reshape(groups, points, self.out)


class GridField(nn.Module):
    """The `fast` head: grids of features, read by small networks; the code shifts the first layer.

    A shape code weights further grids, which are read beside them.
    """

    grid: MultiresolutionGrid
    shapes: BlendedGrid
    width: int
    geometry: int
    direction_levels: int

    @nn.compact
    def __call__(self, x: Array, directions: Array, code: Array, shape: Array) -> tuple[Array, Array]:
        """Density and colour.

        Args:
          x: [F, R, S, 3] in [0, 1].
          directions: [F, R, 3], unit.
          code: [F, D].
          shape: [F, M], weights of the grids of shapes.

        Returns:
          density [F, R, S] (non-negative, per unit), colours [F, R, S, 3] in [0, 1].
        """
        frames, rays, samples, _ = x.shape
        x = x.reshape(frames, rays * samples, 3)
        features = jnp.concatenate([self.grid(x), self.shapes(x, shape)], axis=-1)
        h = ConditionedMLP(self.width, 2, 1 + self.geometry, name="density")(features, code)
        density = bounded_exp(h[..., 0]).reshape(frames, rays, samples)
        towards = positional(directions, self.direction_levels).reshape(frames * rays, -1)
        # The density's channel is an input too: slicing it off would cost more than multiplying it.
        inner = h.reshape(frames * rays, samples, -1)
        colours = nn.sigmoid(ConditionedMLP(self.width, 1, 3, name="colour")(inner, towards))
        return density, colours.reshape(frames, rays, samples, 3)


class PlanarField(nn.Module):
    """The `fast` torso: a deformable picture. The pose shifts the look-up in a 2-D grid of features."""

    grid: MultiresolutionGrid
    width: int
    deformation_width: int
    position_levels: int
    reach: float

    @nn.compact
    def __call__(self, x: Array, pose: Array, code: Array) -> tuple[Array, Array]:
        """Colour and opacity of pixels.

        Args:
          x: [F, R, 2], (row, column) as fractions of the image.
          pose: [F, P], deforms the picture and conditions its appearance.
          code: [F, D], conditions its appearance.

        Returns:
          colours [F, R, 3] and opacity [F, R], in [0, 1].
        """
        # Linear in the pose, with coefficients that vary smoothly over the picture: it extrapolates to unseen poses.
        where = positional(x * jnp.pi, self.position_levels)
        h = nn.relu(nn.Dense(self.deformation_width, name="deformation_in")(where))
        slopes = nn.Dense(2 * pose.shape[-1], kernel_init=nn.initializers.zeros, name="deformation_out")(h)
        shift = (slopes.reshape(*x.shape, -1) * pose[:, None, None]).sum(-1)
        # The picture is larger than the frame by the reach, so that every look-up is inside it.
        moved = (x + self.reach * (1.0 + jnp.tanh(shift))) / (1.0 + 2.0 * self.reach)
        code = jnp.concatenate([_APPEARANCE_POSE * pose, code], axis=-1)
        h = ConditionedMLP(self.width, 2, 4, name="appearance")(self.grid(moved), code)
        return nn.sigmoid(h[..., :3]), saturating_sigmoid(h[..., 3])
