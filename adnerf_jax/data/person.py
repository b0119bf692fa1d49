"""What rendering needs of the training video, saved beside the checkpoints so that no dataset is needed."""

import pathlib
from typing import Any

import numpy as np
from flax import struct

from adnerf_jax.common.array_files import read_archive
from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import atomic_path
from adnerf_jax.common.types import Camera, Conditions
from adnerf_jax.data.datasets import Dataset
from adnerf_jax.models.codes.registry import driven_codes

_FILE = "person.npz"
_ARRAYS = ("intrinsics", "background", "transforms", "survey_audio")


@struct.dataclass
class Person:
    """A trained person's video, without its frames.

    Attributes:
      camera: intrinsics and size.
      background: uint8 [H, W, 3].
      transforms: float32 [N, 4, 4], head poses of the training frames in order of time.
      tracks: float32 [N, D] each, the raw inputs of the head's driven condition codes in those frames, by the code's
        name.
      survey: conditions of some of them (`survey_rows`), for which the occupied cells of a volume are computed.
      speech: name of the speech encoder.
    """

    camera: Camera
    background: np.ndarray
    transforms: np.ndarray
    tracks: dict[str, np.ndarray]
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
            tracks=dataset.raw_inputs(train.aud_id, driven_codes()),
            survey=dataset.conditions(train.aud_id[survey_rows(len(train))]),
            speech=dataset.speech,
        )

    @property
    def channels(self) -> int:
        """C, the number of speech features that the person was trained with."""
        return self.survey.audio.shape[-1]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes `person.npz` atomically."""
        with atomic_path(workdir / _FILE) as temporary:
            arrays: dict[str, Any] = {
                "intrinsics": np.array([self.camera.focal, self.camera.cx, self.camera.cy]),
                "background": self.background,
                "transforms": self.transforms,
                "survey_audio": self.survey.audio,
                "speech": np.array(self.speech),
                "tracks": np.array(sorted(self.tracks), dtype=np.str_),
            }
            arrays |= {_track_key(name): track for name, track in self.tracks.items()}
            np.savez(temporary, **arrays)

    def check_continues(self, workdir: pathlib.Path) -> None:
        """Raises UserError where a workdir holds a training on other data."""
        if (workdir / _FILE).exists():
            self.check_same(
                workdir, f"the dataset has changed since {workdir} was begun: delete that folder, or use another one"
            )

    def check_same(self, workdir: str | pathlib.Path, otherwise: str) -> None:
        """Raises UserError, with the given message, where a workdir holds another person."""
        old = Person.load(pathlib.Path(workdir))
        pairs = [(getattr(old, name), getattr(self, name)) for name in ("transforms", "background")]
        pairs += [(old.survey.audio, self.survey.audio)]
        pairs += [(old.tracks[name], track) for name, track in self.tracks.items() if name in old.tracks]
        same = self.tracks.keys() <= old.tracks.keys() and all(np.array_equal(a, b) for a, b in pairs)
        if not same or (old.camera, old.speech) != (self.camera, self.speech):
            raise UserError(otherwise)

    @classmethod
    def load(cls, workdir: pathlib.Path) -> "Person":
        """Reads `person.npz`, without the tracks of codes that are not registered.

        Raises:
          UserError: it is missing, as in a folder that no training wrote.
        """
        path = pathlib.Path(workdir) / _FILE
        if not path.exists():
            raise UserError(
                f"{workdir} holds no trained person ({_FILE} is missing): train first, or check ", Option("workdir")
            )
        stored = read_archive(path, (*_ARRAYS, "speech", "tracks"))
        listed, codes = stored["tracks"], driven_codes()
        names = listed.tolist() if listed.dtype.kind == "U" and listed.ndim == 1 else []
        known = [name for name in names if name in codes]
        tracks = {name: read_archive(path, (_track_key(name),))[_track_key(name)] for name in known}
        count = len(np.atleast_1d(stored["transforms"]))
        numbers = [*(stored[name] for name in _ARRAYS), *tracks.values()]
        whole = (
            count > 0
            and len(names) == listed.size
            and stored["background"].dtype == np.uint8
            and stored["background"].ndim == 3
            and stored["transforms"].shape == (count, 4, 4)
            and all(track.shape == (count, codes[name].track_width) for name, track in tracks.items())
            and stored["intrinsics"].shape == (3,)
            and stored["survey_audio"].ndim == 4
            and len(stored["survey_audio"]) == len(survey_rows(count))
            and stored["speech"].dtype.kind == "U"
            and all(array.dtype.kind in "fiub" and np.isfinite(array).all() for array in numbers)
        )
        if not whole:
            raise UserError(f"{path} is damaged or was written by another version of this program: train it again")
        height, width = stored["background"].shape[:2]
        focal, cx, cy = map(float, stored["intrinsics"])
        return cls(
            camera=Camera(focal, cx, cy, height=height, width=width),
            background=stored["background"],
            transforms=stored["transforms"],
            tracks=tracks,
            survey=Conditions(
                stored["survey_audio"], {name: track[survey_rows(count)] for name, track in tracks.items()}
            ),
            speech=str(stored["speech"]),
        )


def survey_rows(frames: int) -> np.ndarray:
    """Numbers of up to 16 frames, evenly spaced among `frames`."""
    return np.unique(np.linspace(0, frames - 1, 16).astype(int))


def _track_key(name: str) -> str:
    return f"track_{name}"
