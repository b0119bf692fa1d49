"""A learned person that says anything: `Avatar.load(workdir)`, then `render`, `write` or `stream`.

avatar = Avatar.load("runs/quickstart")
avatar.write("talking.mp4", "speech.wav")
avatar.write("turned.webm", "speech.m4a", offset="yaw=8", background="none", size=512)
for frame in avatar.render("speech.wav", pose="random", background="beach.jpg", camera="zoom=1.3"):
    show(frame)  # uint8 RGB [H, W, 3]
for frame in avatar.stream(microphone):  # pieces of 16 kHz sound, float or int16
    show(frame)
"""

import collections
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.curves import read_curves
from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import same_file
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.common.types import Conditions
from adnerf_jax.inference.backgrounds import BackgroundSource, background_source
from adnerf_jax.inference.eye_sources import EyeRange, EyeSource, eye_source
from adnerf_jax.inference.head_motion import NAMES, MotionRange, head_position
from adnerf_jax.inference.output import check_not_source, check_output, write_output
from adnerf_jax.inference.pose_sequences import PoseFrame, PoseSource, displaced, skip_frames, smoothed
from adnerf_jax.inference.pose_sources import pose_source
from adnerf_jax.inference.speech_input import SpeechInput, speech_input
from adnerf_jax.inference.trained import TrainedStage
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.rendering.framing import framing
from adnerf_jax.rendering.renderer import Layers, to_uint8
from adnerf_jax.speech import features as speech_features
from adnerf_jax.training.runs import load_config

_T = TypeVar("_T")
_CHECKED_AT_ONCE = 1000  # poses


@jax.jit
def _over(layers: Layers, background: jax.Array) -> jax.Array:
    # What an RGBA picture would show as nothing is the background itself, to the last bit.
    nothing = to_uint8(layers.straight())[..., 3:] == 0
    return jnp.where(nothing, background, to_uint8(layers.person_over(background.astype(jnp.float32) / 255.0)))


@jax.jit
def _alone(layers: Layers) -> jax.Array:
    return to_uint8(layers.straight())


class Rendering(Iterator[np.ndarray]):
    """Frames to come: uint8 RGB [H, W, 3], or RGBA [H, W, 4] with straight colours where there is no background.

    Each frame is begun when the one before is asked for, so memory does not grow with their number. `len` is the number
    of all of them; a live stream has none.

    Attributes:
      width, height: in pixels.
      alpha: whether frames are RGBA.
      speech: what is spoken.
    """

    def __init__(
        self,
        stage: TrainedStage,
        speech: SpeechInput,
        poses: PoseSource,
        eyes: EyeSource,
        backgrounds: BackgroundSource | None,
        width: int,
        height: int,
    ):
        self.width, self.height, self.alpha, self.speech = width, height, backgrounds is None, speech
        self._stage, self._poses, self._eyes, self._backgrounds = stage, poses, eyes, backgrounds
        self._open = EyeRange.of(stage.person.eyes).openness(1.0)
        self._all = self.selected(lambda _: True)

    def __len__(self) -> int:
        if self.speech.frames is None:
            raise TypeError("a live stream has no length")
        return self.speech.frames

    def __iter__(self) -> "Rendering":
        return self

    def __next__(self) -> np.ndarray:
        return next(self._all)[1]

    def selected(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray]]:
        """Numbers and frames of those that are wanted, from the first on; the others cost little."""
        # The device works on the next frame while the caller writes this one; a live stream has no frame to wait for.
        begun = _ahead(self._begun(wanted), 0 if self.speech.frames is None else 1)
        return ((i, np.asarray(frame)) for i, frame in begun)

    def _begun(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, jax.Array]]:
        """As `selected`, of frames that may not be done yet."""
        backgrounds = itertools.repeat(None) if self._backgrounds is None else self._backgrounds()
        coming = zip(self.speech.windows(), self._poses.start(), self._eyes(), backgrounds, strict=False)
        for i, (audio, posed, eyes, background) in enumerate(coming):
            if not wanted(i):
                continue
            if eyes is None:
                eyes = self._open if posed.eyes is None else posed.eyes
            layers = self._stage.layers(posed.transform, Conditions(audio[None], np.asarray(eyes, np.float32)[None]))
            yield i, _alone(layers) if background is None else _over(layers, background)


