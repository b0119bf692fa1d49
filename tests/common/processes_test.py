"""How processes find each other, by arguments and environment variables."""

import itertools
import types

import pytest

from adnerf_jax.common import processes
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.processes import explicit, index_of, on_cluster
from adnerf_jax.training import sharding


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.setattr(processes.jax.distributed, "initialize", None)
    processes.start(environment={})
    processes.start(count=1, environment={"JAX_COORDINATOR_ADDRESS": "a:1"})
    assert processes.is_main() and processes.all_agree(True) and not processes.all_agree(False)


def test_arguments_come_before_the_environment():
    environment = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
    assert explicit(None, None, None, environment) == ("a:1", 4, 3)
    assert explicit("b:2", 2, 0, environment) == ("b:2", 2, 0)
    pod = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"}
    assert explicit(None, None, None, pod) == ("a:1", 2, 1)
    assert explicit(None, None, None, {"JOB_COMPLETION_INDEX": "1"}) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a:1", None, None), "each of several processes needs all of coordinator=HOST:PORT processes=N process=I"),
        (("a:1", 2, None), "each of several processes needs all of"),
        ((None, 2, 1), "each of several processes needs all of"),
        (("a", 2, 1), "coordinator=a processes=2 process=1: the first must be HOST:PORT"),
        (("a:1", 2, 2), "numbered from 0 to N - 1"),
        (("a:1", 2, -1), "numbered from 0 to N - 1"),
    ],
)
def test_incomplete_or_wrong_arguments_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        explicit(*given, {})


def test_the_environment_must_hold_numbers():
    with pytest.raises(UserError, match="are numbers"):
        explicit(None, None, None, {"JAX_NUM_PROCESSES": "two"})


SLURM = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, False),
        (SLURM, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "8"}, False),  # sbatch itself, outside of srun
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "0"}, False),
    ],
)
def test_clusters_are_detected_by_their_environment_variables(environment, found):
    assert on_cluster(environment) == found


def test_a_pod_that_cannot_find_the_others_does_not_train_alone():
    with pytest.raises(UserError, match="one of several pods"):
        on_cluster({"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "1"})


def test_processes_that_do_not_find_each_other_are_an_error(monkeypatch):
    def unreachable(*args, **kwargs):
        raise RuntimeError("DEADLINE_EXCEEDED:\n timed out")

    monkeypatch.setattr(processes.jax.distributed, "initialize", unreachable)
    with pytest.raises(UserError, match="did not find each other .DEADLINE_EXCEEDED: timed out.: check that host"):
        processes.start("a:1", 2, 1, {})


def test_unequal_numbers_of_devices_are_refused(monkeypatch):
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *args, **kwargs: None)
    devices = [types.SimpleNamespace(process_index=i) for i in (0, 0, 1)]
    monkeypatch.setattr(processes.jax, "devices", lambda: devices)
    with pytest.raises(UserError, match="the same number of devices, there are 2 in process 0, 1 in process 1"):
        processes.start("a:1", 2, 1, {})


class Store:
    """A stand-in for the key-value store of the coordination service."""

    def __init__(self):
        self.values, self.met = {}, []

    def key_value_set(self, key, value):
        self.values[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        return self.values[key]

    def wait_at_barrier(self, name, milliseconds):
        self.met.append(name)


def test_process_0_decides(monkeypatch):
    store = Store()
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.distributed.global_state, "client", store)
    agreed = []
    for index, seen in ((0, [40, 20]), (1, [20])):
        monkeypatch.setattr(processes, "_meetings", itertools.count(3))
        monkeypatch.setattr(processes.jax, "process_index", lambda index=index: index)
        agreed.append(processes.as_main(seen))
    assert agreed == [[40, 20]] * 2 and list(store.values) == ["adnerf_jax/3"]
    processes.wait_for_all("here")
    assert store.met == ["adnerf_jax 4 here"]


def test_hosts_of_a_pod_that_have_not_joined_do_not_wait_for_each_other(monkeypatch):
    """In a sharded evaluation, JAX counts the pod's processes, but there is no coordination service."""
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    assert processes.all_agree(True) and not processes.all_agree(False) and processes.as_main([7]) == [7]
    processes.wait_for_all("here")
    with pytest.raises(UserError, match="counts 2 hosts .* give each host its own chips"):
        sharding.make_mesh()


def test_the_index_of_this_process():
    assert index_of(None, {}) == 0 and index_of(2, SLURM) == 2 and index_of(None, SLURM) == 1
    assert index_of(None, {"JOB_COMPLETION_INDEX": "3"}) == 3 and index_of(None, {"SLURM_PROCID": ""}) == 0
