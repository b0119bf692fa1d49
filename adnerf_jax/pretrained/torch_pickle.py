"""Reads PyTorch checkpoints, in the zip or the legacy format, without PyTorch, as nested dictionaries of NumPy arrays.

Unpickling can run code. Only the few names that a checkpoint of tensors needs can be imported here; a file that refers
to any other is refused before anything runs.
"""

import collections
import dataclasses
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from adnerf_jax.common.errors import UserError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGE_DTYPES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}
# No tensor of a checkpoint has more dimensions, or numbers of elements that need more than 48 bits.
_MOST_DIMENSIONS, _LARGEST = 16, 2**48
_PLAIN = (bool, int, float, str, bytes, type(None))
# Opcodes that torch.save has written in any version of Python: no sets, and no way to create objects except REDUCE.
_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL "
    "REDUCE BUILD BINPERSID NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING "
    "BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS"
).split()


class _Refused(Exception):
    """The file is damaged, or holds something other than tensors in plain containers."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Memory that tensors are views of: its key in the file, NumPy type, and number of elements."""

    key: str
    dtype: str
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage, whose bytes are read after the pickle."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _allowed_names() -> dict[tuple[str, str], Any]:
    """The names that a pickle may import. New objects for each file, because a pickle can set attributes on them."""

    def rebuild_tensor(storage, offset, size, stride, *_):
        return _Tensor(storage, offset, tuple(size), tuple(stride))

    def rebuild_parameter(tensor, *_):
        return tensor

    def ordered(pairs=()):
        _check_keys(key for key, _ in pairs)
        return collections.OrderedDict(pairs)

    names: dict[tuple[str, str], Any] = {("torch", name): np.dtype(code).str for name, code in _STORAGE_DTYPES.items()}
    names["collections", "OrderedDict"] = ordered
    names["torch._utils", "_rebuild_tensor_v2"] = rebuild_tensor
    names["torch._utils", "_rebuild_parameter"] = rebuild_parameter
    names["torch", "Size"] = lambda sizes: tuple(sizes)
    return names


def _check_keys(keys: Iterable[Any]) -> None:
    """Refuses dictionary keys that are not plain, before they are hashed: hashing nested tuples may never end."""
    if not all(isinstance(key, _PLAIN) for key in keys):
        raise _Refused("a dictionary has keys that are not plain")


def _check_built(stack: list[Any]) -> None:
    """Refuses to set attributes on anything but dictionaries; a `state_dict` has metadata as an attribute."""
    if not isinstance(stack[-2], collections.OrderedDict):
        raise _Refused("it sets attributes on something other than a dictionary")


class _Dispatch(dict):
    def __missing__(self, code: int):
        raise _Refused(f"it has the pickle opcode {code:#04x}, which no checkpoint of tensors needs")


def _dispatch() -> _Dispatch:
    """The function of each allowed opcode; some check the stack first."""
    checks = {
        "BUILD": _check_built,
        "SETITEM": lambda stack: _check_keys(stack[-2:-1]),
        "SETITEMS": lambda stack: _check_keys(stack[::2]),
        "DICT": lambda stack: _check_keys(stack[::2]),
    }

    def checked(load, check):
        def load_checked(unpickler) -> None:
            check(unpickler.stack)
            load(unpickler)

        return load_checked

    table = _Dispatch()
    for name in _OPCODES:
        code = getattr(pickle, name)[0]
        load = pickle._Unpickler.dispatch[code]
        table[code] = checked(load, checks[name]) if name in checks else load
    return table


# The unpickler in Python: the one in C allocates memory for any memo index that a file names.
class _Unpickler(pickle._Unpickler):
    dispatch = _dispatch()

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self._names = _allowed_names()
        self._storage_types = [np.dtype(code).str for code in _STORAGE_DTYPES.values()]
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise _Refused(f"it refers to {module}.{name}, which no checkpoint of tensors needs") from None

    def persistent_load(self, pid: Any) -> _Storage:
        # "storage", type, key, device, number of elements; the legacy format adds None where it is not a view.
        kinds = [type(part) for part in pid] if type(pid) is tuple else []
        if kinds not in ([str] * 4 + [int], [str] * 4 + [int, type(None)]) or pid[0] != "storage":
            raise _Refused("it refers to something other than a whole tensor storage")
        _, dtype, key, _, count, *_ = pid
        if dtype not in self._storage_types or count < 0:
            raise _Refused(f"storage {key[:20]!r} has an impossible type or size")
        storage = _Storage(key, dtype, count)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _Refused(f"storage {storage.key} has two descriptions that differ")
        return storage


