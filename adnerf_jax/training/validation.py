"""Renders of held-out frames during training, as PSNR and as pictures: truth | render | error | depth | opacity."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np

from adnerf_jax.common import processes
from adnerf_jax.common.types import Conditions, Scene
from adnerf_jax.data.datasets import Dataset, Frames, load_frames
from adnerf_jax.data.schema import Split
from adnerf_jax.media.image import write_image
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.rendering.renderer import Layers, make_renderer
from adnerf_jax.training.losses import psnr_of
from adnerf_jax.training.stages import Stage
from adnerf_jax.training.state import TrainState


class Validation(NamedTuple):
    """The result of a validation.

    Attributes:
      picture: path of the picture.
      psnr: PSNR in dB of the mean squared error over the held-out frames, for reporting; None where there are none.
      tuning_psnr: the same of the tuning frames, by which checkpoints are chosen; None where it was not asked for.
    """

    picture: pathlib.Path
    psnr: float | None
    tuning_psnr: float | None


class Validator:
    """Renders some held-out frames whenever `save` is called, and some tuning frames where a checkpoint is chosen.

    Args:
      stage: the stage that is trained.
      dataset: the clip.
      held_out: frames that are not trained on.
      tuning: the last tenth of the training frames: held-out frames are for reporting, and choose nothing.
      count: number of frames of each that are rendered, evenly spaced.
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
        tuning: Split,
        count: int,
        folder: pathlib.Path,
        chunk: int,
        *,
        family: str,
        subject: Sequence[int],
        smooth: bool = True,
    ) -> None:
        self._held_out, self._tuning = (load_frames(dataset, _spread(split, count)) for split in (held_out, tuning))
        self._dataset, self._stage, self._folder, self._subject = dataset, stage, folder, subject
        self._family = family
        self._render = make_renderer(stage.head, stage.torso, dataset.camera, chunk, smooth)

    def save(self, state: TrainState, step: int, choose: bool = False) -> Validation:
        """Writes `<folder>/<step>.png`, with a row for each held-out frame. All processes of a run must call it.

        Args:
          state: the state that is rendered.
          step: its number of steps.
          choose: whether to measure the tuning frames too.
        """
        rows, errors = [], []
        for row in range(len(self._held_out)):
            truth, render, layers = self._frame(state, self._held_out, row)
            errors.append(np.square(render - truth / 255.0).mean())
            opacity = np.asarray(layers.straight())[..., 3]
            rows.append(panels(truth, render, np.asarray(layers.depth), opacity, state.scene))
        path = self._folder / f"{step:06d}.png"
        if rows and processes.is_main():
            origin = Provenance.of(self._family, self._folder.parent, step)
            write_image(path, np.concatenate(rows, axis=0), provenance=origin)
        return Validation(path, _psnr(errors), self._tuning_psnr(state) if choose else None)

    def _tuning_psnr(self, state: TrainState) -> float | None:
        pairs = (self._frame(state, self._tuning, row)[:2] for row in range(len(self._tuning)))
        return _psnr([np.square(render - truth / 255.0).mean() for truth, render in pairs])

    def _frame(self, state: TrainState, frames: Frames, row: int) -> tuple[np.ndarray, np.ndarray, Layers]:
        """A frame's ground truth, uint8 [H, W, 3], its render, float [H, W, 3], and the render's layers."""
        split = frames.split
        conditions = self._dataset.conditions(split.aud_id[row : row + 1])
        layers = render_layers(self._render, self._stage, state, split.transforms[row], conditions)
        truth = frames.showing(self._subject, slice(row, row + 1), self._dataset.background)[0]
        return truth, np.asarray(layers.person_over(self._dataset.background.astype(np.float32) / 255.0)), layers


def _spread(split: Split, count: int) -> Split:
    """At most `count` frames of a split, evenly spaced."""
    return split.take(np.unique(np.linspace(0, max(len(split) - 1, 0), count).astype(int))[: len(split)])


def _psnr(errors: Sequence[float]) -> float | None:
    """PSNR in dB of the mean of squared errors; None without any."""
    return psnr_of(float(np.mean(errors))) if errors else None


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
