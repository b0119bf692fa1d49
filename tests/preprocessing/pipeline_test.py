"""The preparation: the files that the published loaders read, resumption of steps, and errors in one line."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from clips import FRAMES, SIZE, WITHOUT_FACE, WITHOUT_POSE, contents, fails, film_portrait

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import write_json
from adnerf_jax.data import schema
from adnerf_jax.data import tracks as measured_tracks
from adnerf_jax.face import parsing
from adnerf_jax.media import image
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import VideoWriter, read_frames
from adnerf_jax.preprocessing import pipeline, steps, transforms
from adnerf_jax.preprocessing.__main__ import main
from adnerf_jax.preprocessing.clip import Clip
from adnerf_jax.preprocessing.resume import Step, run_steps
from adnerf_jax.preprocessing.survey import Survey

# --- resumable steps ----------------------------------------------------------------------------------------------


class Recorder:
    """Four steps that write a file each: a → b → c, and a → d."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.ran, self.fail, self.speech = folder, [], None, "x"

    def _step(self, name, *needs, **options):
        def run(records):
            self.ran.append(name)
            if name == self.fail:
                raise RuntimeError(name)
            (self.folder / f"{name}.txt").write_text(name)
            return {"letter": name}

        return Step(name, run, (f"{name}.txt",), needs, options)

    def run(self, redo=None):
        self.ran = []
        steps = [self._step("a"), self._step("b", "a"), self._step("c", "b"), self._step("d", "a", speech=self.speech)]
        return run_steps(self.folder / "manifest.json", {"video": "v"}, steps, redo)


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path)


def test_finished_steps_are_skipped_and_recorded(recorder):
    recorder.run()
    assert recorder.ran == ["a", "b", "c", "d"]
    records = recorder.run()
    assert recorder.ran == []
    manifest = json.loads((recorder.folder / "manifest.json").read_text())
    assert manifest == {"video": "v", "steps": records} and list(records) == ["a", "b", "c", "d"]
    assert all(record["finished"] and record["seconds"] >= 0 and record["letter"] == n for n, record in records.items())


def test_a_failed_step_is_run_again_and_nothing_before_it(recorder):
    recorder.fail = "b"
    with pytest.raises(RuntimeError):
        recorder.run()
    recorder.fail = None
    recorder.run()
    assert recorder.ran == ["b", "c", "d"]


def test_steps_after_a_redone_step_are_redone_even_after_a_failure(recorder):
    recorder.run()
    recorder.fail = "b"
    with pytest.raises(RuntimeError):
        recorder.run(redo="a")
    assert recorder.ran == ["a", "b"] and not (recorder.folder / "c.txt").exists()
    recorder.fail = None
    recorder.run()
    assert recorder.ran == ["b", "c", "d"]


def test_a_changed_option_or_a_lost_file_redoes_only_the_steps_that_depend_on_it(recorder):
    recorder.run()
    recorder.speech = "y"
    recorder.run()
    assert recorder.ran == ["d"]
    (recorder.folder / "b.txt").unlink()
    recorder.run()
    assert recorder.ran == ["b", "c"]


@pytest.mark.parametrize("changed", [{"letter": 5}, {"facts": None}, {"more": 1}])
def test_a_step_whose_facts_were_changed_is_redone(recorder, changed):
    recorder.run()
    manifest = json.loads((recorder.folder / "manifest.json").read_text())
    manifest["steps"]["b"].update(changed)
    (recorder.folder / "manifest.json").write_text(json.dumps(manifest))
    recorder.run()
    assert recorder.ran == ["b", "c"]


# --- the real steps with stubs in place of the networks -------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return film_portrait(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_a_killed_run_resumes_and_gives_the_same_dataset(nets, clip, tmp_path):
    run = ["--video", str(clip), "--speech", "logmel", "--out"]
    assert main([*run, str(tmp_path / "whole")]) == 0
    assert nets["parsed"] == FRAMES

    nets.update(parsed=0, die_at=20)
    broken = tmp_path / "broken"
    assert main([*run, str(broken)]) == 130
    assert not schema.load_manifest(broken)["steps"]["parsing"]["finished"]
    (broken / "parsing" / ".7.1.part.png").write_bytes(b"half")
    nets.update(parsed=0, die_at=None)
    assert main([*run, str(broken)]) == 0
    assert 0 < nets["parsed"] <= FRAMES - 10  # most of the 19 were written before the interruption
    assert contents(tmp_path / "whole") == contents(broken)


