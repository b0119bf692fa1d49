"""The whole person: what a person network sees and hangs together with the head."""

import cv2
import numpy as np
import pytest
from oval_face import oval_landmarks

from adnerf_jax.face import parsing, person
from adnerf_jax.face.landmarks import Landmarks

SIZE = 200


def _logits(seen: np.ndarray) -> np.ndarray:
    return np.where(seen, 8.0, -8.0)


@pytest.fixture
def portrait() -> np.ndarray:
    """Part map [200, 200]: a head over a neck over a torso."""
    y, x = np.mgrid[:SIZE, :SIZE]
    parts = np.zeros((SIZE, SIZE), np.uint8)
    parts[(y > 120) & (np.abs(x - 100) < 40)] = parsing.TORSO
    parts[(y > 90) & (y <= 120) & (np.abs(x - 100) < 14)] = parsing.NECK
    parts[((x - 100) / 24) ** 2 + ((y - 66) / 32) ** 2 < 1] = parsing.HEAD
    return parts


@pytest.fixture
def points() -> np.ndarray:
    """Landmarks [478, 2] on the face's outline: forehead at y 40, jaw angles at y 78, chin at y 98."""
    return oval_landmarks((100, 69), (22, 29))


def test_an_arm_that_the_parser_misses_is_torso(portrait, points):
    seen = portrait > 0
    seen[130:145, 130:190] = True
    parts = parsing.clean_parts(portrait, points, _logits(seen))
    assert (parts[131:144, 141:189] == parsing.TORSO).all()
    np.testing.assert_array_equal(parts[:120], portrait[:120])


def test_hands_beside_the_face_are_no_head(portrait, points):
    seen = portrait > 0
    seen[40:199, 122:150] = True  # an arm raised, its hand at the cheek
    parts = parsing.clean_parts(portrait, points, _logits(seen))
    assert (parts[50:80, 128:148] == parsing.TORSO).all()


def test_hair_at_the_nape_is_no_background(portrait, points):
    seen = portrait > 0
    seen[85:112, 80:90] = seen[85:112, 110:120] = True
    parts = parsing.clean_parts(portrait, points, _logits(seen))
    assert (parts[95:110, 81:119] != parsing.BACKGROUND).all()


def test_two_people_apart_stay_two(portrait, points):
    seen = portrait > 0
    seen[120:, 150:] = True
    parts = portrait.copy()
    parts[130:, 160:] = parsing.TORSO
    for found in (portrait, parts):
        np.testing.assert_array_equal(parsing.clean_parts(found, points, _logits(seen)), portrait)


def test_holes_are_never_background(portrait, points):
    seen = portrait > 0
    holed = portrait.copy()
    holed[130:170, 80:120] = parsing.BACKGROUND
    np.testing.assert_array_equal(parsing.clean_parts(holed, points, _logits(seen)), portrait)
    np.testing.assert_array_equal(parsing.clean_parts(holed, points, _logits(holed > 0)), portrait)


def test_the_parser_decides_at_its_edge(portrait, points):
    """The person network's edge is a pixel off everywhere."""
    disc = np.ones((3, 3), np.uint8)
    mask = (portrait > 0).astype(np.uint8)
    for seen in (cv2.dilate(mask, disc), cv2.erode(mask, disc)):
        np.testing.assert_array_equal(parsing.clean_parts(portrait, points, _logits(seen > 0)), portrait)


def test_furniture_that_the_parser_takes_for_clothes_is_background(portrait, points):
    sofa = portrait.copy()
    sofa[150:, :] = np.where(sofa[150:, :] > 0, sofa[150:, :], parsing.TORSO)
    np.testing.assert_array_equal(parsing.clean_parts(sofa, points, _logits(portrait > 0)), portrait)
    # A network that does not see the head has no say on the body.
    np.testing.assert_array_equal(parsing.clean_parts(sofa, points, _logits(np.zeros_like(portrait, bool))), sofa)


def test_skin_below_the_jaw_is_neck_and_hair_is_not(points):
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[40:125, 84:116] = parsing.HEAD  # skin down to the collar
    labels[40:125, 70:84] = parsing._HAIR
    labels[170:190, 90:110] = parsing.HEAD  # hands
    parts = parsing.assign_neck(labels, points)
    assert (parts[104:125, 84:116] == parsing.NECK).all() and (parts[40:96, 90:110] == parsing.HEAD).all()
    assert (parts[40:125, 70:84] == parsing.HEAD).all() and (parts[170:190, 90:110] == parsing.TORSO).all()


def test_agreement_is_the_overlap_with_what_hangs_together(portrait):
    found = portrait > 0
    assert person.agreement(found, _logits(found)) == 1.0
    elsewhere = found.copy()
    elsewhere[120:, 150:] = True
    assert person.agreement(found, _logits(elsewhere)) == 1.0
    half = found & (np.arange(SIZE) < 100)
    assert person.agreement(found, _logits(half)) == pytest.approx(half.sum() / found.sum())


class _Segmenter:
    """Stands in for the network: dark is a person. Counts its runs."""

    runs = 0

    def __init__(self, path):
        pass

    def __call__(self, rgb):
        type(self).runs += 1
        return np.where(rgb[..., 0] < 128, 8.0, -8.0).astype(np.float32)


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("start", [0, 2])
def test_the_network_runs_between_key_frames_only_where_something_moves(portrait, points, monkeypatch, moves, start):
    monkeypatch.setattr(person, "PersonSegmenter", _Segmenter)
    monkeypatch.setattr(_Segmenter, "runs", 0)
    frames = []
    for i in range(7):
        rgb = np.where(portrait[..., None] > 0, 0, 255).astype(np.uint8).repeat(3, -1)
        rgb[150:180, 130 : 135 + 10 * i * moves] = 0  # an arm
        frames.append(rgb)

    def logits(numbered, points):
        for _ in numbered:
            yield np.eye(4, dtype=np.float32)[portrait]

    found = Landmarks(np.tile(np.pad(points, ((0, 0), (0, 1))), (7, 1, 1)), np.ones(7, bool), np.zeros((7, 52)))
    agreements: list[float] = []
    read = lambda ids: ((i, frames[i]) for i in ids)  # noqa: E731
    maps = list(parsing.parse_video(read, found, start, parsing.Parser(logits, 3), agreements))
    assert len(maps) == 7 - start and _Segmenter.runs == (7 if moves else 3)
    assert agreements == ([] if start else [pytest.approx(1.0, abs=0.02)])
    if moves:
        for i, parts in enumerate(maps, start):
            if 0 < i < 6:
                assert (parts[152:178, 140 : 125 + 10 * i] == parsing.TORSO).all()
