"""Renders of held-out frames during training, as PSNR and as pictures: truth | render | error | depth | opacity."""

import pathlib
from collections.abc import Callable, Sequence

import cv2
import jax
import numpy as np

from adnerf_jax.common import processes
from adnerf_jax.common.types import Conditions, Scene
from adnerf_jax.data.datasets import Dataset, load_frames
from adnerf_jax.data.schema import Split
from adnerf_jax.media.image import write_image
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.rendering.renderer import Layers, make_renderer
from adnerf_jax.training.losses import psnr_of
from adnerf_jax.training.stages import Stage
from adnerf_jax.training.state import TrainState


class Validator:
    """Renders some held-out frames whenever `save` is called.

    Args:
      stage: the stage that is trained.
      dataset: the clip.
      held_out: frames that are not trained on.
      count: number of them that are rendered, evenly spaced.
      folder: where the pictures are written.
      chunk: rays evaluated at once.
      family: family of the models, for the pictures' provenance.
      subject: the parts (`face.parsing`) that the stage's target shows.
      smooth: whether attention smooths the audio code.
    """

    def __init__(
        self,
        stage: Stage,
        dataset: Dataset,
        held_out: Split,
        count: int,
        folder: pathlib.Path,
        chunk: int,
        *,
        family: str,
        subject: Sequence[int],
        smooth: bool = True,
    ) -> None:
        rows = np.unique(np.linspace(0, max(len(held_out) - 1, 0), count).astype(int))[: len(held_out)]
        self._frames = load_frames(dataset, held_out.take(rows))
        self._dataset, self._stage, self._folder, self._subject = dataset, stage, folder, subject
        self._family = family
        self._render = make_renderer(stage.head, stage.torso, dataset.camera, chunk, smooth)

    def save(self, state: TrainState, step: int) -> tuple[pathlib.Path, float | None]:
        """Writes `<folder>/<step>.png`, with a row for each frame. All processes of a run must call it.

        Returns:
          its path, and the PSNR in dB of the mean squared error over all frames; None where there are no frames.
        """
        background = self._dataset.background.astype(np.float32) / 255.0
        split = self._frames.split
        rows, errors = [], []
        for row in range(len(split)):
            conditions = self._dataset.conditions(split.aud_id[row : row + 1])
            layers = render_layers(self._render, self._stage, state, split.transforms[row], conditions)
            truth = self._frames.showing(self._subject, slice(row, row + 1), self._dataset.background)[0]
            opacity = np.asarray(layers.straight())[..., 3]
            render = layers.person_over(background)
            errors.append(np.square(render - truth / 255.0).mean())
            rows.append(panels(truth, np.asarray(render), np.asarray(layers.depth), opacity, state.scene))
        path = self._folder / f"{step:06d}.png"
        if rows and processes.is_main():
            origin = Provenance.of(self._family, self._folder.parent, step)
            write_image(path, np.concatenate(rows, axis=0), provenance=origin)
        return path, psnr_of(float(np.mean(errors))) if errors else None


def render_layers(
    render: Callable[..., Layers], stage: Stage, state: TrainState, transform: np.ndarray, conditions: Conditions
) -> Layers:
    """One frame by a compiled renderer (`renderer.make_renderer`), as numpy arrays.

    Args:
      render: renderer of the stage's models.
      stage, state: the parameters that are rendered.
      transform: [4, 4], camera-to-head.
      conditions: raw inputs of one frame.
    """
    head_params, torso_params = (state.params, None) if stage.torso is None else (state.frozen, state.params)
    return jax.device_get(render(head_params, torso_params, state.scene, transform, conditions))


def panels(truth: np.ndarray, rgb: np.ndarray, depth: np.ndarray, opacity: np.ndarray, scene: Scene) -> np.ndarray:
    """truth | render | error | depth | opacity, side by side.

    Args:
      truth: uint8 [H, W, 3].
      rgb: float [H, W, 3], the render.
      depth: Σ w·t, [H, W].
      opacity: [H, W].
      scene: its near and far are the ends of the depth's colour scale.

    Returns:
      uint8 [H, 5·W, 3].
    """
    error = np.abs(rgb - truth / 255.0).mean(-1)
    near, far = float(scene.near), float(scene.far)
    nearness = np.where(opacity > 0.5, (far - depth / np.maximum(opacity, 1e-3)) / (far - near), 0.0)
    as_bytes = [np.clip(x * 255.0, 0, 255).astype(np.uint8) for x in (rgb, error * 4.0, nearness, opacity)]
    coloured = [
        as_bytes[0],
        cv2.applyColorMap(as_bytes[1], cv2.COLORMAP_INFERNO)[..., ::-1],
        cv2.applyColorMap(as_bytes[2], cv2.COLORMAP_VIRIDIS)[..., ::-1],
        np.repeat(as_bytes[3][..., None], 3, axis=-1),
    ]
    return np.concatenate([truth, *coloured], axis=1)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of images of one size, uint8 [H, W, 3], as one image."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
