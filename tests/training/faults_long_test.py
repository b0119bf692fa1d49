"""The short form of `benchmarks.faults`: killed or disturbed trainings end with the same parameters."""

import sys

import pytest

from adnerf_jax.quickstart import builtin_dataset
from benchmarks import faults

pytestmark = pytest.mark.slow


def test_nothing_is_lost(tmp_path, monkeypatch, capsys):
    data, subject = builtin_dataset(tmp_path / "dataset", smoke=True), tmp_path / "subject"
    command = ["faults", f"--data={data}", f"--workdir={tmp_path / 'faults'}", "--most=1"]
    command += [f"--audio={subject / 'driving.wav'}", f"--video={subject / 'subject.mp4'}"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        faults.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    assert out.rstrip().endswith(f"{len(faults.ROWS)} faults: 0 wrong results")
