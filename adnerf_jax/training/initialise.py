"""The state that a training starts from: its newest checkpoint, or initialised parameters."""

import pathlib
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.types import Scene
from adnerf_jax.data.datasets import SUBJECTS, Dataset, Frames
from adnerf_jax.data.person import Person
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.runs import check_head, check_metadata
from adnerf_jax.training.stages import Stage, example_batch, head_shapes
from adnerf_jax.training.state import TrainState


def initial_state(
    config: ConfigDict,
    stage: Stage,
    dataset: Dataset,
    frames: Frames,
    data_digest: str,
    mesh: Mesh,
    workdir: str | pathlib.Path,
) -> tuple[TrainState, optax.GradientTransformation]:
    """The state to start from, on the devices, and its optimizer.

    Order: the scene's constants from the frames, or from the torso's head; shapes of the state without computing it;
    then the newest checkpoint in the workdir, checked before it is used; only without one, parameters are initialised.

    Args:
      config, stage, dataset, frames, mesh: the run's.
      data_digest: digest of the data (`frame_cache.cached_frames`).
      workdir: the stage's folder.

    Raises:
      UserError: no usable head, a head that was trained further after the torso was begun, or a checkpoint of another
        model, of other settings or of other data.
    """
    tx = make_optimizer(config.optim, config.train.attention_from)
    everywhere = sharding.replicated(mesh)
    # In the torso stage, the volume is that of the head behind it.
    volume = SUBJECTS[config.subject if config.stage == "head" else "head"]
    scene = make_scene(dataset, frames, make_codes(config.model.head).members, config.train.audio_components, volume)
    example = example_batch(rays=1, frames=1, windows=dataset.windows.shape[1:])
    frozen: Any = {}
    if config.stage == "torso":
        check_head(config)
        scene, frozen = trained_head(config.head_checkpoint, stage, dataset, everywhere, scene)

    def create(scene: Scene, frozen: Any) -> TrainState:
        params = stage.init(jax.random.key(config.seed), example, scene)
        return TrainState.create(params, tx, frozen, scene)

    if checkpoints.latest_step(workdir) is None:
        return jax.jit(create, out_shardings=everywhere)(scene, frozen), tx
    state = checkpoints.restore(
        workdir,
        sharding.abstract(jax.eval_shape(create, scene, frozen), everywhere),
        what="this run",
        check=lambda metadata: check_metadata(metadata, config, data_digest, pathlib.Path(workdir)),
    )
    _check_same_head(state.frozen, frozen, config.head_checkpoint, workdir)
    return state, tx


def trained_head(
    head_workdir: str | pathlib.Path, stage: Stage, dataset: Dataset, everywhere: NamedSharding, scene: Scene
) -> tuple[Scene, Any]:
    """The scene and the parameters of the head that the torso stands in front of.

    Args:
      head_workdir: the head's folder.
      stage, dataset: the torso's.
      everywhere: the sharding of every array.
      scene: gives the shapes and types.

    Raises:
      UserError: no trained head, one of another size, or one of another person.
    """
    if checkpoints.latest_step(head_workdir) is not None:
        Person.of(dataset).check_same(
            head_workdir,
            f"the head in {head_workdir} was trained on other data, or at another size, than {dataset.path}",
        )
    shapes = head_shapes(stage, dataset.camera, dataset.windows.shape[1:], scene)
    expected = sharding.abstract({"params": shapes, "scene": scene}, everywhere)
    restored = checkpoints.restore_params(head_workdir, expected, what="the head")
    return restored["scene"], restored["params"]


def _check_same_head(stored: Any, head: Any, head_workdir: str, workdir: str | pathlib.Path) -> None:
    """Raises UserError where the frozen head of a torso's checkpoint is not the head as it is now."""
    if not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), stored, head)):
        raise UserError(
            f"the head in {head_workdir} was trained further after this torso was begun: delete {workdir} to train the "
            f"torso for it, or use another ",
            Option("workdir"),
        )