def test_another_parsing_reruns_and_an_unknown_one_is_refused(nets, clip, tmp_path, capsys):
    run = ["--video", str(clip), "--speech", "logmel", "--out", str(tmp_path / "d")]
    assert main(run) == 0
    assert main([*run, "--parsing", "permissive"]) == 0
    assert nets["parsed"] == 2 * FRAMES
    assert "choose one of bisenet, permissive" in fails(capsys, *run, "--parsing", "other")


def test_frames_without_face_or_pose_are_left_out_and_indices_stay_aligned(nets, clip, tmp_path):
    pipeline.prepare(clip, tmp_path / "d", speech="logmel")
    index = schema.load_index(tmp_path / "d")
    ids = np.concatenate([index.train.img_id, index.val.img_id])
    expected = np.setdiff1d(np.arange(FRAMES), [*WITHOUT_FACE, WITHOUT_POSE])
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(np.concatenate([index.train.aud_id, index.val.aud_id]), ids)
    assert len(index.train) == len(expected) * 10 // 11
    assert np.isfinite(np.load(tmp_path / "d" / schema.EYES)).all()
    assert len(schema.load_audio_windows(tmp_path / "d")) == FRAMES


@pytest.mark.parametrize(("covered", "left_out"), [(range(10, 16), True), (range(5, 50), False)])
def test_frames_with_a_covered_mouth_are_counted_and_left_out_of_the_index(
    nets, clip, tmp_path, monkeypatch, capsys, covered, left_out
):
    def covered_frames(colours):
        return np.isin([k for k in range(FRAMES) if k not in WITHOUT_FACE], covered)

    monkeypatch.setattr(steps.covered_mouth, "covered_frames", covered_frames)
    out = tmp_path / "d"
    assert main(["--video", str(clip), "--out", str(out), "--speech", "logmel"]) == 0
    index = schema.load_index(out)
    indexed = {*index.train.img_id.tolist(), *index.val.img_id.tolist()}
    expected = {*range(FRAMES)} - {*WITHOUT_FACE, WITHOUT_POSE} - (set(covered) if left_out else set())
    assert indexed == expected
    count = len(set(covered) - set(WITHOUT_FACE))
    said = "they are left out" if left_out else "no lips can be learned"
    assert (
        f"in {count} of {FRAMES - len(WITHOUT_FACE)} frames something covers the mouth; {said}"
        in capsys.readouterr().err
    )
    # Few frames with lips: none are learned, rather than those of what covers them.
    assert (measured_tracks.read_lips(measured_tracks.Clip(out, FRAMES, FRAMES - 1)) is None) != left_out


def test_training_images_show_the_person_over_the_recovered_background(nets, clip, tmp_path):
    pipeline.prepare(clip, tmp_path / "d", speech="logmel")
    clean = cv2.imread(str(tmp_path / "d" / schema.LOSSLESS_BACKGROUND))
    slope = np.linspace(40, 120, SIZE)[None, :, None]
    assert (
        np.abs(clean[:, 3:-3] - slope[:, 3:-3]).max() < 12
    )  # H.264 at CRF 18, and the filled region behind the square
    i, original = 10, list(read_frames(clip))[10][..., ::-1]
    parts = parsing.read_parts(tmp_path / "d" / schema.parsing_image(i))
    lossless = cv2.imread(str(tmp_path / "d" / schema.lossless_image(i)))
    alpha = cv2.imread(str(tmp_path / "d" / schema.alpha_image(i)), cv2.IMREAD_GRAYSCALE)
    parts = parsing.extend_to_alpha(parts, alpha)
    background = parts == parsing.BACKGROUND
    np.testing.assert_array_equal(background, alpha == 0)
    np.testing.assert_array_equal(lossless[background], clean[background])
    np.testing.assert_array_equal(lossless[~background], original[~background])
    head = cv2.imread(str(tmp_path / "d" / schema.head_image(i))).astype(int)
    truth = np.where((parts == parsing.HEAD)[..., None], original, clean)
    assert np.abs(head - truth).mean() < 4  # JPEG with halved chroma, on a square of saturated yellow


