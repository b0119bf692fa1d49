"""`Avatar` and the live demo: frames follow the arguments, and a stream equals the render of the whole."""

import io
import struct
import types

import av
import numpy as np
import pytest

from adnerf_jax import Avatar
from adnerf_jax.common import progress
from adnerf_jax.common.errors import UserError
from adnerf_jax.inference import stream_demo
from adnerf_jax.inference.head_motion import apply_motion
from adnerf_jax.inference.pose_sequences import recorded
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.image import read_rgba
from adnerf_jax.media.video import probe, read_frames

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def avatar(trained) -> Avatar:
    return Avatar.load(trained.torso)


def pcm(trained) -> np.ndarray:
    return np.round(read_audio(trained.sound) * 32768).astype(np.int16)


def same(ours, theirs) -> bool:
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def test_frames_are_rendered_lazily_and_their_number_is_known(avatar, trained):
    frames = avatar.render(trained.sound)
    assert len(frames) == 8 and iter(frames) is frames
    pictures = list(frames)
    assert len(pictures) == 8 and all(p.shape == (32, 32, 3) and p.dtype == np.uint8 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == 8
    with pytest.raises(TypeError, match="no length"):
        len(avatar.stream(iter([])))


def test_a_stream_equals_the_render_of_the_whole_bit_for_bit(avatar, trained):
    options = dict(pose="forward", offset="yaw=3", smooth=0.05, background="blur")
    chunks = np.split(pcm(trained), range(100, 4800, 777))
    assert same(avatar.stream(chunks, **options), avatar.render(trained.sound, **options))


def test_one_frame_is_prefetched_except_in_a_live_stream(avatar, trained):
    asked = []
    next(avatar.render(trained.sound).selected(lambda i: asked.append(i) or True))
    assert asked == [0, 1]
    asked.clear()
    next(avatar.stream(np.split(pcm(trained), 10)).selected(lambda i: asked.append(i) or True))
    assert asked == [0]


def test_zero_offsets_change_nothing_bit_for_bit(avatar, trained):
    plain = list(avatar.render(trained.sound, eyes="pose"))
    assert same(avatar.render(trained.sound, eyes="pose", offset="yaw=0,x=0"), plain)
    assert same(avatar.render(trained.sound, eyes="pose", clamp=True), plain)
    person = avatar.stage.person
    from_array = avatar.render(trained.sound, eyes=1, pose=person.transforms[:8])
    assert same(from_array, avatar.render(trained.sound, eyes=1))
    turned = np.stack([apply_motion(pose, np.array([5.0, 0, 0, 0, 0, 0])) for pose in person.transforms[:8]])
    assert same(avatar.render(trained.sound, eyes=1, offset="yaw=5"), avatar.render(trained.sound, eyes=1, pose=turned))


def test_transparent_pixels_show_a_new_background_bit_for_bit(avatar, trained):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    rgba = next(avatar.render(trained.sound, background="none"))
    over = next(avatar.render(trained.sound, background=picture))
    assert rgba.shape == (32, 32, 4)
    nothing = rgba[..., 3] == 0
    assert 0.02 < nothing.mean() < 0.98
    np.testing.assert_array_equal(over[nothing], picture[nothing])
    share = rgba[..., 3:].astype(float) / 255
    mixed = share * rgba[..., :3] + (1 - share) * picture
    np.testing.assert_allclose(over, mixed, atol=2.0)  # opacity and colour rounded to 1/255 each


def test_a_driving_video_starts_at_the_time_of_its_speech(avatar, trained, tmp_path, monkeypatch):
    video = avatar.write(tmp_path / "driving.mp4", trained.sound)
    rest = avatar.stage.person.transforms[0]
    poses = np.stack([apply_motion(rest, np.array([2.0 * i, 0, 0, 0, 0, 0])) for i in range(8)])
    monkeypatch.setattr("adnerf_jax.inference.driving_video.video_poses", lambda path, person: recorded(poses))
    monkeypatch.setattr(Avatar, "_range_checked", lambda self, source, frames: asked.append(source) or source)
    asked = []
    avatar.render(video, pose=str(video), start=0.12)
    avatar.render(trained.sound, pose=str(video), start=0.12)
    followed, own = (next(source.start()).transform for source in asked)
    np.testing.assert_array_equal(followed, poses[3])
    np.testing.assert_array_equal(own, poses[0])


def test_an_output_does_not_overwrite_its_inputs(avatar, trained, tmp_path):
    source = avatar.write(tmp_path / "source.mp4", trained.sound, duration=0.08)
    before = source.read_bytes()
    for given in (dict(speech=source), dict(speech=trained.sound, background=str(source))):
        with pytest.raises(UserError, match="source.mp4 would replace .*source.mp4, which it is made from"):
            avatar.write(tmp_path / "source.mp4", **given)
    assert source.read_bytes() == before


def test_another_size_shows_the_same_view(avatar, trained):
    large = next(avatar.render(trained.sound, size=64, eyes="pose"))
    plain = next(avatar.render(trained.sound, eyes="pose"))
    assert large.shape == (64, 64, 3)
    means = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(means - plain).mean() < 4  # four samples of a pixel instead of one
    part = next(avatar.render(trained.sound, crop="0.25,0.25,0.5,0.5", eyes="pose"))
    np.testing.assert_allclose(part.astype(int), plain[8:24, 8:24], atol=1)  # compiled apart
    assert next(avatar.render(trained.sound, camera="yaw=10,focal=120", eyes="pose")).shape == (32, 32, 3)


def test_closed_and_open_eyes_render_differently(avatar, trained):
    closed, opened = (next(avatar.render(trained.sound, eyes=eyes)) for eyes in (0, 1))
    assert not np.array_equal(closed, opened)


def test_poses_outside_the_training_range_are_warned_of_or_clamped(avatar, trained, capsys):
    avatar.render(trained.sound)
    assert "warning" not in capsys.readouterr().err
    avatar.render(trained.sound, pose="rest", offset="yaw=40")
    warning = capsys.readouterr().err
    assert "warning: frame 0 has yaw 40.0, outside the training video (yaw -" in warning
    assert "clamp=True keeps poses" in warning
    next(avatar.stream(np.split(pcm(trained), 10), pose="rest", offset="yaw=40"))
    assert capsys.readouterr().err.count("has yaw 40.0") == 1
    clamped = avatar.render(trained.sound, pose="rest", offset="yaw=40", clamp=True)
    least = avatar.render(trained.sound, pose="rest", offset="yaw=25", clamp=True)
    # Clamped from different poses, the two differ by rounding.
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(clamped, least, strict=True))
    assert "warning" not in capsys.readouterr().err


