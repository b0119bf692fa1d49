"""Checkpoints: saved and restored bit for bit, kept, damaged, and refused where models differ."""

import contextlib
import errno
import logging
import os
import resource
import shutil
import types

import chex
import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.training import checkpoint_errors, checkpoints, sharding
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("quick_compilation")

META = {"stage": "head", "family": "fast"}


def make_state(step: int = 3, width: int = 2, frozen=None) -> TrainState:
    """A state whose numbers differ from one step to another."""
    rng = np.random.default_rng(step)
    params = {
        "net": {"kernel": rng.normal(size=(3, width)).astype(np.float32)},
        "grids": rng.normal(size=(4, 2)).astype(np.float32),
    }
    optim = dict(learning_rate=1e-3, decay=0.1, decay_steps=5, grid_multiple=2.0, attention_multiple=5.0)
    tx = make_optimizer(ConfigDict(optim), attention_from=2)
    state = TrainState.create(jax.tree.map(jax.numpy.asarray, params), tx, frozen or {}, tiny.scene())
    moments = jax.tree.map(lambda a: a + 1, state.opt_state)
    whole = sharding.replicated(sharding.make_mesh())
    return jax.device_put(state.replace(step=jax.numpy.int32(step), opt_state=moments), whole)


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)


def save(workdir, *states: TrainState, keep: int = 2) -> None:
    with checkpoints.Saver(workdir, keep) as saver:
        for state in states:
            saver.save(state, META)


def restore(workdir, expected: TrainState, what: str) -> TrainState:
    """The newest state, whatever its metadata."""
    return checkpoints.restore(workdir, expected, what=what, check=lambda meta: None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the state of step 3."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, make_state())
    return folder


@pytest.mark.parametrize("frozen", [{}, {"head": {"kernel": np.arange(6.0, dtype=np.float32)}}])
def test_a_state_comes_back_bit_for_bit(tmp_path, frozen):
    state = make_state(frozen=frozen)
    save(tmp_path, state)
    restored = restore(tmp_path, abstract(state), what="this run")
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_dtypes(restored, state)
    assert int(restored.step) == 3


def test_no_checkpoint(tmp_path):
    assert checkpoints.latest_step(tmp_path / "nothing") is None
    (tmp_path / "checkpoints").mkdir()
    assert checkpoints.latest_step(tmp_path) is None
    state = abstract(make_state())
    for call in (
        lambda: restore(tmp_path, state, what="the head"),
        lambda: checkpoints.restore_params(tmp_path, {"params": state.params}, what="the head"),
    ):
        with pytest.raises(UserError, match="no checkpoint of the head in .*: train it first"):
            call()
    with pytest.raises(UserError, match="no checkpoint of a trained stage"):
        checkpoints.restore_for_use(tmp_path, sharding.replicated(sharding.make_mesh()))


def test_another_shape_is_named(saved):
    wider = abstract(make_state(width=5))
    message = r"checkpoint of the head in .*: params/net/kernel is \(3, 2\) there and \(3, 5\) here"
    with pytest.raises(UserError, match=message):
        restore(saved, wider, what="the head")
    with pytest.raises(UserError, match=message):
        checkpoints.restore_params(saved, {"params": wider.params}, what="the head")


def test_a_parameter_too_many_or_too_few_is_named(saved):
    state = abstract(make_state())
    more = {**state.params, "out": {"bias": state.params["grids"]}}
    with pytest.raises(UserError, match=r"params/out/bias is absent there and \(4, 2\) here"):
        checkpoints.restore_params(saved, {"params": more}, what="the head")
    with pytest.raises(UserError, match=r"params/grids is \(4, 2\) there and absent here"):
        checkpoints.restore_params(saved, {"params": {"net": state.params["net"]}}, what="the head")


def test_every_requested_state_is_written_and_the_newest_two_are_kept(tmp_path):
    # One after the other without waiting: none may be skipped because another is still being written.
    states = [make_state(step) for step in (1, 2, 3, 4)]
    save(tmp_path, *states)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "4"}
    assert checkpoints.latest_step(tmp_path) == 4
    chex.assert_trees_all_equal(restore(tmp_path, abstract(states[3]), what="it"), states[3])