def test_held_out_frames_do_not_contribute_to_the_background(nets, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        steps.background,
        "clean_background",
        lambda frames: (
            np.zeros((SIZE, SIZE, 3), np.uint8),
            np.full((SIZE, SIZE), len([seen.append(f) for f in frames])),
        ),
    )
    chosen = []
    monkeypatch.setattr(
        steps.background, "choose_frames", lambda ids, height, width: chosen.extend(ids.tolist()) or ids
    )
    pipeline.prepare(film_portrait(tmp_path / "v.mp4"), tmp_path / "d", speech="logmel")
    val = schema.load_index(tmp_path / "d").val.img_id
    assert len(val) and len(seen) == len(chosen) and not set(val.tolist()) & set(chosen)


def test_only_the_speech_is_redone_when_only_the_speech_changes(nets, clip, tmp_path):
    pipeline.prepare(clip, tmp_path / "d", speech="logmel")
    np.save(tmp_path / "logits.npy", np.random.default_rng(0).normal(size=(2 * FRAMES, 29)).astype(np.float32))
    nets["parsed"] = 0
    pipeline.prepare(clip, tmp_path / "d", speech=str(tmp_path / "logits.npy"))
    assert nets["parsed"] == 0
    assert schema.load_audio_windows(tmp_path / "d").shape == (FRAMES, 16, 29)
    assert schema.load_manifest(tmp_path / "d")["speech"]["encoder"] == "deepspeech"


# --- wrong input and options --------------------------------------------------------------------------------------


def test_videos_that_cannot_be_used(nets, tmp_path, capsys):
    out = tmp_path / "d"
    assert "no such file" in fails(capsys, "--video", tmp_path / "no.mp4", "--out", out)
    (tmp_path / "text.mp4").write_text("hello")
    assert "not a sound or video file" in fails(capsys, "--video", tmp_path / "text.mp4", "--out", out)
    silent = film_portrait(tmp_path / "silent.mp4", sound=False)
    assert "has no sound track" in fails(capsys, "--video", silent, "--out", out)
    short = film_portrait(tmp_path / "short.mp4", frames=20)
    assert "at least 2 s" in fails(capsys, "--video", short, "--out", out)
    assert not out.exists()
    nets["faces"] = False
    clip = film_portrait(tmp_path / "nobody.mp4")
    line = fails(capsys, "--video", clip, "--out", out, "--speech", "logmel")
    assert f"a face was found in 0 of {FRAMES} frames" in line
    with pytest.raises(Exception, match="not a finished dataset"):
        schema.load_index(out)


def test_options_out_of_range_are_refused(nets, clip, tmp_path, capsys):
    run = ("--video", clip, "--out", tmp_path / "d")
    assert "--focal is -3.0: give the focal length" in fails(capsys, *run, "--focal", "-3")
    assert "no speech encoder" in fails(capsys, *run, "--speech", "wisper")
    assert "cannot read" in fails(capsys, *run, "--speech", tmp_path / "none.npy")
    assert "--redo is 'frame', but there is no such step" in fails(
        capsys, *run, "--speech", "logmel", "--redo", "frame"
    )
    np.save(tmp_path / "short.npy", np.zeros((10, 16, 29), np.float32))
    assert "extract them from the sound of this video" in fails(capsys, *run, "--speech", tmp_path / "short.npy")


def test_a_folder_with_other_contents_is_refused_and_unchanged(nets, clip, tmp_path, capsys):
    pipeline.prepare(clip, tmp_path / "d", speech="logmel")
    before = contents(tmp_path / "d")
    other = film_portrait(tmp_path / "other.mp4", frames=FRAMES + 1)
    line = fails(capsys, "--video", other, "--out", tmp_path / "d")
    assert "made from another video (clip.mp4): choose another --out, or delete" in line
    assert contents(tmp_path / "d") == before
    for other in ("[]", '{"video": "mine"}', '{"video": {}, "steps": []}'):  # of another program
        (tmp_path / "d" / schema.MANIFEST).write_text(other)
        assert "was not written by this program" in fails(capsys, "--video", clip, "--out", tmp_path / "d")
    assert contents(tmp_path / "d") == before
    (tmp_path / "d" / schema.MANIFEST).unlink()
    assert "did not make" in fails(capsys, "--video", clip, "--out", tmp_path / "d")
    assert "is a file" in fails(capsys, "--video", clip, "--out", clip)


