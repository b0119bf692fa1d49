"""The recovered background: free of the person, exact where it was visible, smooth elsewhere."""

import numpy as np
import pytest

from adnerf_jax.preprocessing import background


def test_far_from_is_the_euclidean_distance_to_the_nearest_pixel_of_the_person():
    person = np.zeros((21, 31), bool)
    person[10, 15] = person[2, 3] = True
    rows, columns = np.mgrid[:21, :31]
    distance = np.minimum(np.hypot(rows - 10, columns - 15), np.hypot(rows - 2, columns - 3))
    np.testing.assert_array_equal(background.far_from(person, 5.0), distance > 5.0)
    assert background.far_from(np.zeros((3, 4), bool), 5.0).all()


def test_masked_median_equals_the_median_of_visible_pixels():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (7, 5, 6, 3), np.uint8)
    seen = rng.random((7, 5, 6)) < 0.5
    seen[:, 0, 0] = False
    median = background.masked_median(pictures, seen)
    for row in range(5):
        for column in range(6):
            values = pictures[seen[:, row, column], row, column]
            expected = np.median(values, axis=0) if len(values) else np.zeros(3)
            np.testing.assert_array_equal(median[row, column], expected)


@pytest.mark.parametrize(
    "harmonic", [lambda x, y: x + 2 * y, lambda x, y: (x * x - y * y) / 50], ids=["ramp", "saddle"]
)
def test_filling_solves_laplaces_equation(harmonic):
    rows, columns = np.mgrid[:97, :130]
    truth = harmonic(columns, rows).astype(float)[..., None].repeat(2, axis=-1)
    known = np.ones((97, 130), bool)
    known[20:70, 30:110] = known[80:90, 3:8] = False  # the values around a hole determine a harmonic function
    filled = background.fill_smoothly(np.where(known[..., None], truth, 1e6), known)
    np.testing.assert_array_equal(filled[known], truth[known])
    # the discrete solution is exact for these two; the rest is the solver's tolerance: 1e-4 of values up to 340
    np.testing.assert_allclose(filled, truth, atol=0.2)


def test_filling_stays_within_the_range_of_the_known_pixels():
    rng = np.random.default_rng(1)
    values = rng.uniform(50, 200, (40, 40, 3))
    known = np.zeros((40, 40), bool)
    known[:12] = known[:, :6] = True
    filled = background.fill_smoothly(values, known)
    assert filled.min() >= values[known].min() - 0.1 and filled.max() <= values[known].max() + 0.1
    assert (background.fill_smoothly(values, np.zeros((40, 40), bool)) == background.NEVER_SEEN).all()


def test_a_moving_person_does_not_appear_in_the_background():
    height, width, radius = 96, 128, 14
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[:height, :width]
    scene = np.stack([rows * 2, columns, rows + columns], axis=-1).astype(np.float32)

    def frame(k):
        """A bright disc that moves to the right, with a soft halo of two pixels outside its mask, on a noisy scene."""
        distance = np.hypot(rows - 60, columns - 30 - 6 * k)
        alpha = np.clip(radius + 2 - distance, 0, 1)[..., None]
        picture = scene + rng.normal(0, 4, scene.shape)
        return np.clip(picture * (1 - alpha) + 255 * alpha, 0, 255).astype(np.uint8), distance <= radius

    clean, count = background.clean_background(frame(k) for k in range(12))
    assert count.max() == 12 and (count > 0).all()
    error = np.abs(clean.astype(float) - np.clip(scene, 0, 255))
    assert error.mean() < 2.0  # the noise's mean deviation is 3.2, reduced by the median over up to 12 frames
    assert error.max() < 20.0  # no trace of the disc, which is at least 60 brighter


def test_pixels_visible_only_through_a_parsing_mistake_are_filled():
    picture, person = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32), bool)
    picture[8:24, 8:24], person[8:24, 8:24] = 255, True
    frames = [(picture, person)] * 39 + [(picture, np.zeros((32, 32), bool))]
    clean, count = background.clean_background(frames)
    assert (count[10:22, 10:22] == 0).all()
    np.testing.assert_allclose(clean, 90, atol=1)


def test_chosen_frames_are_spread_evenly_and_fit_in_memory():
    ids = np.arange(5, 7505)
    chosen = background.choose_frames(ids, 450, 450)
    assert len(chosen) == background.MAX_FRAMES and chosen[0] == 5 and chosen[-1] == 7504
    assert np.ptp(np.diff(chosen)) <= 1
    large = background.choose_frames(ids, 2160, 3840)
    assert 3 <= len(large) and len(large) * 2160 * 3840 * 4 <= background.MEMORY
    assert background.choose_frames(np.array([7]), 450, 450).tolist() == [7]


def test_the_person_left_in_a_background_is_measured(monkeypatch):
    class Segmenter:
        def __init__(self, path):
            pass

        def __call__(self, rgb):
            return np.where(rgb[..., 0] > 128, 8.0, -8.0).astype(np.float32)

    monkeypatch.setattr(background, "PersonSegmenter", Segmenter)
    picture, frame = np.zeros((2, 100, 200, 3), np.uint8)
    frame[50:] = 255
    assert background.person_left(picture, [frame]) == 0.0
    picture[50:, :40] = 255
    assert background.person_left(picture, [0 * frame, frame]) == pytest.approx(0.1, abs=0.01)
    assert background.person_left(picture, [0 * frame]) == 0.0  # a thing, not a person, in the frames


def test_nothing_of_the_person_glows_in_a_background_that_is_never_uncovered():
    """A person from edge to edge of the picture's bottom, with a soft edge of skin, who does not move."""
    rows, columns = np.mgrid[:120, :90]
    distance = np.hypot(rows - 120, columns - 45) - 50
    alpha = np.clip(0.5 - distance / 2, 0, 1)[..., None]
    picture = (alpha * (220, 150, 120) + (1 - alpha) * (40, 80, 140)).astype(np.uint8)
    clean, count = background.clean_background([(picture, distance <= 0)] * 4)
    assert (count[80:, 30:60] == 0).all()
    assert np.abs(clean.astype(int) - (40, 80, 140)).max() <= 3
