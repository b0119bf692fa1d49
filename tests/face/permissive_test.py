"""Segmentation without weights under a non-commercial licence."""

import os
import pathlib

import cv2
import numpy as np
import pytest
from clips import picked
from oval_face import oval_landmarks

from adnerf_jax.common.errors import UserError
from adnerf_jax.face import landmarks, parsing, permissive_parsing
from adnerf_jax.face.permissive_parsing import PERMISSIVE, _divide
from adnerf_jax.media.video import read_frames
from adnerf_jax.pretrained import selfie_segmentation, weights

_SKIN, _HAIR, _CLOTH = (220, 170, 140), (60, 40, 30), (40, 60, 160)


@pytest.fixture
def mesh() -> np.ndarray:
    """A face 100 px high and 80 wide whose chin is at (100, 160): all landmarks on an ellipse, the jaw's in order."""
    return oval_landmarks((100, 110), (40, 50))


def _draw(long_hair: bool) -> tuple[np.ndarray, np.ndarray]:
    """A person [260, 200, 3] and the true parts: hair, face, neck, cloth."""
    parts = np.zeros((260, 200), np.uint8)
    rgb = np.full((260, 200, 3), 200, np.uint8)

    def paint(mask: np.ndarray, part: int, colour: tuple[int, int, int]) -> None:
        parts[mask], rgb[mask] = part, colour

    y, x = np.mgrid[:260, :200]
    paint((y > 210) | ((y > 190) & (np.abs(x - 100) > 40) & (np.abs(x - 100) < 90)), parsing.TORSO, _CLOTH)
    paint((y > 140) & (y <= 195) & (np.abs(x - 100) < 25), parsing.NECK, _SKIN)
    if long_hair:
        paint((y > 60) & (y < 225) & (np.abs(x - 100) > 34) & (np.abs(x - 100) < 55), parsing.HEAD, _HAIR)
    paint((((x - 100) / 50) ** 2 + ((y - 90) / 60) ** 2 < 1) & (y < 120), parsing.HEAD, _HAIR)
    paint(((x - 100) / 40) ** 2 + ((y - 110) / 50) ** 2 < 1, parsing.HEAD, _SKIN)
    return rgb, parts


@pytest.mark.parametrize("long_hair", [False, True])
def test_landmarks_and_colours_divide_a_person(mesh, long_hair):
    rgb, truth = _draw(long_hair)
    logits = _divide(rgb, np.where(truth > 0, 8.0, -8.0), mesh)
    found = logits.argmax(-1)
    for part in (parsing.HEAD, parsing.TORSO):
        overlap = ((found == part) & (truth == part)).sum() / ((found == part) | (truth == part)).sum()
        assert overlap > 0.93, (part, overlap)  # the drawn parts have sharp borders, the logits soft ones
    # Dividing the person does not change the probability of the background.
    share = np.exp(logits[..., 0]) / np.exp(logits).sum(-1)
    np.testing.assert_allclose(share, 1 / (1 + np.exp(np.where(truth > 0, 8.0, -8.0))), rtol=1e-4)


def test_hair_of_the_colour_of_cloth_does_not_take_the_shoulders(mesh):
    rgb, truth = _draw(long_hair=False)
    rgb[truth == parsing.TORSO] = _HAIR
    found = _divide(rgb, np.where(truth > 0, 8.0, -8.0), mesh).argmax(-1)
    assert (found[truth == parsing.TORSO] != parsing.HEAD).all()


def test_a_small_face_has_two_views_of_the_person(mesh, monkeypatch):
    """A lone channel of logits must survive the resampling of each view; the legs are in the second view alone."""

    class Segmenter:
        def __init__(self, path):
            pass

        def __call__(self, rgb):
            return np.where(rgb[..., 0] < 128, 8.0, -8.0).astype(np.float32)

    monkeypatch.setattr(permissive_parsing, "PersonSegmenter", Segmenter)
    rgb = np.full((700, 400, 3), 255, np.uint8)
    rgb[50:, 60:140] = 0
    (logits,) = permissive_parsing.permissive_logits([(0, rgb)], mesh[None])
    assert logits.shape == (700, 400, 4)
    person = logits.argmax(-1) > 0
    assert person[60:690, 70:130].all() and not person[:, 160:].any()


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "x.tflite"
    for content in (
        b"",
        b"no network at all, but long enough for a header",
        weights.path("face_landmarker").read_bytes(),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match="is not MediaPipe's selfie_segmentation"):
            selfie_segmentation.PersonSegmenter(file)


@pytest.mark.skipif("ADNERF_TEST_DATA" not in os.environ, reason="ADNERF_TEST_DATA is not set")
def test_real_frames_have_the_parts_that_bisenet_finds(monkeypatch):
    data = pathlib.Path(os.environ["ADNERF_TEST_DATA"])
    video = next((data / "obama").glob("obama_20s_450.mp4"))
    frames = [rgb for _, rgb in zip(range(5), read_frames(video, 25.0), strict=False)]
    found = landmarks.detect_video(iter(frames))
    reference = list(parsing.parse_video(picked(frames), found))
    # From here on the weights of the face parsing network cannot be loaded.
    monkeypatch.setenv("ADNERF_FACE_PARSING_PATH", "nowhere")
    ours = list(parsing.parse_video(picked(frames), found, parser=PERMISSIVE))
    for part in (lambda p: p == parsing.HEAD, lambda p: p > parsing.HEAD):
        overlaps = [(part(a) & part(b)).sum() / (part(a) | part(b)).sum() for a, b in zip(ours, reference, strict=True)]
        assert np.mean(overlaps) > 0.96  # 0.978 and 0.985 over 24 frames
    assert cv2.connectedComponents((ours[0] > 0).astype(np.uint8))[0] == 2
    again = list(parsing.parse_video(picked(frames), found, start=2, parser=PERMISSIVE))
    np.testing.assert_array_equal(again[1:], ours[3:])
