"""Lip shapes after alignment of the face, and their estimate from speech."""

import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.speech.lips import fit_ridge, lip_shapes, principal_components


def test_lip_shapes_are_invariant_to_pose_position_and_size():
    rng = np.random.default_rng(0)
    face = rng.normal(size=(478, 3)) * 50
    turns = Rotation.from_euler("xyz", rng.uniform(-0.6, 0.6, (6, 3))).as_matrix()
    moved = np.einsum("pj,nij->npi", face, turns) * rng.uniform(0.5, 2, (6, 1, 1)) + rng.normal(size=(6, 1, 3)) * 80
    shapes = lip_shapes(moved.astype(np.float32))
    # float32 pixels of a few hundred are rounded by 1e-5; the alignment accumulates the errors of 40 points.
    np.testing.assert_allclose(shapes, np.tile(shapes[:1], (6, 1)), atol=1e-2)


def test_components_are_ordered_and_scaled_by_the_first():
    rng = np.random.default_rng(1)
    shapes = rng.normal(size=(200, 10)) * np.linspace(5, 0.1, 10) + 3
    components = principal_components(shapes, 3)
    spread = components.std(0)
    assert components.shape == (200, 3) and abs(spread[0] - 1) < 1e-9
    assert (np.diff(spread) < 0).all()


def test_the_fit_finds_a_linear_relation_and_ignores_noise():
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(300, 40))
    truth = inputs @ rng.normal(size=40)
    targets = np.stack([truth, rng.normal(size=300)], axis=1)
    weights, bias = fit_ridge(inputs[:200], targets[:200])
    guess = inputs[200:] @ weights + bias
    assert np.corrcoef(guess[:, 0], truth[200:])[0, 1] > 0.99
    assert guess[:, 1].std() < 0.3 * targets[:, 1].std()


def test_more_inputs_than_frames():
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(60, 500))
    weights, bias = fit_ridge(inputs, inputs[:, :2])
    assert weights.shape == (500, 2) and bias.shape == (2,) and np.isfinite(weights).all()
