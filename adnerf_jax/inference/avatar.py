"""A trained person that speaks: `Avatar.load(workdir)`, then `render`, `write` or `stream`.

avatar = Avatar.load("runs/quickstart")
avatar.write("talking.mp4", "speech.wav")
avatar.write("turned.webm", "speech.m4a", offset="yaw=8", background="none", size=512)
for frame in avatar.render("speech.wav", pose="random", background="beach.jpg", camera="zoom=1.3"):
    show(frame)  # uint8 RGB [H, W, 3]
for frame in avatar.stream(microphone):  # chunks of 16 kHz mono sound, float or int16
    show(frame)
"""

import collections
import dataclasses
import inspect
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
from adnerf_jax.common.files import given_path, same_file
from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS
from adnerf_jax.common.types import Conditions
from adnerf_jax.inference.backgrounds import BackgroundSource, background_source
from adnerf_jax.inference.code_inputs import DrivenTracks, check_driven_names
from adnerf_jax.inference.head_motion import NAMES, MotionRange, head_position
from adnerf_jax.inference.output import check_not_source, check_output, write_output
from adnerf_jax.inference.pose_sequences import PoseFrame, PoseSource, displaced, skip_frames, smoothed
from adnerf_jax.inference.pose_sources import pose_source
from adnerf_jax.inference.speech_input import SpeechInput, speech_input
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.rendering.framing import framing
from adnerf_jax.rendering.renderer import Layers
from adnerf_jax.speech import features as speech_features
from adnerf_jax.training.runs import load_config

_T = TypeVar("_T")
_CHECKED_AT_ONCE = 1000  # number of poses whose range is checked in one batch


@jax.jit
def _rgb(layers: Layers, background: jax.Array) -> jax.Array:
    """The person over a background uint8 [H, W, 3], as uint8."""
    # Pixels that are transparent in 8 bits (`_rgba`) keep the background bit for bit.
    transparent = to_uint8(layers.straight())[..., 3:] == 0
    return jnp.where(transparent, background, to_uint8(layers.person_over(background.astype(jnp.float32) / 255.0)))


@jax.jit
def _rgba(layers: Layers) -> jax.Array:
    """The person without a background, uint8 [H, W, 4], straight colours."""
    return to_uint8(layers.straight())


class Rendering(Iterator[np.ndarray]):
    """The frames of a render, at 25 fps, from `Avatar.render` or `Avatar.stream`.

    Iterating yields uint8 RGB [H, W, 3]; without a background RGBA [H, W, 4] with straight (not premultiplied) colours.
    Frames are rendered one by one as they are requested, so that memory does not grow with their number; a rendering
    can be iterated over once. `len` is the number of all frames; that of a live stream raises TypeError.

    Attributes:
      width, height: size of the frames in pixels.
      alpha: whether frames are RGBA.
      speech: the speech that is rendered (`speech_input.SpeechInput`).
    """

    def __init__(
        self,
        stage: TrainedStage,
        speech: SpeechInput,
        poses: PoseSource,
        driven: DrivenTracks,
        backgrounds: BackgroundSource | None,
        width: int,
        height: int,
    ):
        self.width, self.height, self.alpha = width, height, backgrounds is None
        self.speech = speech
        self._stage, self._poses, self._driven, self._backgrounds = stage, poses, driven, backgrounds
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
        """Numbers and frames of those frames for which `wanted(number)` is true; the others are not rendered."""
        # The device computes the next frame while the caller uses this one; live, its sound has not arrived yet.
        dispatched = _prefetched(self._dispatched(wanted), 0 if self.speech.frames is None else 1)
        return ((i, np.asarray(frame)) for i, frame in dispatched)

    def _dispatched(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, jax.Array]]:
        """As `selected`, with frames that the device may still be computing."""
        backgrounds = itertools.repeat(None) if self._backgrounds is None else self._backgrounds()
        inputs = zip(self.speech.windows(), self._poses.start(), self._driven.start(), backgrounds, strict=False)
        for i, (audio, posed, values, background) in enumerate(inputs):
            if not wanted(i):
                continue
            conditions = Conditions(audio[None], self._driven.fill(values, posed.tracks))
            layers = self._stage.layers(posed.transform, conditions)
            yield i, _rgba(layers) if background is None else _rgb(layers, background)


def _prefetched(items: Iterator[_T], count: int) -> Iterator[_T]:
    """The items; each is yielded after the next `count` items have been requested."""
    waiting: collections.deque[_T] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


