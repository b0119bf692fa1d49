"""Recordings of strangers: nothing of the person stays in the clean background, by either parser."""

import os
import pathlib

import pytest
from clips import picked

from adnerf_jax.face import landmarks, parsing
from adnerf_jax.media.video import read_frames
from adnerf_jax.preprocessing import background, steps

_CASES = ("ls2_4s.mp4", "sun_4s.mp4", "vr4_4s.mp4", "vr2.mp4")


@pytest.mark.slow
@pytest.mark.skipif("ADNERF_TEST_DATA" not in os.environ, reason="ADNERF_TEST_DATA is not set")
@pytest.mark.parametrize("parser", sorted(steps.PARSERS))
@pytest.mark.parametrize("name", _CASES)
def test_nothing_of_the_person_is_left_in_the_background(name, parser):
    path = pathlib.Path(os.environ["ADNERF_TEST_DATA"]) / "cases" / name
    if not path.exists():
        pytest.skip(f"{name} is not in ADNERF_TEST_DATA")
    frames = list(read_frames(path, 2.0))
    found = landmarks.detect_video(iter(frames))
    maps = parsing.parse_video(picked(frames), found, parser=steps.PARSERS[parser])
    clean, _ = background.clean_background(
        (rgb, parts != parsing.BACKGROUND) for rgb, parts in zip(frames, maps, strict=True)
    )
    assert background.person_left(clean, frames) <= 0.005
