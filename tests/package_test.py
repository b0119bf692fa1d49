"""The package: what the wheel holds, and that it works without the checkout."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import types
import zipfile

import pytest

from adnerf_jax.cli import parse_command

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ("adnerf_jax", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
SAY = """
import sys, pathlib
import adnerf_jax
from adnerf_jax import Avatar
assert pathlib.Path(adnerf_jax.__file__).is_relative_to(sys.prefix), adnerf_jax.__file__
print(Avatar.load(sys.argv[1]).write(sys.argv[3], sys.argv[2], duration=0.2, size=32))
"""


def requirements(name: str) -> list[str]:
    """The lines of a requirements file and of those that it includes, but for those of requirements.txt."""
    found = []
    for line in (ROOT / name).read_text().splitlines():
        included = re.match(r"-r (\S+)", line)
        if included and included[1] != "requirements.txt":
            found += requirements(included[1])
        elif line and not line.startswith(("#", "-r")):
            found.append(line)
    return found


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_extras_are_the_requirement_files(extra):
    assert sorted(PROJECT["optional-dependencies"][extra]) == sorted(requirements(f"requirements-{extra}.txt"))


@pytest.mark.parametrize("name", ["head:fast", "configs/head.py:fast"])
def test_packaged_configurations_are_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = parse_command(["adnerf", f"--config={name}", "--config.train.steps=3"])
    assert (command.config.family, command.config.train.steps) == ("fast", 3)


def test_a_file_of_the_working_folder_comes_before_the_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "head.py").write_text(
        "from adnerf_jax.configuration.head import get_config as base\n"
        "def get_config(arg=None):\n"
        "    config = base(arg)\n"
        "    config.seed = 7\n"
        "    return config\n"
    )
    assert parse_command(["adnerf", "--config=configs/head.py:fast"]).config.seed == 7


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> pathlib.Path:
    """A copy of what the package is built from, since setuptools writes beside it."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(sources) -> pathlib.Path:
    """The built wheel."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=sources, check=True)
    (built,) = (sources / "dist").glob("*.whl")
    return built


def make_environment(folder: pathlib.Path, *install: object) -> pathlib.Path:
    """A new environment with the package; its dependencies are those of the environment of the tests.

    Args:
      folder: where.
      install: what pip installs, with its options.

    Returns:
      its Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps"]
    subprocess.run([*map(str, (*command, *install))], check=True)
    return python


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> types.SimpleNamespace:
    """A new environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    make_environment(folder, wheel)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess:
        away = folder / "elsewhere"
        away.mkdir(exist_ok=True)
        words = [folder / "bin" / program, *arguments]
        return subprocess.run(
            list(map(str, words)), cwd=away, env=environment, capture_output=True, text=True, check=False
        )

    return types.SimpleNamespace(run=run)


@pytest.mark.slow
def test_nothing_with_a_generic_name_lands_beside_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"adnerf_jax", f"adnerf_jax-{PROJECT['version']}.dist-info"}
    assert "adnerf_jax/py.typed" in names and "adnerf_jax/preprocessing/synthetic_subject/film.py" in names


@pytest.mark.slow
def test_the_installed_package_renders_without_the_checkout(installed, trained, tmp_path):
    done = installed.run("python", "-c", SAY, trained.torso, trained.sound, tmp_path / "talk.mp4")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "talk.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_an_editable_install_runs_the_sources(sources, tmp_path):
    python = make_environment(tmp_path / "environment", "--no-build-isolation", "--editable", sources)
    code = "import adnerf_jax; print(adnerf_jax.__file__)"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(sources / "adnerf_jax" / "__init__.py")


@pytest.mark.slow
def test_the_console_commands_work_without_the_checkout(installed, trained):
    planned = installed.run("adnerf", "--config=head:fast,smoke", f"--config.data={trained.data}", "--dry_run")
    assert planned.returncode == 0, planned.stderr
    assert "GFLOP" in planned.stderr
    refused = installed.run("adnerf", "--config=nose:fast")
    assert refused.returncode == 2 and "there is no configuration file nose" in refused.stderr
    prepared = installed.run("adnerf-prepare", "--help")
    assert prepared.returncode == 0 and "usage: adnerf-prepare" in prepared.stdout
