"""The usage line of each benchmark names its command."""

import importlib
import pathlib
import sys

import pytest

import benchmarks

COMMANDS = sorted(
    path.stem for path in pathlib.Path(benchmarks.__path__[0]).glob("*.py") if "ArgumentParser(" in path.read_text()
)


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_names_the_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    command = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit):
        command.main(sys.argv[1:]) if command.main.__code__.co_argcount else command.main()
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks.{name} ")
