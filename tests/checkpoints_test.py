"""States on disk: whole, the newest ones, and refused with the name of what differs."""

import shutil

import chex
import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from adnerf_jax import checkpoints, sharding
from adnerf_jax.errors import UserError
from adnerf_jax.optim import make_optimizer
from adnerf_jax.state import TrainState

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
    restored = checkpoints.restore(tmp_path, abstract(state), what="this run")
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_dtypes(restored, state)
    assert int(restored.step) == 3


def test_no_checkpoint(tmp_path):
    assert checkpoints.latest_step(tmp_path / "nothing") is None
    (tmp_path / "checkpoints").mkdir()
    assert checkpoints.latest_step(tmp_path) is None
    state = abstract(make_state())
    for call in (
        lambda: checkpoints.restore(tmp_path, state, what="the head"),
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
        checkpoints.restore(saved, wider, what="the head")
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
    chex.assert_trees_all_equal(checkpoints.restore(tmp_path, abstract(states[3]), what="it"), states[3])


def test_an_unfinished_checkpoint_is_none(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    shutil.copytree(copy / "checkpoints/3", copy / "checkpoints/7.orbax-checkpoint-tmp")
    assert checkpoints.latest_step(copy) == 3


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
