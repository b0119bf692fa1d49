"""Lip shapes estimated from speech by ridge regression: the `lips` condition code.

A few hundred frames teach a network to tell frames apart by their sound long before they teach it which sounds shape
the lips. A linear map with as much regularisation as cross-validation asks for generalises from the same frames.
"""

import numpy as np

from adnerf_jax.face.landmarks import INNER_LIPS, OUTER_LIPS, RIGID

_FOLDS = 5
_PENALTIES = 10.0 ** np.arange(-3.0, 5.0)


def lip_shapes(points: np.ndarray) -> np.ndarray:
    """Where the lips are in the face, whatever the head's pose.

    Args:
      points: [N, 478, 3] landmarks in pixels.

    Returns:
      float32 [N, L]: coordinates of the lips' landmarks after each face was turned, moved and scaled (Kabsch, Umeyama)
      so that its rigid landmarks lie on those of the first.
    """
    lips = points[:, [*OUTER_LIPS, *INNER_LIPS]].astype(np.float64)
    rigid = points[:, RIGID].astype(np.float64)
    centre = rigid.mean(1, keepdims=True)
    rigid, lips = rigid - centre, lips - centre
    target = rigid[0]
    u, _, vt = np.linalg.svd(np.einsum("npi,pj->nij", rigid, target))
    flip = np.ones((len(points), 1, 3))
    flip[:, 0, 2] = np.sign(np.linalg.det(u @ vt))
    turn = (u * flip) @ vt
    scale = np.sqrt((target**2).sum() / np.maximum((rigid**2).sum((1, 2)), 1e-12))
    return ((lips @ turn) * scale[:, None, None]).reshape(len(points), -1).astype(np.float32)


def principal(shapes: np.ndarray, components: int) -> np.ndarray:
    """The leading principal components of [N, L], scaled together so that the first has variance 1: [N, M] float64."""
    centred = shapes - shapes.mean(0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    kept = u[:, :components] * s[:components]
    return kept / max(float(kept[:, 0].std()), 1e-9)


def centre_taper(length: int) -> np.ndarray:
    """Importance [length] of a window's features, which come at 50 Hz: what is nearest in time tells most of the lips.

    Cross-validated correlation with the opening, on two clips: .60 and .79 without; .66 and .81 with a spread of 2
    around the window's middle (.65 and .80 with 4); .67 and .82 a little later, .62 and .79 a little earlier.
    """
    return np.exp(-0.5 * ((np.arange(length) - (length - 1) / 2 - 1.0) / 2.0) ** 2)


def fit_ridge(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression; cross-validation over blocks of time chooses each target's penalty.

    Args:
      inputs: [N, D], centred; D may exceed N.
      targets: [N, M].

    Returns:
      weights [D, M] and bias [M].
    """
    fold = np.arange(len(inputs)) * _FOLDS // len(inputs)
    gram = inputs @ inputs.T
    scale = np.trace(gram) / len(gram) + 1e-12

    def left_out_errors(penalty: float) -> np.ndarray:
        errors = np.empty_like(targets)
        for k in range(_FOLDS):
            seen, unseen = fold != k, fold == k
            mean = targets[seen].mean(0)
            dual = _solve(gram[np.ix_(seen, seen)], penalty * scale, targets[seen] - mean)
            errors[unseen] = gram[np.ix_(unseen, seen)] @ dual + mean - targets[unseen]
        return np.square(errors).mean(0)

    trials = np.stack([left_out_errors(penalty) for penalty in _PENALTIES])
    bias = targets.mean(0)
    best = trials.argmin(0)
    duals = [_solve(gram, _PENALTIES[k] * scale, targets[:, m] - bias[m]) for m, k in enumerate(best)]
    return inputs.T @ np.stack(duals, axis=1), bias


def _solve(gram: np.ndarray, penalty: float, targets: np.ndarray) -> np.ndarray:
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), targets)
