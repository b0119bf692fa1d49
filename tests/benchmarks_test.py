"""The benchmarks' usage is what one types."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    "name",
    ["ablations", "collapse", "editing", "fast", "faults", "fuzz", "gallery", "input", "long_render", "occupancy"]
    + ["paper_step", "quality", "quickstart", "scaling", "start_up"],
)
def test_usage_names_the_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(f"benchmarks.{name}").main()
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks.{name} ")
