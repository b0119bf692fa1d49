"""Checkpoints in the bytes that PyTorch writes, and files that must be refused."""

import collections
import os
import pickle
import resource
import time
import zipfile

import numpy as np
import pytest
from torch_files import Tensor, dump, stand_in, write_legacy, write_zip

from adnerf_jax.common.errors import UserError
from adnerf_jax.pretrained import torch_pickle


@pytest.fixture
def torch(monkeypatch):
    return stand_in(monkeypatch)


def _checkpoint(torch):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    moments = np.arange(12, dtype=np.float32) / 8
    transposed = Tensor(torch, "0", weight, view=(0, (3, 2), (1, 3)))
    state = collections.OrderedDict(w=Tensor(torch, "0", weight, parameter=True), wt=transposed)
    part = Tensor(torch, "1", moments, view=(4, (2, 3), (3, 1)))
    step = Tensor(torch, "2", np.array([7], np.int64), view=(0, (), ()))
    return {
        "global_step": 400000,
        "network_fn_state_dict": state,
        "optimizer_state_dict": {
            "state": {0: {"step": step, "exp_avg": part}},
            "param_groups": [{"betas": (0.9, 0.999)}],
        },
    }


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_reads_nested_states(tmp_path, torch, form):
    data_pkl, storages = dump(_checkpoint(torch), legacy=form == "legacy")
    path = (write_zip if form == "zip" else write_legacy)(tmp_path / "000000_head.tar", data_pkl, storages)
    read = torch_pickle.load(path)
    assert read["global_step"] == 400000
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(read["network_fn_state_dict"]["w"], weight)
    np.testing.assert_array_equal(read["network_fn_state_dict"]["wt"], weight.T)
    moments = read["optimizer_state_dict"]["state"][0]
    np.testing.assert_array_equal(moments["exp_avg"], (np.arange(12, dtype=np.float32) / 8)[4:10].reshape(2, 3))
    assert moments["step"].dtype == np.int64 and moments["step"].shape == () and int(moments["step"]) == 7
    assert read["optimizer_state_dict"]["param_groups"] == [{"betas": (0.9, 0.999)}]
    assert type(read["network_fn_state_dict"]) is dict


class _Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "hostile",
    [
        lambda mark: _Calls(os.system, f"touch {mark}"),
        lambda mark: _Calls(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: _Calls(getattr, "", "join"),
        lambda mark: {"w": _Calls(open, str(mark), "w")},
    ],
    ids=["system", "eval", "getattr", "open"],
)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_refuses_code(tmp_path, form, hostile):
    mark = tmp_path / "was_run"
    data_pkl = pickle.dumps(hostile(mark), 2)
    path = (write_zip if form == "zip" else write_legacy)(tmp_path / "c.tar", data_pkl, {})
    with pytest.raises(UserError, match="it refers to"):
        torch_pickle.load(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "view",
    [(0, (7,), (1,)), (5, (2,), (1,)), (0, (2,), (6,)), (0, (2,), (-1,)), (-1, (1,), (1,)), (0, (1 << 40,), (0,))],
)
def test_refuses_views_beyond_their_storage(tmp_path, torch, view):
    data_pkl, storages = dump(Tensor(torch, "0", np.zeros(6, np.float32), view))
    with pytest.raises(UserError, match="tensor"):
        torch_pickle.load(write_zip(tmp_path / "c.tar", data_pkl, storages))


def deep(depth: int = 200) -> bytes:
    """The opcodes of a tuple of two times the same tuple, and so on: hashing or printing it takes 2^depth steps."""
    return b")" + b"q\x00h\x00\x86" * depth


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}" + deep() + b"Ns.", "keys that are not plain"),
        (b"}(" + deep() + b"Nu.", "keys that are not plain"),
        (b"(" + deep() + b"Nd.", "keys that are not plain"),
        (b"ccollections\nOrderedDict\n(]" + deep() + b"N\x86atR.", "keys that are not plain"),
        (b"\x8f(" + deep() + b"\x90.", "opcode 0x8f"),
        (b"(" + deep() + b"\x91.", "opcode 0x91"),
        (deep() + b"Q.", "other than a whole tensor storage"),
        (b"U\x07storageQ.", "other than a whole tensor storage"),
        (b"(U\x07storageU\x03<f4" + deep() + b"U\x03cpuK\x01tQ.", "other than a whole tensor storage"),
        (b"(U\x07storageU\x03<f4U\x010U\x03cpu\x88tQ.", "other than a whole tensor storage"),
        (b"(U\x07storageU\x03|O8U\x010U\x03cpuK\x01tQ.", "storage '0' has an impossible type"),
        (b"(U\x07storageU\x03<f4U\x010U\x03cpuJ\xff\xff\xff\xfftQ.", "storage '0' has an impossible type or size"),
        (b"(U\x07storageU\x03<f4U\x010U\x03cpuK\x01tQ}U\x03keyK\x01sb.", "sets attributes on something other"),
    ],
)
def test_refuses_content_that_would_never_finish(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        torch_pickle.load(write_zip(tmp_path / "c.tar", b"\x80\x02" + content, {}))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path):
    # An empty list at memo index 2^28 − 1, for which the unpickler in C allocates 4 GiB.
    with zipfile.ZipFile(tmp_path / "x.tar", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02]r\xff\xff\xff\x0f.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert torch_pickle.load(tmp_path / "x.tar") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_names_what_is_wrong(tmp_path, torch):
    data_pkl, storages = dump(Tensor(torch, "0", np.zeros(6, np.float32)))
    with pytest.raises(UserError, match="truncated"):
        torch_pickle.load(write_zip(tmp_path / "short.tar", data_pkl, {"0": b"\0" * 23}))
    with pytest.raises(UserError, match="missing"):
        torch_pickle.load(write_zip(tmp_path / "lacks.tar", data_pkl, {}))
    with pytest.raises(UserError, match="big-endian"):
        torch_pickle.load(write_zip(tmp_path / "big.tar", data_pkl, storages, byteorder="big"))
    loop = []
    loop.append(loop)
    with pytest.raises(UserError, match="holds itself"):
        torch_pickle.load(write_zip(tmp_path / "loop.tar", pickle.dumps(loop, 2), {}))
    with pytest.raises(UserError, match="not found"):
        torch_pickle.load(tmp_path / "none.tar")
    for junk in (b"", b"not a checkpoint", b"PK\x03\x04 but no zip", data_pkl):
        (tmp_path / "junk").write_bytes(junk)
        with pytest.raises(UserError, match="cannot|not a PyTorch checkpoint"):
            torch_pickle.load(tmp_path / "junk")


@pytest.mark.parametrize("size", [(2**20_000,) * 2000, (1,) * 17, (2**48, 1)])
def test_dimensions_are_limited_before_they_are_multiplied(tmp_path, torch, size):
    bomb = Tensor(torch, "0", np.zeros(4, np.float32), view=(0, size, (0,) * len(size)))
    path = write_zip(tmp_path / "bomb.tar", *dump({"w": bomb}))
    start = time.process_time()
    with pytest.raises(UserError, match="impossible (number of dimensions|shape)"):
        torch_pickle.load(path)
    assert time.process_time() - start < 2
