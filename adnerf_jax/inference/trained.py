"""A trained stage, loaded to be used: `TrainedStage.load(workdir)`."""

import hashlib
import pathlib
from typing import Any

import jax
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from adnerf_jax.common.types import Conditions, Occupancy, Scene
from adnerf_jax.configuration.checks import check_model
from adnerf_jax.data.person import Person, survey_rows
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.models.paper import VolumeHead
from adnerf_jax.nerf.occupancy import seen_box, survey
from adnerf_jax.rendering.framing import Framing, as_framing
from adnerf_jax.rendering.renderer import Layers, framed_renderer
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.stages import Stage, example_batch, head_shapes, make_stage


@struct.dataclass
class TrainedStage:
    """A head alone, or a torso with its head.

    Attributes:
      name: `head` or `torso`.
      step: updates that it was trained for.
      provenance: what files that it renders say of their origin.
      person: camera, poses and background.
      scene: constants of the person.
      occupancies: where head and torso are, None for models that know by themselves.
    """

    name: str
    step: int
    provenance: Provenance
    person: Person
    scene: Scene
    _head: Any
    _torso: Any
    occupancies: tuple[Occupancy | None, Occupancy | None]
    _render: Any
    _picture: Framing

    @classmethod
    def load(cls, workdir: str | pathlib.Path, config: ConfigDict, smooth: bool = True) -> "TrainedStage":
        """Reads the newest checkpoint of a workdir.

        Args:
          workdir: the stage's folder.
          config: its configuration.
          smooth: whether attention smooths the audio code; not for a head that was trained without.

        Raises:
          UserError: there is none, or one of other models than the configuration's.
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
        """How many numbers its networks have."""
        return sum(leaf.size for leaf in jax.tree.leaves((self._head, self._torso)))

    @property
    def digest(self) -> str:
        """SHA-256 of its parameters."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves((self._head, self._torso)):
            found.update(np.asarray(leaf).tobytes())
        return found.hexdigest()

    def framed(self, framing: Framing | None) -> "TrainedStage":
        """The same stage, rendering another picture; itself for None."""
        return self if framing is None else self.replace(_picture=framing)

    def layers(self, transform: np.ndarray, conditions: Conditions) -> Layers:
        """One frame.

        Args:
          transform: [4, 4], camera-to-head.
          conditions: of one frame.
        """
        return self._render(
            self._picture, self._head, self._torso, self.scene, transform, conditions, *self.occupancies
        )


def fitting_stage(config: ConfigDict, person: Person, parts: dict[str, Any], workdir: str | pathlib.Path) -> Stage:
    """The stage that a configuration names, with models that take a checkpoint's parameters.

    Args:
      config: of the stage.
      person: of the workdir.
      parts: from `checkpoints.restore_for_use`.
      workdir: for the message.

    Raises:
      UserError: nothing can be made of the settings, or the checkpoint is one of other models.
    """
    check_model(config)
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
    stage: Stage, head_params, torso_params, scene: Scene, person: Person, resolution: int
) -> tuple[Occupancy | None, Occupancy | None]:
    """Where head and torso have density in the survey's frames; None for models that know by themselves.

    Args:
      stage: the models.
      head_params, torso_params: their parameters; the torso's None in the head stage.
      scene, person: of the workdir.
      resolution: cells along each axis; 0: no survey.
    """
    if not resolution or not isinstance(stage.head, VolumeHead):
        return None, None
    codes = stage.head.apply({"params": head_params}, person.survey, scene, method="codes")
    reach = np.hypot(person.camera.width, person.camera.height) / 2 / person.camera.focal
    length = float(scene.far - scene.near) * float(np.hypot(1.0, reach))

    def look(model, params, code, poses) -> Occupancy:
        def densities(points, one):
            return model.apply({"params": params}, points, one, method="densities")

        return survey(densities, code, seen_box(poses, person.camera, scene), length, resolution)

    head = look(stage.head, head_params, stage.head.code(codes), person.transforms)
    if stage.torso is None:
        return head, None
    transforms = person.transforms[survey_rows(len(person.transforms))]
    code = stage.torso.code(transforms, codes[stage.head.code_nets.names[0]])
    return head, look(stage.torso, torso_params, code, np.asarray(scene.torso_camera)[None])
