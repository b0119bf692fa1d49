"""What rendering needs of the training video, kept beside the checkpoints so that a workdir stands on its own."""

import pathlib

import numpy as np
from flax import struct

from adnerf_jax.common.array_files import read_archive
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import atomic_path
from adnerf_jax.common.types import Camera, Conditions
from adnerf_jax.data.datasets import Dataset

_FILE = "person.npz"


@struct.dataclass
class Person:
    """A learned person's video, without its frames.

    Attributes:
      camera: intrinsics and size.
      background: uint8 [H, W, 3].
      transforms: float32 [N, 4, 4], head poses of the training frames in order of time.
      eyes: float32 [N, 2], openness of both eyes in those frames.
      survey: conditions of some of them (`survey_rows`), under which a trained volume is looked through.
      speech: name of the speech encoder.
    """

    camera: Camera
    background: np.ndarray
    transforms: np.ndarray
    eyes: np.ndarray
    survey: Conditions
    speech: str = struct.field(pytree_node=False)

    @classmethod
    def of(cls, dataset: Dataset) -> "Person":
        """The person of a dataset, from its training frames."""
        train = dataset.train
        return cls(
            camera=dataset.camera,
            background=dataset.background,
            transforms=train.transforms,
            eyes=dataset.eyes[train.aud_id],
            survey=dataset.conditions(train.aud_id[survey_rows(len(train))]),
            speech=dataset.speech,
        )

    def save(self, workdir: pathlib.Path) -> None:
        """Writes `person.npz` atomically."""
        with atomic_path(workdir / _FILE) as temporary:
            np.savez(
                temporary,
                intrinsics=np.array([self.camera.focal, self.camera.cx, self.camera.cy]),
                background=self.background,
                transforms=self.transforms,
                eyes=self.eyes,
                survey_audio=self.survey.audio,
                speech=np.array(self.speech),
            )

    def check_continues(self, workdir: pathlib.Path) -> None:
        """Raises UserError where a workdir was begun with other data."""
        if (workdir / _FILE).exists():
            self.check_same(
                workdir, f"the dataset has changed since {workdir} was begun: delete that folder, or use another one"
            )

    def check_same(self, workdir: str | pathlib.Path, otherwise: str) -> None:
        """Raises UserError, with the given message, where a workdir holds another person."""
        old = Person.load(pathlib.Path(workdir))
        names = ("transforms", "background", "eyes")
        pairs = [(getattr(old, name), getattr(self, name)) for name in names] + [(old.survey.audio, self.survey.audio)]
        same = all(np.array_equal(a, b) for a, b in pairs)
        if not same or (old.camera, old.speech) != (self.camera, self.speech):
            raise UserError(otherwise)

    @classmethod
    def load(cls, workdir: pathlib.Path) -> "Person":
        """Reads `person.npz`.

        Raises:
          UserError: it is missing, as in a folder that no training wrote.
        """
        path = pathlib.Path(workdir) / _FILE
        if not path.exists():
            raise UserError(f"{workdir} holds no trained person ({_FILE} is missing): train first, or check --workdir")
        names = ("intrinsics", "background", "transforms", "eyes", "survey_audio", "speech")
        stored = read_archive(path, names)
        eyes, count = stored["eyes"], len(np.atleast_1d(stored["eyes"]))
        whole = (
            count > 0
            and stored["background"].dtype == np.uint8
            and stored["background"].ndim == 3
            and stored["transforms"].shape == (count, 4, 4)
            and eyes.shape == (count, 2)
            and stored["intrinsics"].shape == (3,)
            and stored["survey_audio"].shape[:1] == (len(survey_rows(count)),)
            and stored["speech"].dtype.kind == "U"
            and all(stored[name].dtype.kind in "fiub" and np.isfinite(stored[name]).all() for name in names[:5])
        )
        if not whole:
            raise UserError(f"{path} is damaged or was written by another version of this program: train it again")
        height, width = stored["background"].shape[:2]
        return cls(
            camera=Camera(*(float(v) for v in stored["intrinsics"]), height=height, width=width),
            background=stored["background"],
            transforms=stored["transforms"],
            eyes=eyes,
            survey=Conditions(stored["survey_audio"], eyes[survey_rows(count)]),
            speech=str(stored["speech"]),
        )


def survey_rows(frames: int) -> np.ndarray:
    """Numbers of up to 16 of some frames, evenly spaced in time."""
    return np.unique(np.linspace(0, frames - 1, 16).astype(int))
