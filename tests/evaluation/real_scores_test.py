"""Metrics of a real recording by the real networks: perfect against itself, worse for known distortions."""

import os
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.evaluation.face_metrics import ExpectedLips, face_scores
from adnerf_jax.evaluation.scoring import make_scorer
from adnerf_jax.face.landmarks import INNER_LIPS, OUTER_LIPS, RIGID, Landmarks, detect_video, face_rect, to_ibug68
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import read_frames
from adnerf_jax.speech.features import get_encoder, speech_windows
from adnerf_jax.speech.lips import lip_shapes
from adnerf_jax.speech.sync import LipModel

pytestmark = pytest.mark.slow

CLIP, TRAINED = 480, 340  # frames; those after TRAINED are evaluated


class Recording:
    """Twenty seconds of a speech: evaluated frames uint8 [n, H, W, 3], all landmarks, speech, and expected lips."""

    def __init__(self, path: pathlib.Path):
        frames = []

        def images() -> Iterator[np.ndarray]:
            for k, frame in enumerate(read_frames(path)):
                if k >= CLIP:
                    return
                if k >= TRAINED:
                    frames.append(frame)
                yield frame

        self.landmarks = detect_video(images(), CLIP)
        self.frames = np.stack(frames)
        self.windows = speech_windows(get_encoder("logmel"), read_audio(path, SAMPLE_RATE), CLIP)
        model = LipModel.fit(self.windows, lip_shapes(self.landmarks.points), np.arange(TRAINED))
        self.expected = ExpectedLips(model, self.landmarks.points[0], self.windows)
        self.at = np.arange(TRAINED + 5, CLIP - 5)  # shifts of up to five frames stay inside

    def delayed(self, later: int = 0) -> Landmarks:
        """Landmarks at `at` of a video that is delayed by `later` frames."""
        rows, marks = self.at - later, self.landmarks
        return Landmarks(marks.points[rows], marks.valid[rows], marks.blendshapes[rows])


@pytest.fixture(scope="module")
def recording() -> Recording:
    data = os.environ.get("ADNERF_TEST_DATA")
    if not data:
        pytest.skip("ADNERF_TEST_DATA does not name the folder with the real recordings")
    return Recording(pathlib.Path(data) / "obama/obama_20s_450.mp4")


def scored(recording: Recording, count: int, distort=lambda image: image) -> dict[str, float]:
    """`Scorer`'s metrics of the first evaluated frames after a distortion."""
    scorer, _ = make_scorer("alex", True, min(recording.frames.shape[1:3]))
    rect = face_rect(to_ibug68(recording.landmarks.points[TRAINED:][:1])[0], *recording.frames.shape[2:0:-1])
    for k, frame in enumerate(recording.frames[:count]):
        truth = frame / np.float32(255)
        scorer.add("full", k, TRAINED + k, distort(truth.copy()), truth, rect)
    return scorer.finish({}, {})[0]["full"]


def test_a_recording_against_itself(recording):
    values = scored(recording, 12)
    perfect = {
        "psnr": 100.0, "psnr_face": 100.0, "ssim": 1.0, "ms_ssim": 1.0, "lpips_alex": 0.0, "faces_found": 1.0,
        "lmd_px": 0.0, "lmd_percent": 0.0, "lip_correlation": 1.0, "lip_amplitude": 1.0, "blendshape_error": 0.0,
    }  # fmt: skip
    assert {name: values[name] for name in perfect} == perfect
    assert values["jitter_px"] == values["jitter_px_truth"]
    whole, _ = face_scores(recording.delayed(), recording.delayed(), recording.at, recording.expected)
    assert whole["lip_lag_frames"] == 0 and 25 * whole["av_offset_s"] == pytest.approx(0, abs=1)


def test_a_wrong_background(recording):
    def distort(image: np.ndarray) -> np.ndarray:
        image[:100, :60] = 1 - image[:100, :60]
        return image

    values = scored(recording, 12, distort)
    assert values["psnr"] < 25 and values["ssim"] < 0.99 and values["ms_ssim"] < 0.995 and values["lpips_alex"] > 0.01
    assert values["psnr_face"] == 100.0 and values["lip_correlation"] > 0.99
    assert values["lmd_px"] < 0.3  # the face is the same, but the detector sees another image


@pytest.mark.parametrize("later", [-5, 5])
def test_lips_five_frames_away(recording, later):
    whole, _ = face_scores(recording.delayed(later), recording.delayed(), recording.at, recording.expected)
    assert whole["lip_lag_frames"] == pytest.approx(later, abs=1)
    assert whole["lip_correlation_at_lag"] > 0.99 and whole["lip_correlation"] < 0.6
    assert 25 * whole["av_offset_s"] == pytest.approx(-later, abs=1)  # late lips are early sound


@pytest.mark.parametrize("later", [-5, 5])
def test_sound_five_frames_away(recording, later):
    moved = np.roll(recording.windows, later, axis=0)
    expected = ExpectedLips(recording.expected.model, recording.expected.face, moved)
    whole, _ = face_scores(recording.delayed(), recording.delayed(), recording.at, expected)
    assert 25 * whole["av_offset_s"] == pytest.approx(later, abs=1)
    assert whole["lip_lag_frames"] == 0 and whole["lip_correlation"] == pytest.approx(1.0)


def test_a_frozen_mouth(recording):
    """The mouth of the first frame is pasted over that of every other frame."""
    points = recording.landmarks.points[TRAINED:, :, :2]
    height, width = recording.frames.shape[1:3]
    mouth = np.rint(points[0][[*OUTER_LIPS, *INNER_LIPS]]).astype(np.int32)
    mask = cv2.fillConvexPoly(np.zeros((height, width), np.uint8), cv2.convexHull(mouth), 255)
    mask = cv2.dilate(mask, np.ones((25, 25), np.uint8)).astype(np.float32) / 255
    first = np.dstack([recording.frames[0].astype(np.float32), cv2.GaussianBlur(mask, (0, 0), 4)])
    painted = []
    for frame, place in zip(recording.frames, points, strict=True):
        move, _ = cv2.estimateAffinePartial2D(points[0][RIGID], place[RIGID])
        moved = cv2.warpAffine(first, move, (width, height))
        share = moved[..., 3:]
        painted.append(np.round(share * moved[..., :3] + (1 - share) * frame).astype(np.uint8))
    rows = recording.at - TRAINED
    found = detect_video(painted[k] for k in rows)
    truth = recording.delayed()
    whole, _ = face_scores(found, truth, recording.at, recording.expected)
    perfect, _ = face_scores(truth, truth, recording.at, recording.expected)
    assert whole["faces_found"] == 1.0
    # Not 0: the network infers the lips partly from the jaw, which still moves.
    assert whole["lip_amplitude"] < 0.6 and whole["lip_correlation"] < 0.7
    assert whole["lmd_percent"] > 2.0 and whole["blendshape_error"] > 0.03
    assert whole["av_fit"] < perfect["av_fit"] / 2
    assert whole["jitter_deg"] == pytest.approx(whole["jitter_deg_truth"], rel=0.3)  # the head moves as before
