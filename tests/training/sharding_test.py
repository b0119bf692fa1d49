"""One device and eight: the same numbers. The eight are virtual, in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.training import sharding
from adnerf_jax.training.stages import example_batch

HERE = pathlib.Path(__file__).parents[1]

EIGHT = """
import json, sys
import jax, numpy as np
import tiny
from adnerf_jax.common.errors import UserError
from adnerf_jax.data.datasets import load_dataset
from adnerf_jax.training import checkpoints, sharding

assert jax.device_count() == 8
jax.config.update("jax_disable_most_optimizations", True)
data, workdir = sys.argv[1:]
config = tiny.config("head", data)
first = tiny.first_state(config)
one, _ = tiny.losses_of_steps(config, first, jax.devices()[:1], 3)
eight, state = tiny.losses_of_steps(config, first, jax.devices(), 3)
mesh = sharding.make_mesh()
batch = tiny.ray_sampler(config, load_dataset(data)).batch(0)
placed = sharding.put(batch, sharding.batch_sharding(mesh, batch))
same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), jax.device_get(placed), batch)
try:
    sharding.check_divides(48, 4, 1, mesh)
    message = ""
except UserError as error:
    message = str(error)

# Written by eight devices, read by one.
with checkpoints.Saver(workdir, 1) as saver:
    saver.save(state, {})
alone = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
expected = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=alone), state)
restored = checkpoints.restore(workdir, expected, what="this run", check=lambda meta: None)
equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), jax.device_get(restored), jax.device_get(state))
print(json.dumps({
    "one": one,
    "eight": eight,
    "target": placed.target.addressable_shards[0].data.shape,
    "transforms": placed.transforms.addressable_shards[0].data.shape,
    "same": all(jax.tree.leaves(same)),
    "message": message,
    "restored": all(jax.tree.leaves(equal)),
    "devices": len(jax.tree.leaves(restored.params)[0].devices()),
}))
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes(tiny_data, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    paths = os.pathsep.join(map(str, (HERE.parent, HERE)))
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(tiny_data), str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    # Means over rays are added in another order, 1e-7 relative, and Adam's first steps magnify that where a gradient
    # is almost zero.
    np.testing.assert_allclose(result["eight"], result["one"], rtol=1e-5)
    assert result["one"][0] != result["one"][1]
    # 4 frames of 32 rays: every device has all frames and an eighth of the rays of each.
    assert result["target"] == [4, 4, 3] and result["transforms"] == [4, 4, 4]
    assert result["same"] and result["restored"] and result["devices"] == 1
    assert "12 rays a frame (48 of 4 frame(s)) cannot be split over 8 device(s)" in result["message"]
    assert "use train.rays=64" in result["message"]


def test_host_arrays_arrive_as_they_are():
    mesh = sharding.make_mesh(jax.devices()[:1])
    batch = jax.tree.map(lambda a: a + np.float32(0.5), example_batch(8, 2, (16, 3)))
    placed = sharding.put(batch, sharding.batch_sharding(mesh, batch))
    for ours, theirs in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert len(ours.devices()) == 1


def test_one_device_takes_any_number_of_rays():
    sharding.check_divides(7, 1, 1, sharding.make_mesh(jax.devices()[:1]))


def test_more_devices_than_divide_the_rays():
    class Mesh:
        size = 3

    with pytest.raises(
        UserError, match=r"8 rays a frame \(8 of 1 frame\(s\)\) cannot be split over 3 device\(s\) in 1 "
    ):
        sharding.check_divides(8, 1, 1, Mesh())
    sharding.check_divides(24, 1, 4, Mesh())
    with pytest.raises(UserError, match="use train.rays=48, .* must be a multiple of 12$"):
        sharding.check_divides(36, 2, 4, Mesh())


def test_the_parts_of_a_batch_are_the_batch():
    rng = np.random.default_rng(0)
    batch = jax.tree.map(lambda a: rng.random(a.shape).astype(np.float32), example_batch(12, 2, (16, 3)))
    parts = jax.jit(lambda b: sharding.split_rays(b, 3))(batch)
    for name in ("pixels", "target", "background"):
        whole, part = getattr(batch, name), np.asarray(getattr(parts, name))
        assert part.shape == (3, 2, 4, whole.shape[-1])
        for p in range(3):
            # Every third ray: each of the devices that hold neighbouring rays has its share in every part.
            np.testing.assert_array_equal(part[p], whole[:, p::3])
    for ours, theirs in zip(
        jax.tree.leaves((parts.transforms, parts.conditions)),
        jax.tree.leaves((batch.transforms, batch.conditions)),
        strict=True,
    ):
        assert len(ours) == 3
        for part in ours:
            np.testing.assert_array_equal(part, theirs)
