"""Curves from numbers, text and files, and what is wrong with them."""

import json

import numpy as np
import pytest

from adnerf_jax.common.curves import read_curves
from adnerf_jax.common.errors import UserError

NAMES = ("yaw", "pitch")


def test_curves_pass_through_keys_without_overshoot_and_are_constant_outside():
    curve = read_curves({"yaw": [[1.0, 0.0], [2.0, 10.0], [3.0, 10.0]]}, NAMES, "offset")["yaw"]
    assert [curve(t) for t in (0.0, 1.0, 2.0, 3.0, 9.0)] == [0, 0, 10, 10, 10]
    assert all(0 <= curve(1 + k / 50) <= 10 + 1e-9 for k in range(100))
    assert 2 < curve(1.5) < 8 and (curve.least, curve.most) == (0, 10)


def test_numbers_text_and_files_give_the_same_curves(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"yaw": [[0, 1], [0.04, 3]], "pitch": -2}))
    (tmp_path / "c.csv").write_text("yaw,pitch\n1,-2\n3,-2\n")
    (tmp_path / "t.csv").write_text("time, pitch, yaw\n0,-2,1\n0.04,-2,3\n")
    for given in (tmp_path / "c.json", str(tmp_path / "c.csv"), tmp_path / "t.csv"):
        curves = read_curves(given, NAMES, "offset")
        assert curves["yaw"](0.04) == 3 and curves["yaw"](0) == 1 and curves["pitch"](7) == -2
    assert read_curves("yaw=4, pitch=-1", NAMES, "offset")["pitch"](0) == -1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("yaw", "offset 'yaw': expected name=number"),
        ("yaw=much", "expected name=number"),
        ("yew=1", "there is no 'yew'; there are yaw, pitch"),
        ({"yaw": [[0, 1], [0, 2]]}, "offset: yaw: the times of its keys must increase"),
        ({"yaw": [[0, float("nan")]]}, "yaw holds a number that is not finite"),
        ({"yaw": [1, 2, 3]}, "yaw must be a number or keys"),
        ([1, 2], "expected values or keys of yaw, pitch"),
        (np.zeros(6), "expected values or keys of yaw, pitch"),
        ("gone.csv", "offset not found: gone.csv"),
        ("gone.json", "offset not found: gone.json"),
    ],
)
def test_invalid_curves_are_refused(given, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        read_curves(given, NAMES, "offset")


def test_frame_numbers_become_seconds(tmp_path):
    (tmp_path / "c.csv").write_text("\ufeffframe,yaw\n10,0\n20,10\n", encoding="utf-8")
    curve = read_curves(tmp_path / "c.csv", NAMES, "offset")["yaw"]
    np.testing.assert_allclose([curve(10 / 25), curve(15 / 25), curve(20 / 25)], [0, 5, 10], atol=1e-9)  # float64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a line of names"),
        ("yaw\n", "a line of names"),
        ("yaw,pitch\n1\n", "then lines with the same number of values"),
        ("yaw\nmuch\n", "not a number"),
        ("yaw\n1\nnan\n", "line 3 holds a number that is not finite"),
        ("1,2\n3,4\n", "its first line must be names, not numbers"),
    ],
)
def test_invalid_tables_are_refused(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_curves(tmp_path / "c.csv", NAMES, "offset")