def test_an_incomplete_survey_in_the_manifest_is_measured_again(nets, clip, tmp_path):
    pipeline.prepare(clip, tmp_path / "d", speech="logmel")
    manifest = schema.load_manifest(tmp_path / "d")
    survey = manifest["survey"].pop("brightness")
    manifest["steps"]["report"] = {}
    write_json(tmp_path / "d" / schema.MANIFEST, manifest)
    pipeline.prepare(clip, tmp_path / "d", speech="logmel")
    assert schema.load_manifest(tmp_path / "d")["survey"]["brightness"] == survey


@pytest.mark.parametrize(
    ("name", "value"), [("frames", "x"), ("cuts", 3), ("cuts", ["a"]), ("start", None), ("duration", 1e308)]
)
def test_a_survey_of_other_types_is_measured_again(nets, clip, name, value):
    saved = json.loads(json.dumps(pipeline.survey_video(pipeline.probe(clip)).to_json()))
    assert Survey.from_json(saved) == pipeline.survey_video(pipeline.probe(clip))
    assert Survey.from_json(saved | {name: value}) is None


def test_a_preparation_deletes_and_writes_through_no_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/0.png").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "d/gt").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="gt is a link to .*mine"):
        run_steps(tmp_path / "d/manifest.json", {}, [Step("a", lambda _: {}, ("gt/*.png",))])
    assert (tmp_path / "mine/0.png").exists()


def test_records_that_are_none_are_done_again(recorder):
    recorder.run()
    manifest = recorder.folder / "manifest.json"
    saved = json.loads(manifest.read_text())
    saved["steps"]["c"] = 3
    manifest.write_text(json.dumps(saved))
    recorder.run()
    assert recorder.ran == ["c"]


@pytest.mark.parametrize("name", [schema.LANDMARKS, schema.TRACK])
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"PK" + data])
def test_a_damaged_file_is_reported_and_made_again_once_deleted(nets, clip, tmp_path, capsys, name, damage):
    run = ("--video", clip, "--out", tmp_path / "d", "--speech", "logmel")
    pipeline.prepare(clip, tmp_path / "d", speech="logmel")
    before, path = contents(tmp_path / "d"), tmp_path / "d" / name
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} is damaged" in fails(capsys, *run, "--redo", "background" if name == schema.TRACK else "parsing")
    path.unlink()
    assert main([str(a) for a in run]) == 0
    assert contents(tmp_path / "d") == before


def test_a_full_disk_gives_one_line_and_the_next_run_continues(nets, clip, tmp_path, capsys, monkeypatch):
    write = image.write_bytes

    def full(path, data):
        if pathlib.Path(path).parent.name == "gt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    run = ("--video", clip, "--out", tmp_path / "d", "--speech", "logmel")
    monkeypatch.setattr(image, "write_bytes", full)
    assert "the disk is full" in fails(capsys, *run, status=1)
    monkeypatch.setattr(image, "write_bytes", write)
    assert main([str(a) for a in run]) == 0


def test_a_given_offset_shifts_the_sound(nets, clip, tmp_path, capsys):
    run = ("--video", clip, "--out", tmp_path / "d", "--speech", "logmel")
    assert main([str(a) for a in (*run, "--audio_offset", "0")]) == 0
    before = read_audio(tmp_path / "d" / schema.SOUND)
    assert main([str(a) for a in (*run, "--audio_offset", "0.2")]) == 0
    after = read_audio(tmp_path / "d" / schema.SOUND)
    np.testing.assert_array_equal(after, np.append(before[3200:], np.zeros(3200, np.float32)))
    record = json.loads((tmp_path / "d" / schema.MANIFEST).read_text())["steps"]["sound"]
    assert record["moved_earlier_s"] == 0.2
    assert "--audio_offset is 7.0: give seconds from -5 to 5" in fails(capsys, *run, "--audio_offset", "7")


