"""The preparation's sound track: chosen by the user, and part of what a step's results depend on."""

import pathlib

import av
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.media.video import probe
from adnerf_jax.preprocessing import pipeline
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.survey import survey_video

RATE = 16000


@pytest.fixture
def film(tmp_path) -> pathlib.Path:
    """Grey pictures with a loud track, and a quiet one."""
    time = np.arange(RATE) / RATE
    with av.open(str(tmp_path / "v.mkv"), "w") as out:
        video = out.add_stream("libx264", rate=25, width=64, height=64)
        tracks = [out.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for _ in range(25):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24")))
        out.mux(video.encode(None))
        for track, scale in zip(tracks, (0.3, 0.003), strict=True):
            samples = np.round(32767 * scale * np.sin(2 * np.pi * 300 * time)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            out.mux(track.encode(frame))
    return tmp_path / "v.mkv"


def test_survey_and_sound_are_of_the_given_track(film):
    info = probe(film)
    loud, quiet = (survey_video(info, track).sound_level for track in (None, 2))
    assert abs(loud - quiet - 40) < 1
    first, second = (Clip(info, 0.0, 1.0, 64, 64, audio_track=track).sound(RATE, 20) for track in (None, 2))
    assert abs(np.abs(first).max() / np.abs(second).max() - 100) < 3


def test_only_the_sound_depends_on_the_track_and_only_where_it_is_given(film, tmp_path):
    info = probe(film)

    def options(track: int | None) -> dict[str, dict]:
        clip = Clip(info, 0.0, 1.0, 64, 64, audio_track=track)
        return {
            step.name: step.options for step in pipeline.make_steps(pipeline.Job(clip, tmp_path, 1.0, "logmel", None))
        }

    default, given = options(None), options(2)
    assert [name for name in default if default[name] != given[name]] == ["sound"]
    assert "audio_track" not in default["sound"] and given["sound"]["audio_track"] == 2


def test_a_track_that_does_not_exist_is_refused_before_the_work(film, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_check_video", lambda info: None)
    monkeypatch.setattr(pipeline, "survey_video", lambda *_: pytest.fail("surveyed"))
    with pytest.raises(UserError, match="no sound track 3: choose one of 1 to 2"):
        pipeline.prepare(film, tmp_path / "d", audio_track=3)
