"""Lip shapes from landmarks, and their estimate from speech by ridge regression (the `lips` condition code).

With a few hundred training frames, a network memorises the frames by their audio long before it learns how speech
shapes the lips. A linear map whose regularisation is chosen by cross-validation generalises from the same frames.
"""

import numpy as np

from adnerf_jax.face.landmarks import INNER_LIPS, OUTER_LIPS, RIGID

_FOLDS = 5
# Opposite points of the inner lips in a lip shape: `INNER_LIPS` runs along the lower lip and back along the upper.
_GAP = len(OUTER_LIPS) + np.array([(4, 16), (5, 15), (6, 14)])
_PENALTIES = 10.0 ** np.arange(-3.0, 5.0)


def lip_shapes(points: np.ndarray) -> np.ndarray:
    """The shape of the lips, independent of the head's pose, position and size.

    Args:
      points: [N, 478, 3] landmarks in pixels.

    Returns:
      float32 [N, L], coordinates of the lips' landmarks after each face was aligned to the first one by the similarity
      transform of its rigid landmarks (Umeyama 1991).
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


def lip_gap(shapes: np.ndarray) -> np.ndarray:
    """Distance [N] between the inner lips of lip shapes [N, L], in their unit: the mean of three middle pairs."""
    points = shapes.reshape(len(shapes), -1, 3)
    return np.linalg.norm(points[:, _GAP[:, 0]] - points[:, _GAP[:, 1]], axis=-1).mean(-1)


def principal_components(shapes: np.ndarray, components: int) -> np.ndarray:
    """Scores of the leading principal components.

    Args:
      shapes: [N, L].
      components: their number M.

    Returns:
      float64 [N, M], divided by the standard deviation of the first component.
    """
    centred = shapes - shapes.mean(0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    kept = u[:, :components] * s[:components]
    return kept / max(float(kept[:, 0].std()), 1e-9)


def centre_taper(length: int) -> np.ndarray:
    """Gaussian weights [length] of the features (50 Hz) in a window: those nearest in time predict the lips best.

    Cross-validated correlation with the mouth's opening on two clips: .60 and .79 without weights; .66 and .81 with a
    standard deviation of 2 features around the window's middle (.65 and .80 with 4); .67 and .82 centred one feature
    later, as here; .62 and .79 one feature earlier.
    """
    return np.exp(-0.5 * ((np.arange(length) - (length - 1) / 2 - 1.0) / 2.0) ** 2)


def fit_ridge(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression in dual form; the penalty of each target is chosen by cross-validation over blocks of time.

    Args:
      inputs: [N, D], centred, in order of time; D may exceed N.
      targets: [N, M].

    Returns:
      weights [D, M] and bias [M].
    """
    fold = np.arange(len(inputs)) * _FOLDS // len(inputs)
    gram = inputs @ inputs.T
    scale = np.trace(gram) / len(gram) + 1e-12

    def validation_errors(penalty: float) -> np.ndarray:
        errors = np.empty_like(targets)
        for k in range(_FOLDS):
            train, held_out = fold != k, fold == k
            mean = targets[train].mean(0)
            dual = _solve(gram[np.ix_(train, train)], penalty * scale, targets[train] - mean)
            errors[held_out] = gram[np.ix_(held_out, train)] @ dual + mean - targets[held_out]
        return np.square(errors).mean(0)

    errors = np.stack([validation_errors(penalty) for penalty in _PENALTIES])
    bias = targets.mean(0)
    best = errors.argmin(0)
    duals = [_solve(gram, _PENALTIES[k] * scale, targets[:, m] - bias[m]) for m, k in enumerate(best)]
    return inputs.T @ np.stack(duals, axis=1), bias


def _solve(gram: np.ndarray, penalty: float, targets: np.ndarray) -> np.ndarray:
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), targets)
