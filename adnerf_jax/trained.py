"""A trained stage, loaded to be used: `TrainedStage.load(workdir)`."""

import pathlib
from typing import Any

import numpy as np
from flax import struct
from ml_collections import ConfigDict

from adnerf_jax import checkpoints, sharding
from adnerf_jax.person import Person
from adnerf_jax.rendering import Layers, make_renderer
from adnerf_jax.stages import make_stage
from adnerf_jax.types import Conditions, Scene


@struct.dataclass
class TrainedStage:
    """A head alone, or a torso with its head.

    Attributes:
      name: `head` or `torso`.
      step: updates that it was trained for.
      person: camera, poses and background.
      scene: constants of the person.
    """

    name: str
    step: int
    person: Person
    scene: Scene
    _head: Any
    _torso: Any
    _render: Any

    @classmethod
    def load(cls, workdir: str | pathlib.Path, config: ConfigDict) -> "TrainedStage":
        """Reads the newest checkpoint of a workdir.

        Args:
          workdir: the stage's folder.
          config: its configuration.

        Raises:
          UserError: there is none.
        """
        person = Person.load(pathlib.Path(workdir))
        step, parts = checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))
        stage = make_stage(config, person.camera)
        torso = config.stage == "torso"
        return cls(
            name=config.stage,
            step=step,
            person=person,
            scene=parts["scene"],
            _head=parts["frozen"] if torso else parts["params"],
            _torso=parts["params"] if torso else None,
            _render=make_renderer(stage.head, stage.torso, person.camera, config.render.chunk),
        )

    def layers(self, transform: np.ndarray, conditions: Conditions) -> Layers:
        """One frame.

        Args:
          transform: [4, 4], camera-to-head.
          conditions: of one frame.
        """
        return self._render(self._head, self._torso, self.scene, transform, conditions)