def test_an_unfinished_checkpoint_does_not_count(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    shutil.copytree(copy / "checkpoints/3", copy / "checkpoints/7.orbax-checkpoint-tmp")
    assert checkpoints.latest_step(copy) == 3


def damage(folder, how: str) -> None:
    """What disks and interrupted copies do to a checkpoint."""
    files = sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    largest = files[-1]
    if how == "truncated":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif how == "a bit flipped":
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    elif how == "half missing":
        for file in files[::2]:
            file.unlink()
    else:
        before, after = {"described wrongly": (b"head", b"heap"), "arrays not described": (b"arrays", b"arrbys")}[how]
        for file in files:
            if file.parent.name == "meta":
                file.write_bytes(file.read_bytes().replace(before, after))


@pytest.mark.parametrize(
    "how", ["truncated", "a bit flipped", "half missing", "described wrongly", "arrays not described"]
)
def test_instead_of_a_damaged_checkpoint_the_one_before_is_restored_with_a_message(tmp_path, capsys, how):
    states = [make_state(step) for step in (1, 2)]
    save(tmp_path, *states)
    damage(tmp_path / "checkpoints/2", how)
    whole = sharding.replicated(sharding.make_mesh())
    step, parts = checkpoints.restore_for_use(tmp_path, whole)
    assert step == 1
    chex.assert_trees_all_equal(parts["params"], states[0].params)
    messages = capsys.readouterr().err
    assert f"move {tmp_path / 'checkpoints/2'} away; the one of step 1 is taken" in messages
    restored = restore(tmp_path, abstract(states[0]), what="this run")
    chex.assert_trees_all_equal(restored, states[0])
    assert "damaged checkpoints were moved to" in capsys.readouterr().err
    assert checkpoints.latest_step(tmp_path) == 1 and (tmp_path / "damaged/2").is_dir()


def test_all_checkpoints_are_damaged(saved, tmp_path, capsys):
    copy = shutil.copytree(saved, tmp_path / "copy")
    damage(copy / "checkpoints/3", "a bit flipped")
    with pytest.raises(UserError, match=r"no checkpoint of it in .* can be read \(step 3: "):
        restore(copy, abstract(make_state()), what="it")
    assert "is taken" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files.: raise `ulimit -n`, and run"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied.: let this user read"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle.: check the disk"),
        (ValueError('PERMISSION_DENIED: Failed to open: "d/1": Permission denied [spec]'), "let this user read"),
        (MemoryError(), "MemoryError.: free some memory"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), "RESOURCE_EXHAUSTED.*: free some memory"),
    ],
)
def test_failures_of_the_machine_are_no_damage(tmp_path, monkeypatch, error, message):
    save(tmp_path, *(make_state(step) for step in (1, 2)))

    def hidden(*_):
        try:
            raise error
        except Exception:
            raise KeyError("no handler")  # noqa: B904 - as Orbax does

    monkeypatch.setattr(checkpoints.ocp, "load_checkpointables", hidden)
    with pytest.raises(UserError, match=f"step 2 in .* may not be damage .*{message}"):
        restore(tmp_path, abstract(make_state()), what="it")
    assert checkpoints.latest_step(tmp_path) == 2 and not (tmp_path / "damaged").exists()


def test_files_that_may_not_be_read_are_no_damage(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    save(tmp_path, *(make_state(step) for step in (1, 2)))
    for file in (tmp_path / "checkpoints/2/params/d").iterdir():
        file.chmod(0)
    with pytest.raises(UserError, match="Permission denied.: let this user read its files"):
        restore(tmp_path, abstract(make_state()), what="it")


def test_a_checkpoint_that_goes_away_is_no_damage(tmp_path, monkeypatch):
    save(tmp_path, make_state())
    monkeypatch.setattr(checkpoints.ocp, "load_checkpointables", lambda folder, _: shutil.rmtree(folder)["meta"])
    with pytest.raises(UserError, match="no longer exists"):
        restore(tmp_path, abstract(make_state()), what="it")


def test_reads_that_end_after_the_first_failed_print_no_traceback(caplog):
    messages = []
    hook = checkpoint_errors._without_late_reads(messages.append)
    late = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=None)
    given_up = types.SimpleNamespace(exc_value=Exception("while reading array index"), object=print)
    given_up.exc_value.__cause__ = GeneratorExit()
    others = [
        types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=print),
        types.SimpleNamespace(exc_value=ValueError("another"), object=None),
    ]
    for unraisable in (late, given_up, *others):
        hook(unraisable)
    assert messages == others
    logger = logging.getLogger("asyncio")
    for error in (ValueError("DATA_LOSS: manifest [tensorstore_spec='{}']"), ValueError("another")):
        logger.error("Task exception was never retrieved", exc_info=error)
    assert [str(record.exc_info[1]) for record in caplog.records] == ["another"]


def test_the_best_is_kept_beside_the_newest(tmp_path):
    with checkpoints.Saver(tmp_path, keep=1, best=1) as saver:
        for step, psnr in ((1, 20.0), (2, 30.0), (3, None), (4, 25.0)):
            saver.save(make_state(step), META, psnr)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"2", "4"}


def test_a_full_disk_ends_in_one_line_and_leaves_the_checkpoint_before(tmp_path):
    states = [make_state(step) for step in (1, 2)]
    save(tmp_path, states[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="could not be written into .*checkpoints .*run the same command again"):
            save(tmp_path, states[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.latest_step(tmp_path) == 1
    for _ in range(5):
        # Threads of the failed save may still write for a moment, which those of a command that has ended do not.
        with contextlib.suppress(OSError):
            save(tmp_path, states[1])
            break
    chex.assert_trees_all_equal(restore(tmp_path, abstract(states[1]), what="it"), states[1])
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_use_needs_no_optimizer_state(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints/3/opt_state")
    step, parts = checkpoints.restore_for_use(copy, sharding.replicated(sharding.make_mesh()))
    state = make_state()
    assert step == 3 and parts["frozen"] == {}
    chex.assert_trees_all_equal(parts["params"], state.params)
    chex.assert_trees_all_equal(parts["scene"], state.scene)


def test_parts_are_restored_alone(saved):
    state = make_state()
    parts = checkpoints.restore_params(saved, {"scene": abstract(state).scene}, what="the head")
    assert parts.keys() == {"scene"}
    chex.assert_trees_all_equal(parts["scene"], state.scene)
