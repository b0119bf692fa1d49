"""Several processes of one run: how they join, which of them writes, and how they agree."""

import collections
import contextlib
import glob
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from adnerf_jax.common.errors import Option, UserError, join_options
from adnerf_jax.common.progress import silence

T = TypeVar("T")
# Seconds without a heartbeat after which a process counts as lost, also where others wait for it at the end.
_DEAD_AFTER = 30
_PATIENCE = 3600  # seconds that processes wait for each other while one of them prepares
_meetings = itertools.count()
_COORDINATOR, _COUNT, _INDEX = Option("coordinator", "HOST:PORT"), Option("processes", "N"), Option("process", "I")
# Exit status of a process whose run has lost another one.
LOST = 76


def start(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Joins the processes of a run, where there are several; called before anything else that uses JAX.

    TPU pods, Slurm, Open MPI and Kubernetes are found by their environment variables. Elsewhere the arguments are
    needed, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      coordinator: host:port of process 0.
      count: number of processes.
      index: index of this process, from 0.
      environment: environment variables.

    Raises:
      UserError: only some of the three are known, other processes were not found, or numbers of devices differ.
    """
    known = explicit(coordinator, count, index, environment)
    if known is None and not on_cluster(environment):
        return
    address, number, rank = known or (None, None, None)
    try:
        jax.distributed.initialize(
            address,
            number,
            rank,
            heartbeat_timeout_seconds=_DEAD_AFTER,
            shutdown_timeout_seconds=_DEAD_AFTER,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the processes of this run did not find each other ({reason}): check that host and port of process 0 can "
            f"be reached from all, or give ",
            *join_options([_COORDINATOR, _COUNT, _INDEX]),
        ) from None
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} in process {number}" for number, count in sorted(counts.items()))
        raise UserError(f"each process needs the same number of devices, there are {found}: hide the surplus ones")
    if not is_main():
        silence()


def explicit(
    coordinator: str | None, count: int | None, index: int | None, environment: Mapping[str, str]
) -> tuple[str, int, int] | None:
    """Coordinator, number of processes and index of this one, as given by arguments or environment.

    Returns:
      None where nothing is given, or the number of processes is 1.

    Raises:
      UserError: a part is missing, or is not a valid number.
    """
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    try:
        count = int(environment["JAX_NUM_PROCESSES"]) if count is None and "JAX_NUM_PROCESSES" in environment else count
        for name in ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"):
            if index is None and count is not None and name in environment:
                index = int(environment[name])
    except ValueError as error:
        raise UserError(f"JAX_NUM_PROCESSES, JAX_PROCESS_ID and JOB_COMPLETION_INDEX are numbers: {error}") from None
    if count == 1 or (coordinator, count, index) == (None, None, None):
        return None
    if coordinator is None or count is None or index is None:
        raise UserError(
            "each of several processes needs all of ",
            *join_options([_COORDINATOR, _COUNT, _INDEX]),
            " (the address of process 0), or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
        )
    if ":" not in coordinator or not 0 <= index < count:
        raise UserError(
            *join_options([Option("coordinator", coordinator), Option("processes", count), Option("process", index)]),
            ": the first must be HOST:PORT, and processes are numbered from 0 to N - 1",
        )
    return coordinator, count, index


def index_of(index: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """Index of this process in its run, known without joining it: 0 where it is alone."""
    names = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID", "JOB_COMPLETION_INDEX")
    known = [environment[name] for name in names if environment.get(name, "").isdigit()]
    return index if index is not None else int(known[0]) if known else 0


def on_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this is one of several processes that JAX detects.

    Raises:
      UserError: it is one of several, and they cannot be found.
    """
    if int(environment.get("SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_NODELIST" in environment:
        return True
    if int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return True
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    # A virtual machine of a TPU pod is recognised by its devices; JAX reads the rest from the machine's metadata.
    if importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        return "TPU_SKIP_MDS_QUERY" not in environment
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes"):
            return True
        if environment["JOB_COMPLETION_INDEX"] != "0":
            raise UserError(
                "this is one of several pods of a Kubernetes job, which cannot find the others: set "
                "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES (launch/jobset.yaml), or install `kubernetes`"
            )
    return False


def is_main() -> bool:
    """Whether this process writes logs, settings and pictures."""
    return jax.process_index() == 0


def alone() -> bool:
    """Whether this process is the only one, or has not joined the others (`start`).

    The latter happens on the hosts of a TPU pod, whose devices JAX lists without joining them.
    """
    return jax.process_count() == 1 or distributed.global_state.client is None


def check_joined() -> None:
    """Raises UserError where JAX lists devices of hosts that were not joined, which cannot be used."""
    if alone() and jax.process_count() > 1:
        raise UserError(
            f"JAX counts {jax.process_count()} hosts of a TPU slice, which only training joins: give each host "
            f"its own chips, as with TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 for four of them"
        )


def as_main(value: T) -> T:
    """Process 0's `value`, a JSON value, in all processes: on a network file system not all may see the same files."""
    if alone():
        return value
    client, key = _client(), f"adnerf_jax/{next(_meetings)}"
    if is_main():
        client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(client.blocking_key_value_get(key, _PATIENCE * 1000))


def all_agree(value: bool) -> bool:
    """Whether `value` holds in all processes."""
    if alone():
        return value
    wait_for_all("to agree")
    return bool(np.all(multihost_utils.process_allgather(np.asarray(value))))


def wait_for_all(name: str) -> None:
    """Waits until all processes call it; they must do so with the same names in the same order.

    It uses JAX's coordination service. The public barrier is a collective, and on CPUs a collective fails when one
    process reaches its first one more than 30 seconds before another, which may still decode frames.
    """
    if not alone():
        number = next(_meetings)
        _client().wait_at_barrier(f"adnerf_jax {number} {name}", _PATIENCE * 1000)


def _client() -> Any:
    """The client of JAX's coordination service, an extension type without annotations; there is one after `start`."""
    return distributed.global_state.client


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A context that ends this process with a message and status 76 when another one of the run is lost.

    JAX's runtime notices that too, within `_DEAD_AFTER` seconds, and then ends the process with its own message; where
    a step waits for the lost process, the step's error comes first.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = " ".join(str(error).split())[:200]
        print(
            f"error: process {jax.process_index()} cannot continue, as when another process of the run has ended "
            f"({reason}); run the same command again in all of them to resume from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        # A normal exit would wait for the lost process.
        os._exit(LOST)