def test_too_few_poses(avatar, trained):
    with pytest.raises(UserError, match="there are 3 poses, and 8 frames to render"):
        avatar.render(trained.sound, pose=avatar.stage.person.transforms[:3])


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.mov"])
def test_videos_of_each_format_have_sound_and_provenance(avatar, trained, tmp_path, name):
    out = avatar.write(tmp_path / name, trained.sound, background="none" if name != "out.mp4" else "white")
    info = probe(out)
    assert info.has_audio and len(list(read_frames(out))) == 8
    assert tags(out).startswith("Synthetic media") and "trainedAlgorithmicMedia" in tags(out)
    assert f"{trained.torso.parent.name}/torso, step 40" in tags(out)
    bare = avatar.write(tmp_path / f"bare_{name}", trained.sound, label=False, duration=0.04)
    assert tags(bare) == ""


def tags(path) -> str:
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}.get("comment", "")


def test_pictures_have_provenance(avatar, trained, tmp_path):
    folder = avatar.write(tmp_path / "out.png", trained.sound, background="none", duration=0.08)
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png"]
    data = (folder / "000000.png").read_bytes()
    keys = [text.split(b"\0")[0] for text in chunks_of(data, b"iTXt")]
    assert keys == [b"XML:com.adobe.xmp", b"Comment", b"Software"]
    assert b'DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"' in data
    assert read_rgba(folder / "000000.png").shape == (32, 32, 4)
    with pytest.raises(UserError, match="is in the way of the pictures"):
        avatar.write(tmp_path / "out.png", trained.sound)


