"""The launch guides: scripts start the real program, and the container can be built."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

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
    command = ["bash", str(ROOT / "launch" / script), "a", "b", "c", "d", "e"]
    status = subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode
    return status, (folder / "called").read_text().splitlines()


# What a cluster's commands do with the training, on this machine: srun starts it, and ssh gives it to a shell at home.
_CLUSTER = {
    "srun": 'shift; exec "$@"',
    "gcloud": 'for word; do case $word in --command=*) HOME=$PWD bash -c "${word#*=}"; exit ;; esac; done; exit 9',
}


@pytest.mark.parametrize(
    ("script", "before", "config", "options", "status", "says"),
    [
        (
            "multi_gpu.sh",
            [],
            "configs/torso.py:fast,smoke",
            ["--dry_run", "--config.train.rays=64"],
            0,
            "a step: 64 rays",
        ),
        # The torso alone needs a head, and only the fast family has a grid.
        (
            "slurm.sh",
            [],
            "configs/torso.py:fast",
            ["--config.model.torso.grid.levels=3"],
            2,
            "no checkpoint of the head",
        ),
        (
            "tpu_pod.sh",
            ["name", "zone"],
            "configs/head.py:fast",
            ["--config.model.head.grid.levels=0"],
            2,
            "head.grid.levels",
        ),
        ("tpu_pod.sh", ["name", "zone"], "configs/torso.py:fast", [], 2, "no checkpoint of the head in"),
    ],
)
def test_scripts_start_the_configuration_that_is_given(
    tmp_path, tiny_data, script, before, config, options, status, says
):
    checkout = tmp_path / "adnerf_jax"
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name in ("run.py", "configs", "adnerf_jax"):
        (checkout / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "launch", checkout / "launch")
    for name, body in _CLUSTER.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
    for path in (*tmp_path.glob("*"), checkout / ".venv/bin/python"):
        path.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}
    data = shutil.copytree(tiny_data, tmp_path / "my data")
    command = ["bash", str(checkout / "launch" / script), *before, config, str(tmp_path / "W" / "torso"), str(data)]
    # ssh begins in the home folder, the others in the checkout.
    started = subprocess.run(
        [*command, *options],
        cwd=tmp_path if script == "tpu_pod.sh" else checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert started.returncode == status and says in started.stderr, started.stderr


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


def _instructions() -> list[tuple[str, str]]:
    """The instructions of the container file, with their arguments."""
    lines = (ROOT / "launch/Dockerfile").read_text().splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def test_the_container_has_what_it_starts():
    instructions = _instructions()
    named = [name for name, _ in instructions]
    assert set(named) <= {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "ENTRYPOINT"}
    version = re.fullmatch(r"python:(3\.\d+)-slim", dict(instructions)["FROM"])[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = re.fullmatch(r">=(3\.\d+)", project["requires-python"])[1]
    assert [int(n) for n in version.split(".")] >= [int(n) for n in least.split(".")]
    requirements = dict(instructions)["ARG"].removeprefix("REQUIREMENTS=")
    for name in (requirements, "requirements-tpu.txt"):
        assert "-r requirements.txt" in (ROOT / name).read_text()
    # The requirements are there before they are installed, and the program in the working folder at the end.
    copied = [i for i, (name, _) in enumerate(instructions) if name == "COPY"]
    installed = next(i for i, (name, what) in enumerate(instructions) if name == "RUN" and "pip install" in what)
    assert copied[0] < installed < copied[1] and named.index("WORKDIR") < copied[0]
    assert instructions[copied[0]][1] == "requirements*.txt ./" and instructions[copied[1]][1] == ". ."
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "runs"} <= set(left_out)
    entry = re.findall(r'"([^"]+)"', dict(instructions)["ENTRYPOINT"])
    assert entry[0] == "tini" and any(name == "RUN" and "tini" in what for name, what in instructions)
    assert entry[2] == "python" and (ROOT / entry[3]).is_file()
    assert not any((ROOT / entry[3]).match(pattern) for pattern in left_out)


def _docker_works() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.slow
def test_the_container_is_built_and_starts():
    if not _docker_works():
        pytest.skip("docker is not installed, or its daemon cannot be reached")
    build = ["docker", "build", "-q", "-f", "launch/Dockerfile", "--build-arg", "REQUIREMENTS=requirements.txt", "."]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    image = built.stdout.strip()
    try:
        ran = subprocess.run(["docker", "run", "--rm", image, "--help"], capture_output=True, text=True)
        assert ran.returncode == 0 and "usage: python run.py" in ran.stdout, ran.stderr
    finally:
        subprocess.run(["docker", "rmi", image], capture_output=True)
