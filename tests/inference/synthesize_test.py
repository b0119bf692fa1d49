"""From sound to video: renders that are interrupted, split into shards, or made from given features."""

import json
import types

import av
import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.types import Conditions
from adnerf_jax.data.datasets import neighbours_in_time
from adnerf_jax.inference import synthesize
from adnerf_jax.inference.shards import finished_frames
from adnerf_jax.inference.speech_input import cut_windows
from adnerf_jax.inference.synthesize import render_job
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.image import write_image
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.training.runs import load_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_settings_that_change_the_picture_make_another_job(tmp_path):
    stage = types.SimpleNamespace(name="head", step=3, digest="abc")
    config = tiny.config("head", variants="smoke")
    job = render_job(stage, tmp_path, config)
    (tmp_path / "video.mp4.frames").mkdir()
    (tmp_path / "video.mp4.frames/job.json").write_text(json.dumps(job))
    write_image(tmp_path / "video.mp4.frames/000001.png", np.zeros((2, 2, 3), np.uint8))
    config.render.out = "elsewhere.mp4"
    assert finished_frames(tmp_path / "video.mp4.frames", render_job(stage, tmp_path, config)) == {1}
    for name, value in (
        ("render.occupancy", 0),
        ("render.pose", "forward"),
        ("model.head.fine_samples", 4),
        ("compat.zero_padding", True),
    ):
        other = tiny.config("head", variants="smoke")
        other.update_from_flattened_dict({name: value})
        assert render_job(stage, tmp_path, other) != job
    trained_anew = types.SimpleNamespace(name="head", step=3, digest="def")
    assert render_job(trained_anew, tmp_path, tiny.config("head", variants="smoke")) != job


def render_config(trained, out, **settings):
    config = load_config(trained.torso)
    config.render.update(audio=str(trained.sound), out=str(out), **settings)
    return config


def test_a_video_with_sound_as_long_as_the_speech(trained, tmp_path):
    out = synthesize.synthesize(render_config(trained, tmp_path / "talking.mp4"), trained.torso)
    info = probe(out)
    assert (info.width, info.height, info.fps, info.has_audio) == (32, 32, 25, True)
    assert info.duration == pytest.approx(8 / 25, abs=0.045)  # one frame, or two of AAC's 21 ms
    frames = list(read_frames(out))
    assert len(frames) == 8
    assert len({frame.tobytes() for frame in frames}) == 8  # the head moves
    assert [p.name for p in tmp_path.iterdir()] == ["talking.mp4"]


def test_an_interrupted_render_continues(trained, tmp_path, monkeypatch):
    config = render_config(trained, tmp_path / "talking.mp4")

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthesize, "write_output", fail)
        with pytest.raises(KeyboardInterrupt):
            synthesize.synthesize(config, trained.torso)
    folder = tmp_path / "talking.mp4.frames"
    whole = {p.name: p.read_bytes() for p in folder.glob("*.png")}
    assert sorted(whole) == [f"{i:06d}.png" for i in range(8)]

    for i in (1, 4, 7):
        (folder / f"{i:06d}.png").unlink()
    mark = np.zeros((32, 32, 3), np.uint8)
    mark[..., 1] = 255
    write_image(folder / "000002.png", mark)
    again = {}

    def write(path, image, **options):
        write_image(path, image, **options)
        again[path.name] = path.read_bytes()

    monkeypatch.setattr(synthesize, "write_image", write)
    out = synthesize.synthesize(config, trained.torso)
    # Only the missing frames are rendered, and they are what they were.
    assert again == {name: whole[name] for name in ("000001.png", "000004.png", "000007.png")}
    frames = list(read_frames(out))
    assert len(frames) == 8 and np.abs(frames[2].astype(int) - mark).max() < 30  # a lossy codec
    assert not folder.exists()


def features_config(trained_paper, tmp_path, frames: int = 6, **settings):
    """A configuration that renders DeepSpeech windows, and the windows."""
    windows = np.random.default_rng(7).normal(size=(frames, 16, 29)).astype(np.float32)
    np.save(tmp_path / "speech.npy", windows)
    config = load_config(trained_paper.head)
    config.render.update(features=str(tmp_path / "speech.npy"), out=str(tmp_path / "out/talking.mp4"), **settings)
    return config, windows


