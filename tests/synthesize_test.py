"""From sound to video: windows in a stream, and a render that can be interrupted."""

import types

import numpy as np
import pytest

from adnerf_jax import speech, synthesize
from adnerf_jax.datasets import neighbours_in_time
from adnerf_jax.errors import UserError
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.image import write_image
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.runs import load_config
from adnerf_jax.synthesize import attention_windows, check_features, count_frames, mirrored, resume, sound_blocks

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
