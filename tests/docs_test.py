"""README and docs: their commands parse; the files, settings, messages and links that they name exist."""

import argparse
import ast
import builtins
import functools
import html
import importlib
import importlib.util
import inspect
import pathlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator

import layout_test
import pytest
from ml_collections import ConfigDict

from adnerf_jax import cli
from adnerf_jax.configuration.flatten import flatten

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# Placeholders for numbers and files in commands.
PLACEHOLDERS = {"--processes=N": "--processes=2", "--process=I": "--process=0"}
# Third-party programs: their options are not checked, the files given to them are.
EXTERNAL = {"arecord", "ffplay", "gcloud", "docker", "sbatch", "kubectl"}
# Programs of the developer's environment, and the packages that install them.
TOOLS = {"ruff": "ruff", "mypy": "mypy", "mkdocs": "mkdocs-material"}


def ids(path: pathlib.Path) -> str:
    return path.name


def text_of(path: pathlib.Path) -> str:
    return path.read_text()


def prose_of(path: pathlib.Path) -> str:
    return BLOCK.sub("", text_of(path))


def spans_of(path: pathlib.Path) -> Iterator[str]:
    """Inline code; a command may be broken across lines."""
    return (" ".join(span.split()) for span in SPAN.findall(prose_of(path)))