def _as_array(tensor: _Tensor, data: dict[str, bytes]) -> np.ndarray:
    """The tensor as a read-only view of its storage, after checking that it lies inside the storage."""
    buffer = np.frombuffer(data[tensor.storage.key], np.dtype(tensor.storage.dtype))
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    # Before anything is multiplied: products of thousands of long numbers take minutes.
    numbers = (*size[: _MOST_DIMENSIONS + 1], *stride[: _MOST_DIMENSIONS + 1], offset)
    if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
        raise _Refused("a tensor has an impossible number of dimensions")
    if not all(type(n) is int and 0 <= n < _LARGEST for n in numbers):
        raise _Refused("a tensor has an impossible shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and (last >= buffer.size or count > buffer.size):
        raise _Refused("a tensor reaches beyond its storage")
    if not count:
        return np.zeros(size, buffer.dtype)
    strides = [s * buffer.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(buffer[offset:], size, strides, writeable=False)


def _resolve(value: Any, data: dict[str, bytes], seen: dict[int, Any]) -> Any:
    """Replaces tensors by arrays and subclasses of containers by plain ones; each shared object is visited once."""
    if isinstance(value, _PLAIN):
        return value
    if id(value) in seen:
        if seen[id(value)] is _Refused:
            raise _Refused("a container holds itself")
        return seen[id(value)]
    seen[id(value)] = _Refused  # while its items are resolved
    result: Any
    if isinstance(value, _Tensor):
        result = _as_array(value, data)
    elif isinstance(value, dict):
        result = {key: _resolve(item, data, seen) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)([_resolve(item, data, seen) for item in value])
    else:
        raise _Refused(f"it holds a {type(value).__name__}")
    seen[id(value)] = result
    return result


def _check_size(storage: _Storage, data: bytes) -> bytes:
    """The bytes of a storage, after checking their number."""
    if len(data) != storage.count * np.dtype(storage.dtype).itemsize:
        raise _Refused(f"storage {storage.key} is truncated")
    return data


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next((name.removesuffix("data.pkl") for name in entries if name.endswith("data.pkl")), None)
        if root is None:
            raise _Refused("it is a zip file without data.pkl")

        def read(name: str) -> bytes:
            if name not in entries:
                raise _Refused(f"{name} is missing from it")
            if entries[name].compress_type != zipfile.ZIP_STORED:
                raise _Refused("its entries are compressed, as PyTorch never does")
            return archive.read(name)

        if root + "byteorder" in entries and read(root + "byteorder") != b"little":
            raise _Refused("it is big-endian")
        unpickler = _Unpickler(io.BytesIO(read(root + "data.pkl")))
        value = unpickler.load()
        return value, {key: _check_size(s, read(f"{root}data/{key}")) for key, s in unpickler.storages.items()}


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    """Reads five pickles (magic, protocol, system, content, storage keys), then the size and bytes of each storage."""
    if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise _Refused("it does not start like a checkpoint")
    if not _Unpickler(file).load().get("little_endian", True):
        raise _Refused("it is big-endian")
    unpickler = _Unpickler(file)
    value = unpickler.load()
    data = {}
    for key in _Unpickler(file).load():
        if not isinstance(key, str) or key not in unpickler.storages:
            raise _Refused("it holds a storage that no tensor uses")
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise _Refused(f"storage {key} has {count} elements instead of {storage.count}")
        data[key] = _check_size(storage, file.read(count * np.dtype(storage.dtype).itemsize))
    return value, data


def load(path: str | pathlib.Path) -> Any:
    """Reads a file written by `torch.save` that holds nested dictionaries, lists, tuples, numbers, text and tensors.

    Args:
      path: a checkpoint in the zip or the legacy format, such as a `state_dict` with or without optimizer states.

    Returns:
      the same nesting of plain `dict`s (in the order of the file), lists and tuples, with read-only NumPy arrays in
      PyTorch's memory layout.

    Raises:
      UserError: the file is missing or damaged, or holds anything but tensors in plain containers.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            value, data = (_read_zip if is_zip else _read_legacy)(file)
        return _resolve(value, data, {})
    except FileNotFoundError:
        raise UserError(f"checkpoint not found: {path}") from None
    except Exception as error:  # an unpickler can raise anything on a damaged or hostile file
        reason = error if isinstance(error, _Refused) else f"it is damaged ({type(error).__name__}: {error})"
        reason = " ".join(str(reason).split())[:200]
        raise UserError(f"{path} is not a PyTorch checkpoint that can be read safely: {reason}") from error
