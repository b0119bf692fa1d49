"""OpenFace's csv files, and action unit errors by hand."""

import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.evaluation.openface import LOWER_FACE, read_units, unit_errors


def write(path, units: np.ndarray, success: np.ndarray, leave_out: str | None = None) -> str:
    """Writes a file as OpenFace 2.2 does: with other columns, and spaces after the commas."""
    names = [f"{unit}_r" for unit in ("AU01", *LOWER_FACE, "AU45") if unit != leave_out]
    lines = ["frame, face_id, timestamp, confidence, success, " + ", ".join([*names, "AU25_c"])]
    for k, row in enumerate(units):
        values = {f"{unit}_r": value for unit, value in zip(LOWER_FACE, row, strict=True)}
        numbers = [values.get(name, 4.44) for name in names]
        lines.append(
            f"{k + 1}, 0, {k / 25:.3f}, 0.98, {int(success[k])}, " + ", ".join(f"{v:.2f}" for v in numbers) + ", 1.00"
        )
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_file_of_openface_is_read(tmp_path):
    units = np.round(np.random.default_rng(0).uniform(0, 5, (4, 9)), 2)
    success = np.array([True, True, False, True])
    read = read_units(write(tmp_path / "a.csv", units, success), 4)
    np.testing.assert_allclose(read[success], units[success])
    assert np.isnan(read[2]).all()


def test_errors_by_hand():
    truth = np.ones((3, 9))
    units = truth.copy()
    units[0, 0] += 1.8
    units[1, 3] -= 0.9
    units[2] = np.nan
    errors = unit_errors(units, truth)
    assert errors["au_error"] == pytest.approx(2.7 / 18)
    assert errors["au_error_summed"] == pytest.approx(1.8**2 / 2 + 0.9**2 / 2)
    assert unit_errors(truth, truth) == {"au_error": 0.0, "au_error_summed": 0.0}
    assert unit_errors(np.full((3, 9), np.nan), truth) == {}


def test_unusable_files_are_refused(tmp_path):
    units, success = np.ones((3, 9)), np.ones(3, bool)
    path = write(tmp_path / "a.csv", units, success)
    with pytest.raises(UserError, match="has 3 frames, 4 were evaluated"):
        read_units(path, 4)
    with pytest.raises(UserError, match="cannot read OpenFace's file"):
        read_units(tmp_path / "none.csv", 3)
    with pytest.raises(UserError, match="lacks a column .*AU12_r"):
        read_units(write(tmp_path / "b.csv", units, success, leave_out="AU12"), 3)
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        read_units(tmp_path / "c.csv", 3)
