"""Decoded frames in a memory-mapped file: built once, verified, shared by all processes of a machine."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import cache_folder, part_of, read_json, sha256_of, write_json
from adnerf_jax.common.progress import Bar, say
from adnerf_jax.data.datasets import CHANNELS, Dataset, Frames, decode_frame, frame_files
from adnerf_jax.data.schema import BACKGROUNDS, Split, first_of

_VERSION = 1  # of decoding and layout
_ARRAY, _INFO = "frames.npy", "info.json"
_AHEAD = 64  # frames decoded before they are written


def cached_frames(dataset: Dataset, split: Split) -> tuple[Frames, str]:
    """The frames of a split, as `load_frames` decodes them, memory-mapped.

    They are stored in `<dataset>/.frames/`, or in the cache folder where the dataset is not writable, with 5 bytes a
    pixel, and decoded again when a file of the dataset has changed.

    Returns:
      frames, and the digest of the dataset's contents, which does not depend on its path.

    Raises:
      UserError: a frame is missing or of another size.
      OSError: the disk is full.
    """
    folder = _folder(dataset, split)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stamp = _stamp(dataset, split)
    lock = folder.with_suffix(".lock")
    with _locked(lock, fcntl.LOCK_SH):
        found = _read(folder, stamp)
    if found is None:
        with _locked(lock, fcntl.LOCK_EX) as held:
            if held:
                _sweep(folder)
            # Another process may have built them while this one waited.
            found = _read(folder, stamp) or _build(dataset, split, folder, stamp)
    info, packed = found
    return Frames(split, np.asarray(packed)), _digest(dataset, info["sources"])


def _folder(dataset: Dataset, split: Split) -> pathlib.Path:
    name = hashlib.sha256(repr((split.img_id.tolist(), dataset.camera)).encode()).hexdigest()[:16]
    beside = dataset.path / ".frames"
    if os.access(dataset.path, os.W_OK) and not beside.is_symlink():
        return beside / name
    where = hashlib.sha256(os.fsencode(dataset.path.absolute())).hexdigest()[:16]
    return cache_folder() / "frames" / f"{where}-{name}"


@contextlib.contextmanager
def _locked(path: pathlib.Path, how: int) -> Iterator[bool]:
    """Holds a file lock, shared for reading (`LOCK_SH`) or exclusive for writing (`LOCK_EX`), also over a network.

    Yields False where the file system has no locks.

    Raises:
      UserError: the path is a link, as it could be in a hostile dataset.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a link, which no run creates: delete it") from None
    with os.fdopen(descriptor, "r+") as file:
        held = False
        with contextlib.suppress(OSError):
            fcntl.flock(file, how)
            held = True
        yield held


def _sweep(folder: pathlib.Path) -> None:
    """Removes what killed builds of this folder have left; the caller holds its lock, so none is running."""
    for left in folder.parent.glob(f"*{folder.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _sources(dataset: Dataset, split: Split) -> Iterator[pathlib.Path]:
    yield first_of(dataset.path, BACKGROUNDS)
    for i in split.img_id:
        parts, picture, soft, _ = frame_files(dataset, int(i))
        yield from (parts, picture) if soft is None else (parts, picture, soft)


def _stamp(dataset: Dataset, split: Split) -> str:
    """A digest of names, sizes and modification times of all source files."""
    stamp = hashlib.sha256(f"{_VERSION} {dataset.camera}".encode())
    for path in _sources(dataset, split):
        status = path.stat()
        stamp.update(f"{path.relative_to(dataset.path)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return stamp.hexdigest()


def _read(folder: pathlib.Path, stamp: str) -> tuple[dict[str, str], np.ndarray] | None:
    """The information and the frames in a folder; None where they are damaged, or of other source files."""
    if not (folder / _INFO).exists():
        return None
    try:
        info = read_json(folder / _INFO, "frame cache")
    except UserError:
        return None
    if not isinstance(info, dict) or info.pop("digest", None) != _digest_of(info) or info.get("stamp") != stamp:
        return None
    if not (folder / _ARRAY).exists() or sha256_of(folder / _ARRAY) != info.get("array"):
        return None
    return info, _mapped(folder)


def _digest_of(info: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()


def _mapped(folder: pathlib.Path) -> np.ndarray:
    return np.load(folder / _ARRAY, mmap_mode="r", allow_pickle=False)


def _build(dataset: Dataset, split: Split, folder: pathlib.Path, stamp: str) -> tuple[dict[str, str], np.ndarray]:
    """Decodes all frames into a new folder, which replaces the old one when it is complete."""
    if folder.exists():
        say(f"{folder} is damaged or out of date: the frames are decoded again")
    temporary = part_of(folder)
    sources = hashlib.sha256()
    camera = dataset.camera
    shape = (len(split), camera.height, camera.width, CHANNELS)

    def decode(i: np.int32) -> tuple[bytes, np.ndarray]:
        parts, picture, soft, _ = frame_files(dataset, int(i))
        read = [path.read_bytes() for path in (parts, picture, soft) if path is not None]
        return b"".join(hashlib.sha256(r).digest() for r in read), decode_frame(dataset, int(i))

    try:
        temporary.mkdir()
        # Not through the memory map: on a full disk, that raises a signal instead of an error.
        with (
            (temporary / _ARRAY).open("wb") as file,
            concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
        ):
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            bar = Bar("frames", len(split))
            for start in range(0, len(split), _AHEAD):
                for source, packed in pool.map(decode, split.img_id[start : start + _AHEAD]):
                    sources.update(source)
                    file.write(packed.tobytes())
                    bar.update()
            bar.close()
        info = {"stamp": stamp, "sources": sources.hexdigest(), "array": sha256_of(temporary / _ARRAY)}
        write_json(temporary / _INFO, {**info, "digest": _digest_of(info)})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return info, _mapped(folder)


def _digest(dataset: Dataset, sources: str) -> str:
    """The digest of everything in a dataset that training uses: of the measured tracks, those that its codes read."""
    digest = hashlib.sha256(sources.encode())
    tracks = {name: track for code in dataset.codes for name, track in dataset.tracks_of(code).items()}
    leaves = jax.tree_util.tree_flatten_with_path(dataclasses.replace(dataset, tracks=tracks))[0]
    for path, leaf in leaves:
        array = np.ascontiguousarray(leaf)
        digest.update(json.dumps([jax.tree_util.keystr(path), array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    digest.update(f"{dataset.camera} {dataset.speech}".encode())
    return digest.hexdigest()[:32]
