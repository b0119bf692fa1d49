"""README and docs: every command that they show is one, every file, setting and link that they name is there."""

import argparse
import ast
import functools
import html
import importlib
import importlib.util
import pathlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict

from adnerf_jax import cli
from adnerf_jax.configuration.flatten import flatten

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# What stands for a number or a file in a command.
PLACEHOLDERS = {"--processes=N": "--processes=2", "--process=I": "--process=0"}
# Programs of others, whose options are not checked; files that they are given are.
EXTERNAL = {"arecord", "ffplay", "gcloud", "docker", "sbatch", "kubectl"}
# Of the developer's environment: name of the program, package that brings it.
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


def commands_of(path: pathlib.Path) -> Iterator[list[str]]:
    """Words of each command in fenced blocks and inline code, chains and pipelines taken apart."""
    shown = [block for language, block in BLOCK.findall(text_of(path)) if language in ("", "bash", "sh", "console")]
    lines = [line for block in shown for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    lines += [span for span in spans_of(path) if is_command(span)]
    for line in lines:
        words = shlex.split(line, comments=True)
        start = 0
        for end, word in [*enumerate(words), (len(words), "&&")]:
            if word in ("&&", "|"):
                if words[start:end]:
                    yield words[start:end]
                start = end + 1


def is_command(span: str) -> bool:
    """Whether inline code is a whole command rather than a name."""
    first, _, rest = span.partition(" ")
    return bool(rest) and program(first) in {"python", "adnerf", "adnerf-prepare", "pip", *TOOLS, *EXTERNAL}


def program(word: str) -> str:
    name = word.rpartition("/")[2]
    return "python" if name == "python3" else name


COMMANDS = [(path.name, command) for path in PAGES if path.exists() for command in commands_of(path)]


class Parsed(BaseException):
    """A command line was accepted."""


@pytest.fixture
def only_parse(monkeypatch):
    """Command lines are parsed and nothing follows."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else None)
def test_a_command_is_one(page, command, only_parse, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(command, monkeypatch)


def check(words: list[str], monkeypatch) -> None:
    name, arguments = program(words[0]), [PLACEHOLDERS.get(word, word) for word in words[1:]]
    if name == "python":
        check_python(arguments, monkeypatch)
    elif name == "adnerf":
        cli._parse(["adnerf", *arguments])
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
        cli._parse(arguments)
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
    if not arguments and not any(option in source_of(name) for option in ("ArgumentParser(", "Parser(")):
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
    assert spec is not None, f"there is no module {module}"
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


def test_the_readme_keeps_its_two_commands():
    """The lines that a newcomer copies."""
    for name, rest in (
        ("requirements.txt", "run.py --config=configs/quickstart.py"),
        ("requirements-dev.txt", "-m pytest"),
    ):
        line = f"python3 -m venv .venv && .venv/bin/pip install -r {name} && .venv/bin/python {rest}"
        assert line in text_of(ROOT / "README.md").splitlines()


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


PYTHON = [
    (path.name, block) for path in PAGES for language, block in BLOCK.findall(text_of(path)) if language == "python"
]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=lambda value: value if value.endswith(".md") else "")
def test_python_compiles_and_its_names_exist(page, block):
    tree = ast.parse(block)
    compile(tree, page, "exec")
    bound = set(dir(__builtins__)) | set(vars(importlib.import_module("builtins")))
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
    import inspect

    from adnerf_jax import Avatar
    from adnerf_jax.models.codes.registry import driven_codes

    known = {name for method in (Avatar.render, Avatar.write) for name in inspect.signature(method).parameters}
    known |= set(driven_codes())
    for _, block in PYTHON:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in dir(Avatar):
                assert {keyword.arg for keyword in node.keywords} <= known


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_links_lead_somewhere(path):
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


# In files of which packages: what a path may be relative to.
HOMES = (ROOT, ROOT / "adnerf_jax", ROOT / "docs")
PATH = re.compile(
    r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|sh|toml|md)|(?:adnerf_jax|tests|docs|benchmarks|launch|examples)/"
)
# Folders that runs write, and what stands for them.
WRITTEN = re.compile(
    r"(?:[A-Z]\d?|runs|OTHER|dataset|head|torso|eval|subject|checkpoints|validation|damaged|gt|alpha|\.frames)/"
)
OF_A_DATASET = re.compile(r"(?:ori_imgs|head_imgs|com_imgs|gt_imgs|parsing)/")


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_files_that_are_named_exist(path):
    rows = prose_of(path).splitlines()
    for line in rows:
        homes = HOMES + rooms_named_in(line)
        for span in SPAN.findall(line):
            if not PATH.fullmatch(span) or WRITTEN.match(span) or OF_A_DATASET.match(span) or span.startswith("../"):
                continue
            assert any((home / span).exists() for home in homes), f"{path.name} names {span}"


def rooms_named_in(line: str) -> tuple[pathlib.Path, ...]:
    """The rooms that a row of a table describes: its files are named without them."""
    return tuple(ROOT / room for room in re.findall(r"`(adnerf_jax/\w+/|benchmarks/|tests/)`", line))


NAME_IN_FILE = re.compile(r"`(\w+)`(?:,? (?:and|or) `(\w+)`)? (?:in|of) `([\w/]+\.py)`")


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_names_that_a_file_should_have_are_in_it(path):
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
def test_settings_that_are_named_exist(path):
    for span in spans_of(path):
        for name in re.findall(r"\bconfig\.([a-z_]+(?:\.[a-z_]+)*)", span):
            assert name in settings(), f"{path.name} names config.{name}"


def test_options_of_the_preparation_are_all_described():
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


def test_messages_of_the_troubleshooting_are_messages():
    section = text_of(ROOT / "docs" / "your-video.md").partition("## Troubleshooting by message")[2]
    known = messages()
    quoted = re.findall(r"^\| `([^`]+)`", section, re.M)
    assert len(quoted) > 10
    assert not [text for text in quoted if not any(text in message for message in known)]


def test_checks_of_the_report_are_all_described():
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


def test_the_pages_build(tmp_path):
    """As `mkdocs build --strict`."""
    mkdocs = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    config.plugins.on_startup(command="build", dirty=False)
    mkdocs.build(config)
    assert "adnerf_jax" in html.unescape((tmp_path / "site" / "index.html").read_text())