def commands_of(path: pathlib.Path) -> Iterator[tuple[list[str], bool]]:
    """Words of each command, chains and pipelines taken apart, and whether it is complete: inline code may not be."""
    shown = [block for language, block in BLOCK.findall(text_of(path)) if language in ("", "bash", "sh", "console")]
    lines = [(line, True) for block in shown for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    lines += [(span, False) for span in spans_of(path) if is_command(span)]
    for line, complete in lines:
        words = shlex.split(line, comments=True)
        start = 0
        for end, word in [*enumerate(words), (len(words), "&&")]:
            if word in ("&&", "|", ">"):
                if words[start:end] and words[start - 1 : start] != [">"]:
                    yield words[start:end], complete
                start = end + 1


def is_command(span: str) -> bool:
    """Whether inline code is a whole command rather than a name."""
    first, _, rest = span.partition(" ")
    return bool(rest) and program(first) in {"python", "adnerf", "adnerf-prepare", "pip", *TOOLS, *EXTERNAL}


def program(word: str) -> str:
    name = word.rpartition("/")[2]
    return "python" if name == "python3" else name


COMMANDS = [
    pytest.param(command, complete, id=f"{path.name}:{' '.join(command)[:60]}")
    for path in PAGES
    for command, complete in commands_of(path)
]


class Parsed(BaseException):
    """Raised in place of running a command whose options were accepted."""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize(("command", "complete"), COMMANDS)
def test_command_is_valid(command, complete, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        if not complete:
            for one in (*self._actions, *self._mutually_exclusive_groups):
                one.required = False
        parse(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.chdir(ROOT)
    if not complete and "run.py" in command and not any(word.startswith("--config=") for word in command):
        command = [*command, "--config=head"]
    check(command, monkeypatch)


def check(words: list[str], monkeypatch) -> None:
    name, arguments = program(words[0]), [PLACEHOLDERS.get(word, word) for word in words[1:]]
    if name == "python":
        check_python(arguments, monkeypatch)
    elif name == "adnerf":
        cli.parse_command(["adnerf", *arguments])
    elif name == "adnerf-prepare":
        check_module("adnerf_jax.preprocessing", arguments, monkeypatch)
    elif name == "pip":
        check_install(arguments)
    elif name in TOOLS:
        assert any(line.startswith(TOOLS[name]) for line in requirements("requirements-dev.txt"))
    elif name in EXTERNAL:
        for word in arguments:
            assert not word.startswith("launch/") or (ROOT / word).is_file(), word
    elif words[0] == ".":
        assert arguments == [".venv/bin/activate"]
    else:
        assert (ROOT / words[0]).is_file(), f"{words[0]} is neither known nor a file"


def check_python(arguments: list[str], monkeypatch) -> None:
    if arguments[:1] == ["run.py"]:
        cli.parse_command(arguments)
    elif arguments[:2] == ["-m", "venv"]:
        assert arguments[2:] == [".venv"]
    elif arguments[:2] == ["-m", "pytest"]:
        for word in arguments[2:]:
            assert not word.startswith("tests/") or (ROOT / word).exists(), word
    elif arguments[0] == "-m":
        check_module(arguments[1], arguments[2:], monkeypatch)
    else:
        assert arguments[0].startswith("examples/")
        runs_to_its_parser(
            lambda: runpy.run_path(str(ROOT / arguments[0]), run_name="__main__"), arguments, monkeypatch
        )


def check_module(name: str, arguments: list[str], monkeypatch) -> None:
    """A module that is run by `python -m` takes these options."""
    assert name.split(".")[0] in ("adnerf_jax", "benchmarks", "preprocessing"), name
    if not arguments and "Parser" not in source_of(name):
        return
    runs_to_its_parser(
        lambda: runpy.run_module(name, run_name="__main__", alter_sys=False), [name, *arguments], monkeypatch
    )


def runs_to_its_parser(run, argv: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(Parsed):
        run()


def source_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    assert spec is not None and spec.origin, f"there is no module {module} to run"
    return pathlib.Path(spec.origin).read_text()


def check_install(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    words = iter(arguments[1:])
    for word in words:
        if word == "-r":
            assert (ROOT / next(words)).is_file()
        elif word != "-e":
            asked = re.fullmatch(r"\.(?:\[(\w+)\])?", word)
            assert asked and (asked[1] is None or asked[1] in extras), word


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    included = [line.split()[1] for line in lines if line.startswith("-r ")]
    return lines + [line for other in included for line in requirements(other)]


def test_readme_has_the_install_and_test_commands():
    """The lines that a newcomer copies."""
    for name, rest in (
        ("requirements.txt", "run.py --config=configs/quickstart.py"),
        ("requirements-dev.txt", "-m pytest"),
    ):
        line = f"python3 -m venv .venv && .venv/bin/pip install -r {name} && .venv/bin/python {rest}"
        assert line in text_of(ROOT / "README.md").splitlines()


def test_readme_has_at_most_150_lines():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


PYTHON = [
    (path.name, block) for path in PAGES for language, block in BLOCK.findall(text_of(path)) if language == "python"
]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=lambda value: value if value.endswith(".md") else "")
def test_python_block_compiles_and_its_names_exist(page, block):
    tree = ast.parse(block)
    compile(tree, page, "exec")
    bound = set(vars(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - bound


def test_keyword_arguments_of_avatar_exist():
    from adnerf_jax import Avatar
    from adnerf_jax.models.codes.registry import driven_codes

    known = {name for method in (Avatar.render, Avatar.write) for name in inspect.signature(method).parameters}
    known |= set(driven_codes())
    for _, block in PYTHON:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in dir(Avatar):
                assert {keyword.arg for keyword in node.keywords} <= known


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_links_resolve(path):
    for target in LINK.findall(prose_of(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), f"{path.name} links to {target}"
        if anchor:
            assert anchor in anchors_of(other), f"{path.name} links to {target}"
        inside = path.parent == ROOT / "docs"
        assert not inside or other.is_relative_to(ROOT / "docs"), f"the built pages lack {target}"


@functools.cache
def anchors_of(path: pathlib.Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose_of(path), re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


# Folders that the names of files are relative to.
HOMES = (ROOT, ROOT / "adnerf_jax", ROOT / "docs")
PATH = re.compile(
    r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|sh|toml|md)|(?:adnerf_jax|tests|docs|benchmarks|launch|examples)/"
)
# Folders that runs write, what stands for them, and what is no path.
WRITTEN = re.compile(r"([A-Z]\d?|runs|OTHER|dataset|head|torso|eval|subject|checkpoints|validation|gt|alpha|\.frames)/")
OF_A_DATASET = re.compile(r"(damaged|ori_imgs|head_imgs|com_imgs|gt_imgs|parsing)/|\.\./|\d+/\d+$|\.venv/")


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_named_files_exist(path):
    rows = prose_of(path).splitlines()
    for line in rows:
        homes = HOMES + rooms_named_in(line)
        for span in SPAN.findall(line):
            if not PATH.fullmatch(span) or WRITTEN.match(span) or OF_A_DATASET.match(span):
                continue
            assert any((home / span).exists() for home in homes), f"{path.name} names {span}"


def rooms_named_in(line: str) -> tuple[pathlib.Path, ...]:
    """The rooms that a row of a table describes: its files are named without them."""
    return tuple(ROOT / room for room in re.findall(r"`(adnerf_jax/\w+/|benchmarks/|tests/)`", line))


NAME_IN_FILE = re.compile(r"`(\w+)`(?:,? (?:and|or) `(\w+)`)? (?:in|of) `([\w/]+\.py)`")


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_named_definitions_are_in_their_files(path):
    for *names, file in NAME_IN_FILE.findall(" ".join(prose_of(path).split())):
        (source,) = [home / file for home in HOMES if (home / file).exists()]
        for name in filter(None, names):
            assert re.search(rf"\b{name}\b", source.read_text()), f"{path.name}: {file} has no {name}"


@functools.cache
def settings() -> frozenset[str]:
    """Dotted names of all settings and of their groups."""
    from adnerf_jax.configuration import head, quickstart, torso

    found: set[str] = set()
    configs: list[ConfigDict] = [one.get_config(arg) for one in (head, torso) for arg in ("", "fast")]
    for name in (name for one in (*configs, quickstart.get_config()) for name in flatten(one.to_dict())):
        parts = name.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return frozenset(found)


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_named_settings_exist(path):
    for span in spans_of(path):
        for name in re.findall(r"\bconfig\.(?!json\b)([a-z_]+(?:\.[a-z_]+)*)", span):
            assert name in settings(), f"{path.name} names config.{name}"


def test_architecture_lists_the_rooms_in_their_order():
    rooms = re.findall(r"^\| `adnerf_jax/(\w+)(?:/|\.py)` \|", text_of(ROOT / "docs" / "architecture.md"), re.M)
    assert tuple(rooms) == layout_test.ROOMS


def test_every_option_of_the_preparation_is_described():
    from adnerf_jax.preprocessing.__main__ import _parser

    options = {name for action in _parser()._actions for name in action.option_strings if name.startswith("--")}
    described = set(re.findall(r"`(--\w+)`", prose_of(ROOT / "docs" / "preparation.md")))
    assert options - {"--help", "--video", "--out"} <= described


def messages() -> set[str]:
    """Texts of the package's sources, what is filled in as …."""
    found = set()
    for path in (ROOT / "adnerf_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_troubleshooting_quotes_real_messages():
    section = text_of(ROOT / "docs" / "your-video.md").partition("## Troubleshooting by message")[2]
    known = messages()
    quoted = re.findall(r"^\| `([^`]+)`", section, re.M)
    assert len(quoted) > 10
    assert not [text for text in quoted if not any(text in message for message in known)]


def test_every_check_of_the_report_is_described():
    source = (ROOT / "adnerf_jax" / "preprocessing" / "report.py").read_text()
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_check"
    ]
    names = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    page = text_of(ROOT / "docs" / "your-video.md")
    assert len(names) > 15
    assert not [name for name in names if name not in page]


def test_pages_build_strictly(tmp_path):
    """Equals `mkdocs build --strict`."""
    mkdocs = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    config.plugins.on_startup(command="build", dirty=False)
    mkdocs.build(config)
    assert "adnerf_jax" in html.unescape((tmp_path / "site" / "index.html").read_text())
