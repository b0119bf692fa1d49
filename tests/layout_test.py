"""The order of the rooms (docs/architecture.md): imports go down only, so that each can be read with those below it."""

import ast
import itertools
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "adnerf_jax"
# From the top down. A room imports itself and those after it.
ROOMS = (
    "cli",
    "quickstart",
    "preprocessing",
    "evaluation",
    "inference",
    "training",
    "configuration",
    "data",
    "rendering",
    "models",
    "speech",
    "face",
    "pretrained",
    "media",
    "nerf",
    "common",
)
# Preparation makes datasets and imports nothing of what is trained on them.
APART = {"preprocessing": {"evaluation", "inference", "training", "configuration", "models", "rendering"}}
# Ways in: they are in no room, and no room imports them.
WAYS_IN = {"__init__", "stream_demo"}


def room_of(module: str) -> str:
    return module.split(".")[1]


def module_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: pathlib.Path) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                file = ROOT / name.replace(".", "/")
                yield name if file.with_suffix(".py").exists() or file.is_dir() else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


FILES = {module_of(path): path for path in PACKAGE.rglob("*.py")}
EDGES = {
    module: {other for other in imported(path) if other.startswith("adnerf_jax.") and other != module}
    for module, path in FILES.items()
}


def test_each_module_is_in_a_room():
    rooms = {room_of(module) for module in FILES if "." in module}
    assert rooms - WAYS_IN == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down(room):
    allowed = set(ROOMS[ROOMS.index(room) :]) - APART.get(room, set())
    wrong = [
        f"{module} imports {other}"
        for module, others in EDGES.items()
        if "." in module and room_of(module) == room
        for other in sorted(others)
        if room_of(other) not in allowed
    ]
    assert not wrong


def test_modules_do_not_import_each_other_in_circles():
    left = {module: {other for other in others if other in EDGES} for module, others in EDGES.items()}
    while free := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in free}
    assert not left, f"among these is a circle: {sorted(left)}"


def test_the_package_does_not_import_the_files_beside_it():
    tops = {"configs", "preprocessing", "run", "tests", "benchmarks"}
    found = itertools.chain.from_iterable(imported(path) for path in FILES.values())
    assert not {name for name in found if name.split(".")[0] in tops}