def chunks_of(png: bytes, kind: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == kind:
            found.append(png[at + 8 : at + 8 + length])
        at += 12 + length
    return found


def test_a_file_of_a_live_stream_has_its_sound(avatar, trained, tmp_path):
    out = avatar.write(tmp_path / "live.mp4", iter(np.split(pcm(trained), 12)))
    assert probe(out).has_audio and len(list(read_frames(out))) == 8
    written, spoken = read_audio(out)[:4800], read_audio(trained.sound)
    assert np.corrcoef(written, spoken[: len(written)])[0, 1] > 0.8  # AAC of noise


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.avi", "cannot write .avi; give a name that ends in .mp4, .webm, .mov"), ("out", "an extension")],
)
def test_unknown_formats_are_refused_before_anything_is_rendered(avatar, trained, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        avatar.write(tmp_path / name, trained.sound)
    with pytest.raises(UserError, match=".mp4 has no transparency"):
        avatar.write(tmp_path / "out.mp4", trained.sound, background="none")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_into(avatar, trained, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        avatar.write(tmp_path / "file" / "out.mp4", trained.sound)


def test_the_quickstarts_folder_loads_its_torso(trained):
    assert Avatar.load(trained.root).stage.name == "torso"
    with pytest.raises(UserError, match="is not the folder of a trained stage"):
        Avatar.load(trained.data)


@pytest.mark.parametrize("form", ["raw", "mp4"])
def test_the_live_demo_renders_piped_sound(avatar, trained, tmp_path, capsys, form):
    sink = io.BytesIO()
    command = ["stream_demo", f"--workdir={trained.torso}", f"--format={form}", "--background=white"]
    assert stream_demo.main(command, io.BytesIO(pcm(trained).tobytes() + b"x"), sink) == 0
    assert "32x32 at 25 fps, 0.86 s behind the sound" in capsys.readouterr().err
    expected = list(avatar.render(trained.sound, background="white"))
    if form == "raw":
        assert sink.getvalue() == b"".join(frame.tobytes() for frame in expected)
        return
    (tmp_path / "live.mp4").write_bytes(sink.getvalue())
    frames = list(read_frames(tmp_path / "live.mp4"))
    assert len(frames) == 8 and probe(tmp_path / "live.mp4").has_audio
    assert np.abs(frames[3].astype(int) - expected[3]).mean() < 12  # a lossy codec, few pixels


@pytest.mark.parametrize(("making", "waiting", "warnings"), [(0.05, 0.0, 1), (0.03, 0.0, 0), (0.03, 0.2, 0)])
def test_rendering_slower_than_real_time_is_warned_of_once(monkeypatch, capsys, making, waiting, warnings):
    now = 0.0
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now))

    def chunks():
        nonlocal now
        for _ in range(300):
            now += waiting
            yield np.zeros(640, np.int16)

    def frames(sound):
        nonlocal now
        for chunk in sound:
            now += making
            yield chunk

    pace = stream_demo.Pace()
    for _ in pace.time_frames(frames(pace.time_input(chunks()))):
        now += 0.04  # the player's own time
    assert capsys.readouterr().err.count("warning: a frame takes 0.050 s to render and lasts 0.04 s") == warnings


def test_mistakes_of_the_demo_are_one_line(trained, tmp_path, capsys):
    for arguments, message in (
        ([f"--workdir={tmp_path}"], "is not the folder of a trained stage"),
        ([f"--wrokdir={trained.torso}"], "there is no option --wrokdir, did you mean --workdir?"),
        ([f"--workdir={trained.torso}", "--format=avi"], "argument --format: invalid choice: 'avi'"),
        ([f"--workdir={trained.torso}", "--background=none"], "a live stream has no transparency"),
        ([f"--workdir={trained.torso}", "--eyes=wink"], "eyes: there is no 'wink'"),
        ([f"--workdir={trained.torso}"], "no sound was received"),
        ([f"--workdir={trained.torso}", "--format=raw"], "no sound was received"),
    ):
        assert stream_demo.main(["stream_demo", *arguments], io.BytesIO(), io.BytesIO()) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and message in line
