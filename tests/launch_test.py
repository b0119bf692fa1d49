"""The launch guides: scripts parse, and the files that they name exist."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_scripts_parse_and_print_their_usage(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    usage = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert usage.returncode == 2 and f"launch/{script.name}" in usage.stderr and "#!" not in usage.stderr


def launch(script: str, folder: pathlib.Path, statuses: list[int], **environment: str) -> tuple[int, list[str]]:
    """Runs a script with stand-ins for a cluster's commands; its status, and what it called.

    Args:
      script: its name.
      folder: where the stand-ins are written.
      statuses: exit statuses of the training, one for each start.
    """
    (folder / "left").write_text("".join(f"{status}\n" for status in statuses))
    for name in ("srun", "gcloud", "scontrol", "sleep"):
        end = "" if name in ("scontrol", "sleep") else 'status=$(head -n1 left); sed -i 1d left; exit "$status"\n'
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> called\n{end}')
        (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"} | environment
    command = ["bash", str(ROOT / "launch" / script), "a", "b", "c", "d"]
    status = subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode
    return status, (folder / "called").read_text().splitlines()


@pytest.mark.parametrize("status", [0, 1, 2, 75, 76, 134, 137])
def test_a_slurm_job_is_requeued_when_it_can_resume(tmp_path, status):
    ended, called = launch("slurm.sh", tmp_path, [status])
    assert ended == status and "--kill-on-bad-exit=0" in called[0]
    assert called[1:] == (["scontrol requeue 7"] if status >= 75 else [])


def test_a_slurm_job_is_not_requeued_for_ever(tmp_path):
    assert len(launch("slurm.sh", tmp_path, [76], SLURM_RESTART_COUNT="100")[1]) == 1


@pytest.mark.parametrize(("statuses", "ended"), [([75, 76, 137, 0], 0), ([75, 2], 2), ([255], 255)])
def test_a_pod_restarts_when_it_can_resume(tmp_path, statuses, ended):
    status, called = launch("tpu_pod.sh", tmp_path, statuses)
    assert status == ended and [line.split()[0] for line in called] == ["gcloud", "sleep"] * (len(statuses) - 1) + [
        "gcloud"
    ]


def test_the_job_set_is_consistent():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())
    name, (job,) = jobs["metadata"]["name"], jobs["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == int(environment["JAX_NUM_PROCESSES"])
    # JobSet names pods <set>-<job>-<replica>-<index>, in a subdomain that is called like the set.
    assert environment["JAX_COORDINATOR_ADDRESS"].split(":")[0] == f"{name}-{job['name']}-0-0.{name}"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def test_the_container_installs_requirements_that_exist():
    text = (ROOT / "launch/Dockerfile").read_text()
    for name in ("requirements-cuda.txt", "requirements-tpu.txt"):
        assert name in text and "-r requirements.txt" in (ROOT / name).read_text()
