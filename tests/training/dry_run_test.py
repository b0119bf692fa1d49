"""The cost of a step, from the compiled program."""

import re

import jax
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.training import sharding
from adnerf_jax.training.dry_run import collective_bytes, list_collectives, plan_step, say_plan
from benchmarks.scaling import DEVICES, Work, efficiency, restoring_batch, ring, step_seconds

pytestmark = pytest.mark.usefixtures("quick_compilation")

HLO = """HloModule jit_update, entry_computation_layout={()->f32[]}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (arg: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %all-reduce.1 = f32[4,2]{1,0} all-reduce(%g), replica_groups=[1,8]<=[8], to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[] {
  %loop = (s32[], f32[4,2]{1,0}) while(%init), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %all-reduce.2 = (f32[10]{0}, bf16[6]{0}) all-reduce(%a, %b), to_apply=%add
  %gathered = f32[8]{0} all-gather(%d), dimensions={0}
  ROOT %r = f32[] add(%s, %t)
}
"""


def test_collectives_are_counted_as_often_as_they_run():
    assert collective_bytes(HLO) == {"all-reduce": 3 * 32 + 40 + 12, "all-gather": 32}
    assert collective_bytes("HloModule nothing\n") == {}


def test_a_plan_counts_state_and_batch(dataset, tiny_data):
    settings = tiny.config("head", tiny_data)
    mesh = sharding.make_mesh(jax.devices()[:1])
    state = tiny.first_state(settings)
    plan = plan_step(settings, dataset.camera, state.scene, (16, 8), 4, mesh)
    size = sum(a.nbytes for a in jax.tree.leaves(state.params))
    assert plan.parameters == size and 3 * size < plan.state < 4 * size
    batch = tiny.ray_sampler(settings, dataset).batch(0)
    assert plan.transferred == sum(a.nbytes for a in jax.tree.leaves(batch))
    assert plan.collectives == {} and plan.flop > 1e5 and plan.memory > plan.state


def test_the_plan_is_printed_and_nothing_is_written(tiny_data, capsys):
    before = sorted(tiny_data.rglob("*"))
    say_plan(tiny.config("head", tiny_data))
    said = capsys.readouterr().err
    assert "2 cpu device(s) of 1 process(es)" in said and "128 rays of 4 frame(s), 64 on each device" in said
    assert "moved in a step: to each device" in said
    assert re.search("between devices: .*all-reduce", said)  # of the gradients
    assert sorted(tiny_data.rglob("*")) == before
    with pytest.raises(UserError, match="no dataset at"):
        say_plan(tiny.config("head", tiny_data / "gone"))


def test_collectives_in_words():
    assert list_collectives({}) == "none"
    assert list_collectives({"all-reduce": 2048, "all-gather": 12}) == "all-reduce 2.0 KiB, all-gather 12 B"


def test_predictions_follow_the_formula():
    device = DEVICES[0]
    assert ring(1e9, 1, 1e9, 1.0) == 0 and ring(1e9, 2, 1e9, 0.0) == pytest.approx(1.0)
    work = Work(flop=1e15, accessed=0.0, fixed=0.0, reduced=0.0)
    assert step_seconds(work, device, 1) == pytest.approx(1e15 / (989e12 * 0.4) + 20e-6)
    assert efficiency(work, device, 1) == 1 and efficiency(work, device, 256) > 0.9
    small = Work(flop=1e9, accessed=0.0, fixed=0.0, reduced=1e6)
    assert efficiency(small, device, 256) < 0.1
    factor = restoring_batch(small, device, 256)
    larger = small._replace(flop=small.flop * factor)
    assert (
        efficiency(larger, device, 256) >= 0.8 > efficiency(small._replace(flop=small.flop * factor / 2), device, 256)
    )
