"""Writes files in PyTorch's formats without PyTorch, for the tests that read them."""

import collections
import io
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

_STORAGES = {"<f4": "FloatStorage", "<i8": "LongStorage", "<f2": "HalfStorage"}


def stand_in(monkeypatch) -> types.ModuleType:
    """A fake `torch` module with the names that a pickle of tensors refers to."""

    def member(module, name, value):
        value.__module__, value.__qualname__ = module.__name__, name
        setattr(module, name, value)

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in _STORAGES.values():
        member(torch, name, type(name, (), {}))
    member(utils, "_rebuild_tensor_v2", lambda *args: None)
    member(utils, "_rebuild_parameter", lambda *args: None)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    torch.utils = utils
    return torch


class Tensor:
    """An object that pickles like a tensor; `view` is (offset, size, stride) in elements of the storage `data`."""

    def __init__(self, torch, key, data, view=None, parameter=False):
        self.torch, self.key, self.data, self.parameter = torch, key, data, parameter
        self.view = view or (0, data.shape, tuple(s // data.itemsize for s in data.strides))

    def __reduce__(self):
        if self.parameter:
            plain = Tensor(self.torch, self.key, self.data, self.view)
            return self.torch.utils._rebuild_parameter, (plain, True, collections.OrderedDict())
        return self.torch.utils._rebuild_tensor_v2, (_Storage(self), *self.view, False, collections.OrderedDict())


class _Storage:
    def __init__(self, tensor):
        self.kind = getattr(tensor.torch, _STORAGES[tensor.data.dtype.str])
        self.key, self.data = tensor.key, tensor.data


def dump(value, legacy: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    """The pickle of a value, and the storages of its tensors by key."""
    storages = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, _Storage):
                storages[obj.key] = obj.data
                return ("storage", obj.kind, obj.key, "cpu", obj.data.size) + ((None,) if legacy else ())
            return None

    out = io.BytesIO()
    Pickler(out, protocol=2).dump(value)
    return out.getvalue(), storages


def write_zip(path, data_pkl, storages, **records):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name/data.pkl", data_pkl)
        for key, data in storages.items():
            archive.writestr(f"name/data/{key}", data if isinstance(data, bytes) else data.tobytes())
        for name, data in records.items():
            archive.writestr(f"name/{name}", data)
    return path


def write_legacy(path, data_pkl, storages):
    plain = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    raw = [struct.pack("<q", data.size) + data.tobytes() for data in storages.values()]
    path.write_bytes(b"".join([*plain, data_pkl, pickle.dumps(list(storages), 2), *raw]))
    return path


def save(torch, path: pathlib.Path, value, legacy: bool = False) -> pathlib.Path:
    """Writes nested dictionaries of arrays as `torch.save` does."""
    count = 0

    def tensors(value):
        nonlocal count
        if isinstance(value, np.ndarray):
            count += 1
            return Tensor(torch, str(count), np.array(value, order="C"))
        if isinstance(value, dict):
            return {key: tensors(item) for key, item in value.items()}
        return value

    return (write_legacy if legacy else write_zip)(path, *dump(tensors(value), legacy))
