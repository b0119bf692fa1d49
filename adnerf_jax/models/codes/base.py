"""What a condition code is: one aspect of what the person does in a frame, as numbers that a field is conditioned on.

Everything about a code is in one class in one module of this package: its constants, how they are computed from the
training frames, its encoding, and where its raw input comes from. To add one, write that module and add a line to
`registry.py`. A code that a renderer drives (`driven.DrivenCode`) has a setting `render.<name>` as well, and what no
other code needs yet is measured in `data/tracks.py`.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from flax import struct

from adnerf_jax.common.types import ArrayLike, Conditions

# A code's constants by name; `Scene.codes` holds those of each code.
Constants = dict[str, Any]


@struct.dataclass
class Recording:
    """What the constants of codes are computed from: the training frames. N frames, C speech features.

    Attributes:
      windows: float32 [N, 16, C], speech windows.
      tracks: float32 [N, D] each, what was measured in the frames, by name (`data.tracks`). Tracks that were not
        measured are absent.
      audio_components: number of principal components that speech features are projected to. It is a setting of
        training (`config.train`): the models, and so the instances of the codes, are built from `config.model` alone.
    """

    windows: np.ndarray
    tracks: dict[str, np.ndarray]
    audio_components: int = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return len(self.windows)


@dataclasses.dataclass(frozen=True)
class Code(abc.ABC):
    """A condition code. Instances hold the settings of one model; all else belongs to the class.

    Attributes:
      name: name of the code in settings (`model.head.codes`), `Scene.codes`, `Conditions.tracks` and parameter paths.
      track_width: D, numbers of its raw input in a frame, `Conditions.tracks[name]`; 0: it reads the speech alone.
      smoothing: how its estimate from the speech averages over frames, for the protocol of an evaluation; "": not at
        all, or by the attention that `encode` can leave out.
    """

    name: ClassVar[str]
    track_width: ClassVar[int] = 0
    smoothing: ClassVar[str] = ""

    @classmethod
    def from_settings(cls, model: Any) -> Self:
        """The code of a configuration's `model.head` part."""
        del model
        return cls()

    @classmethod
    def reads(cls) -> tuple[str, ...]:
        """Names of the measured tracks that it reads (`data.tracks`); `raw_input` and `fit` are given no others.

        When one of them changes, the data of a run with this code have changed.
        """
        return (cls.name,)

    @classmethod
    def raw_input(cls, tracks: Mapping[str, np.ndarray], frames: int) -> np.ndarray | None:
        """Its raw input in some frames; None where it was not measured.

        Args:
          tracks: [N, …] each, the measured tracks that it `reads`, without those that were not measured.
          frames: N, for codes that replace a missing measurement.

        Returns:
          float32 [N, D].
        """
        del frames
        return tracks.get(cls.name)

    @classmethod
    def check(cls, tracks: Mapping[str, np.ndarray], frames: int) -> str | None:
        """What a dataset with these measured tracks lacks for training with this code; None: nothing."""
        if cls.track_width and cls.raw_input(tracks, frames) is None:
            return f"measured {cls.name}"
        return None

    @abc.abstractmethod
    def fit(self, recording: Recording) -> Constants:
        """Its constants, from the training frames."""

    @abc.abstractmethod
    def encode(self, conditions: Conditions, constants: Constants, smooth: ArrayLike | bool) -> ArrayLike:
        """The code of F frames, float32 [F, W].

        Called inside a compact method of `encoder.Codes`: trained parameters belong to a Linen module that is created
        here with `name=self.name`.

        Args:
          conditions: raw inputs in the F frames. A code with a raw input that no renderer drives (`driven.DrivenCode`)
            finds it here in training, and in the evaluation where `config.eval.tracked_codes` names it, but not in
            rendering: it must then estimate its value, from the speech for example (`expression.ExpressionCode`).
          constants: from `fit`.
          smooth: whether codes that change too fast from frame to frame are smoothed over time.
        """
