"""A trained stage, loaded for rendering: `TrainedStage.load(workdir)`."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.types import Conditions, Occupancy, Scene
from adnerf_jax.configuration.checks import check_model
from adnerf_jax.data.person import Person, survey_rows
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.rendering.framing import Framing, as_framing
from adnerf_jax.rendering.renderer import Layers, framed_renderer
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.stages import Stage, example_batch, head_shapes, make_stage


@struct.dataclass
class TrainedStage:
    """A head alone, or a torso with its head.

    Attributes:
      name: `head` or `torso`.
      step: number of training steps.
      provenance: what rendered files state about their origin.
      person: camera, poses and background.
      scene: constants of the person.
      occupancies: occupancy grids of head and torso; None for models that need none.
    """

    name: str
    step: int
    provenance: Provenance
    person: Person
    scene: Scene
    _head: Any
    _torso: Any
    occupancies: tuple[Occupancy | None, Occupancy | None]
    _render: Callable[..., Layers]
    _picture: Framing

    @classmethod
    def load(cls, workdir: str | pathlib.Path, config: ConfigDict, smooth: bool = True) -> "TrainedStage":
        """Reads the newest checkpoint of a workdir.

        Args:
          workdir: the stage's folder.
          config: its configuration.
          smooth: whether attention smooths the audio code; not for a head that was trained without.

        Raises:
          UserError: there is no checkpoint, or it belongs to other models than the configuration's.
        """
        person = Person.load(pathlib.Path(workdir))
        step, parts = checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))
        stage = fitting_stage(config, person, parts, workdir)
        torso = config.stage == "torso"
        head_params, torso_params = (parts["frozen"], parts["params"]) if torso else (parts["params"], None)
        return cls(
            name=config.stage,
            step=step,
            provenance=Provenance.of(config.family, pathlib.Path(workdir), step),
            person=person,
            scene=parts["scene"],
            _head=head_params,
            _torso=torso_params,
            occupancies=survey_stage(stage, head_params, torso_params, parts["scene"], person, config.render.occupancy),
            _render=framed_renderer(stage.head, stage.torso, config.render.chunk, smooth),
            _picture=as_framing(person.camera),
        )

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves((self._head, self._torso)))

    @property
    def digest(self) -> str:
        """SHA-256 of its parameters."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves((self._head, self._torso)):
            found.update(np.asarray(leaf).tobytes())
        return found.hexdigest()

    def framed(self, framing: Framing | None) -> "TrainedStage":
        """The same stage with another framing of its pictures; itself for None."""
        return self if framing is None else dataclasses.replace(self, _picture=framing)

    def layers(self, transform: np.ndarray, conditions: Conditions) -> Layers:
        """One frame.

        Args:
          transform: [4, 4], camera-to-head.
          conditions: conditions of one frame.
        """
        return self._render(
            self._picture, self._head, self._torso, self.scene, transform, conditions, *self.occupancies
        )


def fitting_stage(config: ConfigDict, person: Person, parts: dict[str, Any], workdir: str | pathlib.Path) -> Stage:
    """The stage of a configuration, after checking that the checkpoint belongs to its models.

    Args:
      config: configuration of the stage.
      person: the person of the workdir.
      parts: result of `checkpoints.restore_for_use`.
      workdir: folder that the message names.

    Raises:
      UserError: the settings are invalid, or the checkpoint belongs to other models.
    """
    check_model(config)
    absent = [name for name in config.model.head.codes if name not in parts["scene"].codes]
    if absent:
        raise UserError(
            f"{workdir} was trained without the code {absent[0]!r} of config.model.head.codes: use the codes that it "
            f"was trained with"
        )
    stage = make_stage(config, person.camera)
    checkpoints.check_fits(
        {name: parts[name] for name in ("params", "frozen")},
        parameter_shapes(stage, person, parts["scene"]),
        workdir,
        "a trained stage",
    )
    return stage


def parameter_shapes(stage: Stage, person: Person, scene: Scene) -> dict[str, Any]:
    """Trees of `jax.ShapeDtypeStruct`: `params` of the stage's model, `frozen` of a torso's head ({} without)."""
    windows = person.survey.audio.shape[2:]
    head = head_shapes(stage, person.camera, windows, scene)
    if stage.torso is None:
        return {"params": head, "frozen": {}}
    torso = jax.eval_shape(stage.init, jax.random.key(0), example_batch(1, 1, windows), scene)
    return {"params": torso, "frozen": head}


def survey_stage(
    stage: Stage, head_params: Any, torso_params: Any, scene: Scene, person: Person, resolution: int
) -> tuple[Occupancy | None, Occupancy | None]:
    """The occupancy grids of head and torso, from the survey's frames; None for models that need none.

    Args:
      stage: the models.
      head_params, torso_params: their parameters; the torso's None in the head stage.
      scene, person: scene and person of the workdir.
      resolution: cells along each axis; 0: no survey.
    """
    torso_needs = stage.torso is not None and stage.torso.needs_occupancy
    if not resolution or not (stage.head.needs_occupancy or torso_needs):
        return None, None
    camera = person.camera
    codes = stage.head.apply({"params": head_params}, person.survey, scene, method="codes")
    head = stage.head.survey(head_params, codes, person.transforms, camera, scene, resolution)
    if stage.torso is None:
        return head, None
    transforms = person.transforms[survey_rows(len(person.transforms))]
    code = stage.head.torso_code(codes)
    return head, stage.torso.survey(torso_params, code, transforms, camera, scene, resolution)