def test_help_imports_nothing_heavy_and_names_steps_and_licence(tmp_path, clip):
    program = (
        "import sys; from adnerf_jax.preprocessing.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: sys.exit('heavy imports: ' + ' '.join({'jax', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "heavy imports:"
    assert "non-commercial" in done.stdout
    info = pipeline.probe(clip)
    job = steps.Job(Clip(info, 0.0, info.duration, SIZE, SIZE), tmp_path, 1.0, "logmel", None)
    assert all(step.name in done.stdout for step in pipeline.make_steps(job))


# --- a real recording ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_dataset(tmp_path_factory):
    """2.2 s of a real portrait, prepared with the real networks; the built-in subject if there are no recordings."""
    folder = tmp_path_factory.mktemp("real")
    video = folder / "talk.mp4"
    if data := os.environ.get("ADNERF_TEST_DATA"):
        source = pathlib.Path(data) / "obama" / "obama_20s_450.mp4"
        with VideoWriter(video, 450, 450, sound=source) as writer:
            for rgb in read_frames(source, duration=2.2):
                writer.write(rgb)
    else:
        from adnerf_jax.preprocessing.synthetic_subject.film import make_subject

        make_subject(folder / "subject", size=96, seconds=2, driving_seconds=2)
        video = folder / "subject" / "subject.mp4"
    pipeline.prepare(video, folder / "dataset")
    return folder / "dataset"


def test_files_and_keys_that_the_published_loaders_read(real_dataset):
    """Everything that `load_audface.py` of HeadNeRF and TorsoNeRF reads."""
    sound = json.loads((real_dataset / "manifest.json").read_text())["steps"]["sound"]
    assert (sound["track"], sound["channel"]) == (1, None)
    background = cv2.imread(str(real_dataset / "bc.jpg"))
    height, width = background.shape[:2]
    aud = np.load(real_dataset / "aud.npy")
    assert aud.ndim == 3 and aud.shape[1] == 16 and np.isfinite(aud).all()
    counts = []
    for split in ("train", "val"):
        meta = json.loads((real_dataset / f"transforms_{split}.json").read_text())
        assert float(meta["focal_len"]) == pytest.approx(8 / 3 * width)
        assert (float(meta["cx"]), float(meta["cy"])) == (width / 2, height / 2)
        counts.append(len(meta["frames"]))
        for frame in meta["frames"]:
            for folder in ("head_imgs", "com_imgs"):
                image = cv2.imread(str(real_dataset / folder / f"{frame['img_id']}.jpg"))
                assert image is not None and image.shape == background.shape
            assert 0 <= frame["aud_id"] < len(aud)
            pose = np.array(frame["transform_matrix"])
            assert pose.shape == (4, 4) and np.isfinite(pose).all()
            np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-5)
            x, y, w, h = frame["face_rect"]
            assert 0 <= x < x + w <= width and 0 <= y < y + h <= height
    assert counts[0] == sum(counts) * 10 // 11 and counts[1] >= 1


def test_other_files_of_the_dataset(real_dataset):
    manifest = schema.load_manifest(real_dataset)
    assert manifest["speech"] == {"encoder": "whisper"}
    assert all(record["seconds"] >= 0 for record in manifest["steps"].values())
    pose = manifest["steps"]["pose"]
    assert pose["reprojection_px"] < 1.0 and pose["flow_points"] >= 30
    frames = manifest["steps"]["frames"]["frames"]
    report = json.loads((real_dataset / "report.json").read_text())
    assert {"length", "camera motion", "range of yaw"} <= {check["name"] for check in report["checks"]}
    assert cv2.imread(str(real_dataset / "preview.png")).shape[1] == 1200
    assert len(np.load(real_dataset / schema.EYES)) == frames
    assert abs(len(read_audio(real_dataset / schema.SOUND)) - frames * 640) <= 640
    index = schema.load_index(real_dataset)
    near, far = index.near_far
    assert 0.2 < near < far < 2.0
    for i in np.concatenate([index.train.img_id, index.val.img_id]):
        assert np.loadtxt(real_dataset / schema.landmark_file(i)).shape == (68, 2)
        for name in (schema.original_image, schema.lossless_image, schema.parsing_image):
            assert cv2.imread(str(real_dataset / name(i))) is not None


def test_split_keeps_the_order_and_holds_out_at_least_one_frame():
    train, val = transforms.split(np.arange(5, 16))
    assert train.tolist() == list(range(5, 15)) and val.tolist() == [15]
    train, val = transforms.split(np.arange(2))
    assert len(train) == len(val) == 1