def test_given_features_are_rendered(trained_paper, tmp_path, monkeypatch):
    config, windows = features_config(trained_paper, tmp_path)
    written = {}
    monkeypatch.setattr(
        synthesize,
        "write_image",
        lambda path, image, **options: written.update({path.name: image}) or write_image(path, image),
    )
    out = synthesize.synthesize(config, trained_paper.head)
    info = probe(out)
    assert (info.width, info.height, info.has_audio) == (32, 32, False) and len(list(read_frames(out))) == 6
    stage = TrainedStage.load(trained_paper.head, config)
    background = stage.person.background.astype(np.float32) / 255.0
    audio = windows[neighbours_in_time(6)]
    assert sorted(written) == [f"{i:06d}.png" for i in range(6)]
    for i in (0, 5):
        conditions = Conditions(audio[i][None])
        layers = stage.layers(stage.person.transforms[i], conditions)
        expected = np.asarray(to_uint8(layers.person_over(background)))
        assert np.abs(written[f"{i:06d}.png"].astype(int) - expected).max() <= 1  # rounded in another program


def test_given_features_with_their_sound(trained, trained_paper, tmp_path):
    config, _ = features_config(trained_paper, tmp_path, audio=str(trained.sound))
    info = probe(synthesize.synthesize(config, trained_paper.head))
    assert info.has_audio and info.duration == pytest.approx(6 / 25, abs=0.045)  # as long as the features


def test_a_part_of_the_features(trained_paper, tmp_path):
    config, windows = features_config(trained_paper, tmp_path, start=0.08, duration=0.12)
    out = synthesize.synthesize(config, trained_paper.head)
    assert len(list(read_frames(out))) == 3
    np.testing.assert_array_equal(cut_windows(windows, 0.08, 0.12), windows[2:5])
    with pytest.raises(UserError, match="the features last 0.24 s: nothing is left of them from 3 s on"):
        cut_windows(windows, 3.0, None)


def test_a_person_of_deepspeech_features_needs_features(trained, trained_paper, tmp_path):
    config = load_config(trained_paper.head)
    config.render.update(audio=str(trained.sound), out=str(tmp_path / "out.mp4"))
    with pytest.raises(UserError, match=r"trained on deepspeech features, which cannot .* features=FILE.npy"):
        synthesize.synthesize(config, trained_paper.head)
    assert not list(tmp_path.iterdir())


def test_invalid_features(trained, trained_paper, tmp_path):
    config, _ = features_config(trained_paper, tmp_path)
    other = load_config(trained.head)
    other.render.update(features=config.render.features, out=config.render.out)
    with pytest.raises(UserError, match="speech features with 80 channels, DeepSpeech features have 29"):
        synthesize.synthesize(other, trained.head)
    np.save(tmp_path / "speech.npy", np.zeros((6, 16, 44), np.float32))
    with pytest.raises(UserError, match=r"speech.npy holds float32 \[6, 16, 44\]: DeepSpeech features must be floats"):
        synthesize.synthesize(config, trained_paper.head)
    config, _ = features_config(trained_paper, tmp_path)
    (tmp_path / "speech.wav").write_text("no sound " * 100)
    config.render.audio = str(tmp_path / "speech.wav")
    with pytest.raises(UserError, match="speech.wav"):
        synthesize.synthesize(config, trained_paper.head)
    assert not (tmp_path / "out").exists()


def test_shards_of_a_render_are_joined(trained, tmp_path, capsys):
    whole = render_config(trained, tmp_path / "whole/talking.png")
    folder = synthesize.synthesize(whole, trained.torso)
    assert folder == tmp_path / "whole/talking"
    errors = capsys.readouterr().err
    assert f" to {folder}\n" in errors and f"wrote {folder}\n" in errors and "talking.png" not in errors
    config = render_config(trained, tmp_path / "parts/talking.png")
    for part in ("2/3", "3/3"):
        config.render.shard = part
        frames = synthesize.synthesize(config, trained.torso)
    assert sorted(int(p.stem) for p in frames.glob("*.png")) == [1, 2, 4, 5, 7]
    config.render.shard = None  # the first part never ran, and of the third a frame was lost
    (frames / "000005.png").unlink()
    joined = synthesize.synthesize(config, trained.torso)
    names = [f"{i:06d}.png" for i in range(8)]
    assert sorted(p.name for p in joined.iterdir()) == names and not frames.exists()
    assert all((joined / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_a_transparent_video_from_kept_frames(trained, tmp_path):
    config = render_config(trained, tmp_path / "talking.webm", background="none", duration=0.12)
    out = synthesize.synthesize(config, trained.torso)
    with av.open(str(out)) as container:
        assert container.streams.video[0].metadata["ALPHA_MODE"] == "1"
        assert "Synthetic media" in container.metadata["COMMENT"] and "step 40" in container.metadata["COMMENT"]
    config.render.out = str(tmp_path / "talking.mp4")
    with pytest.raises(UserError, match=".mp4 has no transparency"):
        synthesize.synthesize(config, trained.torso)
