"""The launch guides: their shells read them, and what they name is there."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_scripts_can_be_read_and_explain_themselves(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    told = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert told.returncode == 2 and f"launch/{script.name}" in told.stderr and "#!" not in told.stderr


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
