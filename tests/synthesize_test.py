"""From sound to video: windows in a stream, and a render that can be interrupted."""

import json
import types

import numpy as np
import pytest
import tiny

from adnerf_jax import speech, synthesize
from adnerf_jax.datasets import neighbours_in_time
from adnerf_jax.errors import UserError
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.image import write_image
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.rendering import to_uint8
from adnerf_jax.runs import load_config
from adnerf_jax.synthesize import (
    attention_windows,
    check_features,
    count_frames,
    cut_windows,
    mirrored,
    render_job,
    resume,
    sound_blocks,
)
from adnerf_jax.trained import TrainedStage
from adnerf_jax.types import Conditions

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4, 5, 8, 20])
def test_attention_windows_are_the_neighbours_of_each_frame(frames):
    windows = np.random.default_rng(frames).normal(size=(frames, 16, 3)).astype(np.float32)
    streamed = list(attention_windows(iter(windows)))
    assert len(streamed) == frames
    if frames:
        np.testing.assert_array_equal(streamed, windows[neighbours_in_time(frames)])


@pytest.mark.parametrize("seconds", [0.1, 1.37])
def test_a_streamed_sound_gives_what_the_whole_sound_gives(tmp_path, seconds):
    sound = tmp_path / "speech.wav"
    samples = 0.1 * np.random.default_rng(0).normal(size=round(seconds * 16000)).astype(np.float32)
    write_wav(sound, samples, 16000)
    encoder = speech.get_encoder("logmel")
    streamed = np.stack(list(attention_windows(speech.stream_windows(encoder, sound_blocks(sound, 0.0, None)))))
    read = np.concatenate(list(sound_blocks(sound, 0.0, None)))
    frames = count_frames(sound, 0.0, None)
    whole = speech.speech_windows(encoder, read, frames)[neighbours_in_time(frames)]
    assert frames == -(-len(samples) // 640)
    np.testing.assert_allclose(streamed, whole, atol=1e-5)  # chunks in other batches: another order of sums


def test_mirrored_goes_back_and_forth():
    assert [mirrored(i, 4) for i in range(10)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert [mirrored(i, 1) for i in range(3)] == [0, 0, 0]
    assert [mirrored(i, 2) for i in range(4)] == [0, 1, 0, 1]


def test_begun_frames_count(trained):
    assert count_frames(trained.sound, 0.0, None) == 8  # 7.5
    assert count_frames(trained.sound, 0.1, None) == 5
    assert count_frames(trained.sound, 0.0, 0.12) == 3
    with pytest.raises(UserError, match="has no sound from 9 s on"):
        count_frames(trained.sound, 9.0, None)


def test_frames_of_another_job_are_not_reused(tmp_path):
    folder = tmp_path / "video.mp4.frames"
    job = {"audio": "abc", "step": 3}
    assert resume(folder, job) == set()
    for i in (0, 2):
        write_image(folder / f"{i:06d}.png", np.zeros((2, 2, 3), np.uint8))
    assert resume(folder, job) == {0, 2}
    assert resume(folder, job | {"step": 4}) == set()
    assert resume(folder, job | {"step": 4}) == set()
    (folder / "job.json").write_text("{")
    write_image(folder / "000001.png", np.zeros((2, 2, 3), np.uint8))
    assert resume(folder, job) == set()


def test_settings_that_change_the_picture_make_another_job(tmp_path):
    stage = types.SimpleNamespace(name="head", step=3)
    config = tiny.config("head", variants="smoke")
    job = render_job(stage, tmp_path, config)
    (tmp_path / "video.mp4.frames").mkdir()
    (tmp_path / "video.mp4.frames/job.json").write_text(json.dumps(job))
    write_image(tmp_path / "video.mp4.frames/000001.png", np.zeros((2, 2, 3), np.uint8))
    config.render.out = "elsewhere.mp4"
    assert resume(tmp_path / "video.mp4.frames", render_job(stage, tmp_path, config)) == {1}
    for name, value in (("render.occupancy", 0), ("model.head.fine_samples", 4), ("compat.zero_padding", True)):
        other = tiny.config("head", variants="smoke")
        other.update_from_flattened_dict({name: value})
        assert render_job(stage, tmp_path, other) != job


def test_a_person_of_other_speech_features_is_refused():
    stage = types.SimpleNamespace(scene=types.SimpleNamespace(audio_mean=np.zeros(384)))
    with pytest.raises(UserError, match="learned from speech features with 384 channels, logmel features have 80"):
        check_features(stage, "logmel", 80)


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


def test_an_interrupted_render_goes_on(trained, tmp_path, monkeypatch):
    config = render_config(trained, tmp_path / "talking.mp4")

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthesize, "VideoWriter", fail)
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

    def write(path, image):
        write_image(path, image)
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


def test_given_features_are_spoken(trained_paper, tmp_path, monkeypatch):
    config, windows = features_config(trained_paper, tmp_path)
    written = {}
    monkeypatch.setattr(
        synthesize, "write_image", lambda path, image: written.update({path.name: image}) or write_image(path, image)
    )
    out = synthesize.synthesize(config, trained_paper.head)
    info = probe(out)
    assert (info.width, info.height, info.has_audio) == (32, 32, False) and len(list(read_frames(out))) == 6
    stage = TrainedStage.load(trained_paper.head, config)
    background = stage.person.background.astype(np.float32) / 255.0
    audio = windows[neighbours_in_time(6)]
    assert sorted(written) == [f"{i:06d}.png" for i in range(6)]
    for i in (0, 5):
        conditions = Conditions(audio[i][None], stage.person.eyes[i : i + 1])
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


def test_a_deepspeech_person_asks_for_features(trained, trained_paper, tmp_path):
    config = load_config(trained_paper.head)
    config.render.update(audio=str(trained.sound), out=str(tmp_path / "out.mp4"))
    with pytest.raises(UserError, match=r"learned from deepspeech features, which cannot .* --config.render.features="):
        synthesize.synthesize(config, trained_paper.head)
    assert not list(tmp_path.iterdir())


def test_features_that_cannot_be_spoken(trained, trained_paper, tmp_path):
    config, _ = features_config(trained_paper, tmp_path)
    other = load_config(trained.head)
    other.render.update(features=config.render.features, out=config.render.out)
    with pytest.raises(UserError, match="speech features with 80 channels, DeepSpeech features have 29"):
        synthesize.synthesize(other, trained.head)
    np.save(tmp_path / "speech.npy", np.zeros((6, 16, 44), np.float32))
    with pytest.raises(UserError, match=r"speech.npy holds float32 \[6, 16, 44\]; DeepSpeech features are floats"):
        synthesize.synthesize(config, trained_paper.head)
    config, _ = features_config(trained_paper, tmp_path)
    (tmp_path / "speech.wav").write_text("no sound " * 100)
    config.render.audio = str(tmp_path / "speech.wav")
    with pytest.raises(UserError, match="speech.wav"):
        synthesize.synthesize(config, trained_paper.head)
    assert not (tmp_path / "out").exists()


def test_zeros_past_the_ends_of_a_speech():
    windows = np.random.default_rng(3).normal(size=(5, 16, 3)).astype(np.float32)
    streamed = np.stack(list(attention_windows(iter(windows), zero_padded=True)))
    rows = neighbours_in_time(5, zero_padded=True)
    np.testing.assert_array_equal(streamed, windows[rows] * (rows >= 0)[..., None, None])
