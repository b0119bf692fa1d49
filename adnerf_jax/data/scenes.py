"""What is fixed by the training frames and never trained: ranges, boxes, standardisations, linear maps."""

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.types import Camera, Scene
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import SUBJECTS, Dataset, Frames
from adnerf_jax.face.parsing import NECK, TORSO
from adnerf_jax.face.tracking import UNITS_PER_CM
from adnerf_jax.nerf.cameras import placement_vector
from adnerf_jax.speech.lips import centre_taper, fit_ridge, principal

# Depth of the head's box, behind and before its origin between the ears.
_BOX_DEPTH = (-20.0 * UNITS_PER_CM, 12.0 * UNITS_PER_CM)
# Components of the lips' shape that are estimated from speech.
LIPS = 3
# Frames that linear maps are fitted to, at most: more would tell little more, and memory grows with their square.
_REGRESSED = 4000
_BLOCK = 1000  # frames whose windows are looked at together


def make_scene(
    dataset: Dataset, frames: Frames, audio_features: int, volume: tuple[int, ...] = SUBJECTS["head"]
) -> Scene:
    """Everything fixed by the training data, from training frames only.

    Args:
      dataset: the clip.
      frames: its training frames.
      audio_features: K, the number of components that the speech features are projected to; features that are as many
        already stay as they are.
      volume: the parts that the head stage's volume shows, of which one field shows all.
    """
    windows = dataset.windows[frames.split.aud_id]
    mean, basis = whitening(windows, audio_features)
    lips_weights, lips_bias = _linear_in_speech(windows, principal(dataset.lips[frames.split.aud_id], LIPS))
    blendshapes = dataset.expression[frames.split.aud_id].astype(np.float64)
    # Blendshapes that never move keep their small numbers.
    typical, spread = blendshapes.mean(0), blendshapes.std(0) + 1e-2
    expression_weights, expression_bias = _linear_in_speech(windows, (blendshapes - typical) / spread)
    eyes = dataset.eyes[frames.split.aud_id]
    poses = np.asarray(placement_vector(frames.split.transforms))
    # One picture after the other: all at once are gigabytes.
    torso_rows = np.flatnonzero(np.any([np.isin(parts, (NECK, TORSO)).any(axis=1) for parts in frames.parts], axis=0))
    top = torso_rows[0] - 0.02 * dataset.camera.height if len(torso_rows) else dataset.camera.height
    near, far = dataset.near_far
    return Scene(
        near=np.float32(near),
        far=np.float32(far),
        box=subject_box(frames, dataset.camera, volume),
        audio_mean=mean,
        audio_basis=basis,
        lips_weights=lips_weights,
        lips_bias=lips_bias,
        expression_weights=expression_weights,
        expression_bias=expression_bias,
        expression_mean=typical.astype(np.float32),
        expression_scale=spread.astype(np.float32),
        eyes_mean=eyes.mean(0).astype(np.float32),
        eyes_scale=eyes.std(0).astype(np.float32) + np.float32(1e-3),
        pose_mean=poses.mean(0).astype(np.float32),
        pose_scale=poses.std(0).astype(np.float32) + np.float32(1e-4),
        torso_top=np.float32(top / dataset.camera.height),
        torso_camera=frames.split.transforms[0],
    )


def _linear_in_speech(windows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ridge regression (`articulation.fit_ridge`) of targets [N, M] on windows [N, 16, C].

    Returns:
      weights [16, C, M] and bias [M] of the map from a window as it is, float32.
    """
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _REGRESSED)).astype(int))
    windows, targets = windows[chosen], targets[chosen]
    mean = windows.mean((0, 1), dtype=np.float64)
    taper = centre_taper(windows.shape[1])[:, None]
    weights, bias = fit_ridge(((windows - mean) * taper).reshape(len(windows), -1), targets)
    weights = weights.reshape(*windows.shape[1:], -1) * taper[..., None]
    return weights.astype(np.float32), (bias - np.einsum("c,tcm->m", mean, weights)).astype(np.float32)


def whitening(windows: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and basis that turn speech features into their leading principal components with variance 1.

    A few hundred frames cannot teach a network which of several hundred correlated features matter. As many features as
    are asked for are an input that somebody chose (the 29 of DeepSpeech for the published networks): it stays as it is.

    Args:
      windows: [N, 16, C].
      components: K; fewer where C is smaller.

    Returns:
      mean [C] and basis [C, K], float32; 0 and the identity where C = K.
    """
    channels = windows.shape[-1]
    if channels == components:
        return np.zeros(channels, np.float32), np.eye(channels, dtype=np.float32)
    mean = windows.mean((0, 1), dtype=np.float64)
    scatter = np.zeros((channels, channels))
    for start in range(0, len(windows), _BLOCK):
        rows = windows[start : start + _BLOCK].reshape(-1, channels) - mean
        scatter += rows.T @ rows
    variances, vectors = np.linalg.eigh(scatter / (len(windows) * windows.shape[1] - 1))
    keep = np.argsort(variances)[::-1][: min(components, len(mean))]
    floor = 1e-6 * variances.max() + 1e-12
    return mean.astype(np.float32), (vectors[:, keep] / np.sqrt(variances[keep] + floor)).astype(np.float32)


def subject_box(frames: Frames, camera: Camera, volume: tuple[int, ...] = SUBJECTS["head"]) -> np.ndarray:
    """The space that the head can occupy: its outlines in up to 100 frames, put at its depth, with a margin of 5%.

    Args:
      frames, camera: that show it.
      volume: the parts that count, of `face.parsing`: those of the head, or of the whole person.

    Returns:
      float32 [2, 3], corners in head space.
    """
    corners = []
    for row in np.unique(np.linspace(0, len(frames) - 1, 100).astype(int)):
        rows, columns = np.nonzero(np.isin(frames.parts[row], volume))
        if not len(rows):
            continue
        transform = frames.split.transforms[row]
        depth = schema.mean_depth(transform[None])
        for y in (rows.min(), rows.max()):
            for x in (columns.min(), columns.max()):
                local = [(x - camera.cx) / camera.focal, -(y - camera.cy) / camera.focal, -1.0]
                corners.append(transform[:3, :3] @ np.multiply(local, depth) + transform[:3, 3])
    if not corners:
        raise UserError("no frame shows a head: the part maps of the dataset are empty; prepare it again")
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    low[2], high[2] = _BOX_DEPTH
    return np.stack([low, high]).astype(np.float32)
