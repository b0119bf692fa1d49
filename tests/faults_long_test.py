"""The short form of `benchmarks.faults`: a training that is killed, told to end and robbed ends the same."""

import sys

import pytest

from benchmarks import faults

pytestmark = pytest.mark.slow


def test_nothing_is_lost(tiny_data, tmp_path, monkeypatch, capsys):
    arguments = ["--kills=2", "--write-kills=1", "--terminations=1"]
    command = ["faults", f"--data={tiny_data}", f"--workdir={tmp_path / 'faults'}", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        faults.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    assert out.rstrip().endswith("12 faults: 0 lost or different results")
