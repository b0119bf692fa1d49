"""Frames to a file: a video with sound, or a folder of PNG files."""

import os
import pathlib
import shutil
from collections.abc import Iterable

import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import part_of, same_file
from adnerf_jax.common.timing import FPS
from adnerf_jax.inference.speech_input import SpeechInput
from adnerf_jax.media.encoder_settings import video_format
from adnerf_jax.media.image import write_image
from adnerf_jax.media.provenance import Provenance
from adnerf_jax.media.video import VideoWriter


def check_output(path: pathlib.Path, alpha: bool) -> pathlib.Path:
    """Where frames will be written: the file, or for a name that ends in `.png` the folder of that name without it.

    Args:
      path: see `write_output`.
      alpha: whether frames have an alpha channel.

    Raises:
      UserError: an unknown format, a format without an alpha channel where one is needed, or a file or folder that
        already has the name.
    """
    if path.suffix.lower() != ".png":
        video_format(path, alpha)
        if path.is_dir():
            raise UserError(f"{path} is a folder: give another name for the video")
        return path
    folder = path.with_suffix("")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder} is in the way of the pictures: move it, or give another name")
    return folder


def check_not_source(path: pathlib.Path, *sources: object) -> None:
    """Checks that an output does not overwrite one of the files that it is made from.

    Args:
      path: the video, or the folder of pictures (from `check_output`).
      sources: inputs of the render; those that are not names of files are ignored.

    Raises:
      UserError: the output would overwrite one of them.
    """
    for source in sources:
        if same_file(path, source):
            raise UserError(f"{path} would replace {source}, which it is made from: give it another name")


def write_output(
    path: pathlib.Path,
    frames: Iterable[np.ndarray],
    width: int,
    height: int,
    *,
    alpha: bool,
    speech: SpeechInput,
    provenance: Provenance | None,
) -> pathlib.Path:
    """Writes frames at 25 fps; after an error nothing is left at the target.

    Args:
      path: `.mp4`, `.webm`, `.mov`; or `.png` for a folder of pictures `000000.png`, ….
      frames: uint8 [height, width, 3], or RGBA [height, width, 4] with straight (not premultiplied) colours.
      width, height: frame size in pixels.
      alpha: whether frames are RGBA.
      speech: its sound is written into a video.
      provenance: origin that is recorded in the file's metadata; None: nothing is recorded.

    Returns:
      the file or the folder.

    Raises:
      UserError: as `check_output`.
    """
    target = check_output(path, alpha)
    if path.suffix.lower() == ".png":
        _write_pictures(target, frames, provenance)
        return target
    with VideoWriter(
        target,
        width,
        height,
        FPS,
        sound=speech.sound,
        sound_start=speech.start,
        duration=speech.duration,
        sound_track=speech.audio_track,
        alpha=alpha,
        tags=None if provenance is None else provenance.tags(),
    ) as writer:
        for frame in frames:
            writer.write(frame)
    return target


def _write_pictures(folder: pathlib.Path, frames: Iterable[np.ndarray], provenance: Provenance | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(folder)
    temporary.mkdir()
    try:
        for i, frame in enumerate(frames):
            write_image(temporary / f"{i:06d}.png", frame, provenance=provenance)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