class Avatar:
    """A trained person, loaded once and rendered any number of times.

    Args:
      stage: a trained head, or a torso with its head.
      zero_padded: speech windows beyond the ends of the sound are zeros, as in the published code, instead of those of
        silence.

    Attributes:
      stage: the trained stage; `stage.person` holds its camera, background and training poses.
    """

    def __init__(self, stage: TrainedStage, zero_padded: bool = False):
        self.stage, self._zero_padded = stage, zero_padded
        self._range = MotionRange.of(stage.person.transforms)

    @classmethod
    def load(cls, workdir: str | os.PathLike, config: ConfigDict | None = None) -> "Avatar":
        """Loads the newest checkpoint of a workdir.

        Args:
          workdir: folder of a trained stage (`head` or `torso`), or of the quickstart, whose torso is loaded.
          config: the stage's configuration; None: the one that was saved at training.

        Raises:
          UserError: the folder holds no trained stage, or its checkpoint does not fit the configuration.
        """
        workdir = pathlib.Path(given_path(workdir))
        if not (workdir / "config.json").exists() and (workdir / "torso" / "config.json").exists():
            workdir = workdir / "torso"
        config = load_config(workdir) if config is None else config
        return cls(TrainedStage.load(workdir, config), config.compat.zero_padding)

    @property
    def provenance(self) -> Provenance:
        """Origin that written files declare in their metadata: model, training step, and that they are synthetic."""
        return self.stage.provenance

    @property
    def look_ahead(self) -> float:
        """Seconds of sound after the start of a frame that `stream` needs before it can render that frame."""
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
        audio_track: int | None = None,
        features: str | os.PathLike | None = None,
        keep_sound: bool = False,
        **driven: Any,
    ) -> Rendering:
        """Renders the person speaking, frame by frame.

        Example: `for frame in avatar.render("speech.wav", pose="random", eyes=1, size=512): ...`

        Args:
          speech: path of a sound or video file of any rate; samples, float in [-1, 1] or int16, [T] or [channels, T] at
            16 kHz, or a pair (samples, rate in Hz); an iterable of chunks, as for `stream`; None where only `features`
            are given.
          pose: head poses: `mirror` (the training video, back and forth), `forward` (in a loop), `random` (segments of
            it in random order), `rest` (constant), `frame:N`; a `.json` or `.csv` file of poses or of motion curves; a
            driving video; or camera-to-head matrices [N, 4, 4], one for each frame (`pose_sources.pose_source`).
          offset: motion added to the poses: a mapping or text such as `yaw=8,x=1`, or a file of curves over time; yaw,
            pitch, roll in degrees, x, y, z in cm (`head_motion`, `common.curves.read_curves`).
          smooth: standard deviation in seconds of a Gaussian that poses are smoothed with, 0 to 60; 0: not at all.
          clamp: whether poses outside the range of the training video are clipped to it; otherwise a warning names
            them.
          background: `original`, `blur`, `none` (frames are RGBA), a colour (`white`, `#1e90ff`), a picture or video
            file, or an array uint8 [h, w, 3] (`backgrounds.background_source`).
          camera: mapping or text `yaw=10,pitch=-5,zoom=1.2,focal=900`: orbit around the head in degrees, magnification,
            focal length in pixels (`rendering.framing`).
          eyes: `blinks` (at random times), `pose` (as in the video that the poses are from), or the opening as a number
            or curve (0 closed, 1 open, at most 1.5); no effect on a person who was trained without the code `eyes`.
          size: pixels of the longer side, (width, height), or text `640x360`; None: as in the training video.
          crop: (x, y, width, height) as fractions of the training video's picture, or as text; None: all of it.
          seed: of random poses and blinks.
          start, duration: seconds, the part of the speech to render. A driving video that is also the source of the
            speech starts at the same time.
          audio_track: sound track of a file, counted from 1; None: the one marked as default, or the first that is not
            silent.
          features: file of DeepSpeech features of the speech, for a person who was trained on those.
          keep_sound: whether the chunks of a live stream are kept in memory, to be written beside the frames
            (`Rendering.speech`).
          driven: inputs of further condition codes that can be driven, by the code's name (`models.codes.registry`).

        Returns:
          an iterator over the frames, which are rendered as they are requested.

        Raises:
          UserError: an argument is invalid, a file cannot be read, the speech holds no sound, or there are fewer given
            poses than frames. The message names the fault and the remedy.
          TypeError: there is no argument or driven code of a given name.
        """
        driven = {"eyes": eyes, **driven}
        check_driven_names(driven, inspect.signature(self.render).parameters)
        stage = self.stage
        person = stage.person
        prepared = speech_input(
            stage,
            speech,
            start,
            duration,
            audio_track=audio_track,
            features=features,
            zero_padded=self._zero_padded,
            keep_sound=keep_sound,
        )
        framed = framing(person.camera, head_position(self._range.rest), camera, size, crop)
        poses = pose_source(pose, person, seed)
        if start and same_file(pose, speech):
            poses = skip_frames(poses, round(start * FPS))
        if poses.length is not None and prepared.frames is not None and poses.length < prepared.frames:
            raise UserError(
                f"there are {poses.length} poses, and {prepared.frames} frames to render: give a pose for each, or "
                f"speech of at most {poses.length / FPS:g} s"
            )
        poses = displaced(poses, read_curves(offset, NAMES, "offset") if offset else {})
        poses = smoothed(poses, smooth)
        poses = self._clamped(poses) if clamp else self._range_checked(poses, prepared.frames)
        picture = person.camera if framed is None else framed
        return Rendering(
            stage.framed(framed),
            prepared,
            poses,
            DrivenTracks(driven, person.tracks, seed),
            background_source(background, person, framed),
            picture.width,
            picture.height,
        )

    def stream(self, chunks: Iterable[np.ndarray], **options: Any) -> Rendering:
        """Renders live speech: each frame as soon as the sound that it depends on has arrived.

        The frames equal, bit for bit, those that `render` makes of the whole recording. The latency is `look_ahead`
        plus the time to render one frame; memory does not grow with the length of the stream.

        Example: `for frame in avatar.stream(microphone, background="blur"): ...`

        Args:
          chunks: yields 16 kHz mono sound, float in [-1, 1] or int16, [t] of any length; iterating over the frames
            requests as many chunks as they need.
          options: keyword arguments of `render`.

        Raises:
          UserError: as `render`; while iterating, if the stream ends before its first sample.
        """
        return self.render(iter(chunks), **options)

    def write(self, path: str | os.PathLike, speech: Any, *, label: bool = True, **options: Any) -> pathlib.Path:
        """Renders into a video file with sound, or into a folder of pictures.

        Example: `avatar.write("talking.webm", "speech.wav", background="none", offset="yaw=8")`

        Args:
          path: its suffix decides the format: `.mp4` (H.264), `.webm` (VP9), `.mov` (ProRes 4444), or `.png` for a
            folder of that name without the suffix, with pictures `000000.png`, …. All but `.mp4` have an alpha channel.
          speech: as for `render`; also chunks, as for `stream`.
          label: whether the metadata declare the file as synthetic media and name the model.
          options: keyword arguments of `render`.

        Returns:
          the path of the file or of the folder.

        Raises:
          UserError: as `render`; also for an unknown format, `background="none"` with a format without an alpha
            channel, or a path that is one of the inputs or already taken by a folder. Nothing is written then.
        """
        path = pathlib.Path(given_path(path))
        check_not_source(check_output(path, alpha=False), speech, *options.values())
        # Pictures are written without sound, which then is not kept.
        frames = self.render(speech, keep_sound=path.suffix.lower() != ".png", **options)
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

        return dataclasses.replace(poses, start=start)

    def _range_checked(self, poses: PoseSource, frames: int | None) -> PoseSource:
        """The poses; warns of those outside the range of the training video, in a live stream as they come."""
        if frames is None:
            return dataclasses.replace(poses, start=lambda: self._check_live(poses.start()))
        worst: dict[str, tuple[int, float]] = {}
        remaining = itertools.islice(poses.start(), frames)
        for first in range(0, frames, _CHECKED_AT_ONCE):
            batch = np.stack([posed.transform for posed in itertools.islice(remaining, _CHECKED_AT_ONCE)])
            for name, (row, value) in self._range.out_of_range(batch).items():
                if name not in worst or abs(value) > abs(worst[name][1]):
                    worst[name] = first + row, value
        for name, (frame, value) in worst.items():
            self._warn(name, frame, value)
        return poses

    def _check_live(self, poses: Iterator[PoseFrame]) -> Iterator[PoseFrame]:
        warned: set[str] = set()
        for i, posed in enumerate(poses):
            for name, (_, value) in self._range.out_of_range(posed.transform[None]).items():
                if name not in warned:
                    warned.add(name)
                    self._warn(name, i, value)
            yield posed

    def _warn(self, name: str, frame: int, value: float) -> None:
        say(
            f"warning: frame {frame} has {name} {value:.1f}, outside the training video "
            f"({self._range.describe(name)}); ",
            Option("render.clamp", True),
            " keeps poses in that range",
        )