def _ahead(items: Iterator[_T], count: int) -> Iterator[_T]:
    """The same items, so many of which have been asked for beforehand."""
    waiting = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


class Avatar:
    """A learned person.

    Args:
      stage: a head, or a torso with its head.
      zero_padded: speech windows of zeros before and after the sound, as in the published code.
    """

    def __init__(self, stage: TrainedStage, zero_padded: bool = False):
        self.stage, self._zero_padded = stage, zero_padded
        self._range = MotionRange.of(stage.person.transforms)

    @classmethod
    def load(cls, workdir: str | os.PathLike, config: ConfigDict | None = None) -> "Avatar":
        """The person of a workdir.

        Args:
          workdir: a stage's folder, or the quickstart's with `torso` in it.
          config: the stage's configuration; by default the one saved there.

        Raises:
          UserError: there is no trained stage.
        """
        workdir = pathlib.Path(workdir)
        if not (workdir / "config.json").exists() and (workdir / "torso" / "config.json").exists():
            workdir = workdir / "torso"
        config = load_config(workdir) if config is None else config
        return cls(TrainedStage.load(workdir, config), config.compat.zero_padding)

    @property
    def provenance(self) -> Provenance:
        """What written files say of their origin."""
        return self.stage.provenance

    @property
    def look_ahead(self) -> float:
        """Seconds of sound that `stream` needs after the beginning of a frame before it can give that frame."""
        return speech_features.look_ahead(speech_features.get_encoder(self.stage.person.speech))

    def render(
        self,
        speech: Any,
        *,
        pose: Any = "mirror",
        offset: Any = None,
        smooth: float = 0.0,
        clamp: bool = False,
        background: Any = "original",
        camera: Any = None,
        eyes: Any = "blinks",
        size: Any = None,
        crop: Any = None,
        seed: int = 0,
        start: float = 0.0,
        duration: float | None = None,
        features: str | os.PathLike | None = None,
        keep_sound: bool = False,
    ) -> Rendering:
        """The person saying something.

        Args:
          speech: a sound or video file, samples, or chunks of them (`speech_input.speech_input`).
          pose: where head poses come from (`pose_sources.pose_source`).
          offset: numbers or curves of yaw, pitch, roll (degrees), x, y, z (cm) that poses are turned and shifted by
            (`head_motion`, `curves.read_curves`).
          smooth: seconds; poses are averaged over so long.
          clamp: poses that leave those of the training video are put back to their range.
          background: what stands behind (`backgrounds.background_source`); `none` for RGBA.
          camera: `yaw=10,pitch=0,zoom=1.2,focal=900` (`framing.framing`).
          eyes: what they do (`eye_sources.eye_source`); of no effect where the person learned none, as in `paper`.
          size, crop: of the picture (`framing.framing`).
          seed: of what is random.
          start, duration: seconds of the speech; where the poses are those of the same video, they begin there too.
          features: DeepSpeech features of the speech, for a person who learned from those.
          keep_sound: chunks are kept until `Rendering.speech.sound` is read.

        Returns:
          an iterator over the frames.

        Raises:
          UserError: something of this that cannot be.
        """
        stage = self.stage
        person = stage.person
        speech_in = speech_input(
            stage, speech, start, duration, features=features, zero_padded=self._zero_padded, keep_sound=keep_sound
        )
        framed = framing(person.camera, head_position(self._range.rest), camera, size, crop)
        poses = pose_source(pose, person, seed)
        if start and same_file(pose, speech):
            poses = skip_frames(poses, round(start * FPS))
        if None not in (poses.length, speech_in.frames) and poses.length < speech_in.frames:
            raise UserError(
                f"there are {poses.length} poses, and {speech_in.frames} frames to render: give a pose for each, or "
                f"speech of at most {poses.length / FPS:g} s"
            )
        poses = displaced(poses, read_curves(offset, NAMES, "offset") if offset else {})
        poses = smoothed(poses, smooth)
        poses = self._clamped(poses) if clamp else self._watched(poses, speech_in.frames)
        width, height = (person.camera if framed is None else framed).width, (framed or person.camera).height
        return Rendering(
            stage.framed(framed),
            speech_in,
            poses,
            eye_source(eyes, person.eyes, seed),
            background_source(background, person, framed),
            width,
            height,
        )

    def stream(self, chunks: Iterable[np.ndarray], **look: Any) -> Rendering:
        """The person saying what comes, as it comes: the frames that `render` makes of the whole, bit for bit.

        A frame is there once `look_ahead` seconds of sound after its beginning have come; what is kept does not grow.

        Args:
          chunks: pieces [t] of 16 kHz mono sound, float or int16, of any length.
          look: as for `render`.
        """
        return self.render(iter(chunks), **look)

    def write(self, path: str | os.PathLike, speech: Any, *, label: bool = True, **look: Any) -> pathlib.Path:
        """Renders into a file.

        Args:
          path: `.mp4` (H.264), `.webm` (VP9), `.mov` (ProRes 4444), or `.png` for a folder of pictures.
          speech: as for `render`.
          label: whether the file says that it is synthetic, and by which model.
          look: as for `render`.

        Returns:
          the file or the folder.

        Raises:
          UserError: as `render`, and for a format that is unknown or has no opacity where there is no background.
        """
        path = pathlib.Path(path)
        check_not_source(check_output(path, alpha=False), speech, *look.values())
        # Pictures are written without the sound, which then need not be kept.
        frames = self.render(speech, keep_sound=path.suffix.lower() != ".png", **look)
        return write_output(
            path,
            frames,
            frames.width,
            frames.height,
            alpha=frames.alpha,
            speech=frames.speech,
            provenance=self.provenance if label else None,
        )

    def _clamped(self, poses: PoseSource) -> PoseSource:
        def start() -> Iterator[PoseFrame]:
            return (posed._replace(transform=self._range.clamped(posed.transform)) for posed in poses.start())

        return poses.replace(start=start)

    def _watched(self, poses: PoseSource, frames: int | None) -> PoseSource:
        """The poses; a warning says which leave those of training: beforehand, or in a live stream when they do."""
        if frames is None:
            return poses.replace(start=lambda: self._watch(poses.start()))
        worst: dict[str, tuple[int, float]] = {}
        coming = itertools.islice(poses.start(), frames)
        for first in range(0, frames, _CHECKED_AT_ONCE):
            some = np.stack([posed.transform for posed in itertools.islice(coming, _CHECKED_AT_ONCE)])
            for name, (row, value) in self._range.out_of_range(some).items():
                if name not in worst or abs(value) > abs(worst[name][1]):
                    worst[name] = first + row, value
        for name, (frame, value) in worst.items():
            self._warn(name, frame, value)
        return poses

    def _watch(self, coming: Iterator[PoseFrame]) -> Iterator[PoseFrame]:
        told: set[str] = set()
        for i, posed in enumerate(coming):
            for name, (_, value) in self._range.out_of_range(posed.transform[None]).items():
                if name not in told:
                    told.add(name)
                    self._warn(name, i, value)
            yield posed

    def _warn(self, name: str, frame: int, value: float) -> None:
        say(
            f"warning: frame {frame} has {name} {value:.1f}, which was not learned ({self._range.describe(name)}); ",
            Option("render.clamp", True),
            " keeps poses in that range",
        )
