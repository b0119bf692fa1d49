"""Several processes of one run: how they find each other, which of them writes, and how they agree."""

import collections
import contextlib
import glob
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import silence

T = TypeVar("T")
# A process that does not answer for so long is taken for dead; those that wait for it at the end give up after it.
_DEAD_AFTER = 30
_PATIENCE = 3600  # seconds that processes wait for each other while one of them prepares
_meetings = itertools.count()
# Exit status of a process whose run has lost another one.
LOST = 76


def start(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Joins the processes of a run, where there are several: before anything else is asked of JAX.

    TPU pods, Slurm, Open MPI and Kubernetes are found by what they leave in the environment; elsewhere the arguments
    tell, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      coordinator: host:port of process 0.
      count: number of processes.
      index: of this process, from 0.
      environment: where to look.

    Raises:
      UserError: only a part of the three is known, the others were not found, or they have not as many devices.
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
            f"be reached from all, or give --coordinator=HOST:PORT --processes=N --process=I"
        ) from None
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} in process {number}" for number, count in sorted(counts.items()))
        raise UserError(f"JAX needs as many devices in each process, there are {told}: hide those too many")
    if not is_main():
        silence()


def explicit(
    coordinator: str | None, count: int | None, index: int | None, environment: Mapping[str, str]
) -> tuple[str, int, int] | None:
    """Coordinator, number of processes and own index as given; None where nothing is given, or one process alone.

    Raises:
      UserError: a part is missing, or the numbers are none.
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
            "of several processes each must know all of --coordinator=HOST:PORT (of process 0), --processes=N and "
            "--process=I, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        )
    if ":" not in coordinator or not 0 <= index < count:
        raise UserError(
            f"--coordinator={coordinator} --processes={count} --process={index}: the first is HOST:PORT, and processes "
            f"are numbered from 0 to N - 1"
        )
    return coordinator, count, index


def index_of(index: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """This process's number in its run, without joining it: 0 where it is alone."""
    names = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID", "JOB_COMPLETION_INDEX")
    known = [environment[name] for name in names if environment.get(name, "").isdigit()]
    return index if index is not None else int(known[0]) if known else 0


def on_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this is one of several processes that JAX can find by itself.

    Raises:
      UserError: it is one of several, and they cannot be found.
    """
    if int(environment.get("SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_NODELIST" in environment:
        return True
    if int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return True
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    # A virtual machine of a TPU pod says so by its devices; JAX asks the machine's metadata for the rest.
    if importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        return "TPU_SKIP_MDS_QUERY" not in environment
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes"):
            return True
        if environment["JOB_COMPLETION_INDEX"] != "0":
            raise UserError(
                "this is one of several pods of a Kubernetes job, which does not know the others: set "
                "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES (launch/jobset.yaml), or install `kubernetes`"
            )
    return False


def is_main() -> bool:
    """Whether this process writes logs, settings and pictures."""
    return jax.process_index() == 0


def alone() -> bool:
    """Whether this process meets no other: it is the only one, or has not joined the others (`start`).

    The latter with the hosts of a TPU pod, whose devices JAX shows without it.
    """
    return jax.process_count() == 1 or distributed.global_state.client is None


def check_joined() -> None:
    """Raises UserError where JAX shows other hosts that were not joined, of whose devices no step can be made."""
    if alone() and jax.process_count() > 1:
        raise UserError(
            f"JAX counts {jax.process_count()} hosts of a TPU slice, which only a training joins: give each host "
            f"its own chips, as by TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 for four of them"
        )


def as_main(value: T) -> T:
    """Process 0's `value`, of JSON, in all processes: on a network file system not all may see the same."""
    if alone():
        return value
    client, key = distributed.global_state.client, f"adnerf_jax/{next(_meetings)}"
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
    """Until all processes are here; all of them call it with the same names in the same order.

    By JAX's coordination service: its public barrier is a collective, and on CPUs those give up when one process comes
    to its first one more than 30 seconds before another, as it may when that one has frames to decode.
    """
    if not alone():
        number = next(_meetings)
        distributed.global_state.client.wait_at_barrier(f"adnerf_jax {number} {name}", _PATIENCE * 1000)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process with a message and status 76 when another one of the run has gone.

    JAX's runtime notices that by itself too, within `_DEAD_AFTER` seconds, and then ends the process with its own
    message; where a step waits for the lost process, its error comes first.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = " ".join(str(error).split())[:200]
        print(
            f"error: process {jax.process_index()} cannot go on, as when another process of the run has ended "
            f"({reason}); run the same command again in all of them to go on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        # The runtime's own end would wait for the process that is gone.
        os._exit(LOST)
