"""The lips code on made-up speech that is known to move the lips: what it estimates, and its rest in pauses."""

from collections.abc import Callable

import numpy as np
import pytest

from adnerf_jax.common.types import Conditions
from adnerf_jax.data.datasets import neighbours_in_time
from adnerf_jax.face.landmarks import INNER_LIPS, OUTER_LIPS
from adnerf_jax.models.codes.base import Recording
from adnerf_jax.models.codes.lips import LipsCode
from adnerf_jax.models.codes.silence import fit_silence
from adnerf_jax.speech.features import windows
from adnerf_jax.speech.lips import lip_gap

FRAMES, TRAINED = 500, 400
LOUD, QUIET = -20.0, -60.0  # dB
POINTS = len(OUTER_LIPS) + len(INNER_LIPS)
UPPER, LOWER = len(OUTER_LIPS) + np.array([14, 15, 16]), len(OUTER_LIPS) + np.array([6, 5, 4])


class Person:
    """Speech of white noise that moves three aspects of the lips at the time of a frame, and shuts up in some frames.

    Args:
      pauses: ranges of frames without sound.
      rest: opening of the lips there, in standard deviations; None: as the speech features have it.
    """

    def __init__(self, *pauses: range, rest: float | None = None):
        rng = np.random.default_rng(0)
        silent = np.zeros(FRAMES, bool)
        for pause in pauses:
            silent[pause] = True
        features = rng.normal(size=(2 * FRAMES, 8)).astype(np.float32)
        features[:, 0] = np.where(np.repeat(silent, 2), -1.0, 1.0) + 0.05 * features[:, 0]
        self.windows = windows(features, FRAMES)
        moves = (features[::2, 1:4] + features[1::2, 1:4]) / np.sqrt(2)  # the 40 ms from the frame's time on
        if rest is not None:
            moves[silent] = [rest, 0, 0]
        self.moves = moves
        # White noise has no smoother estimate: the average over three frames leaves a half of each, of its neighbours a
        # quarter.
        self.seen = moves.copy()
        self.seen[1:-1] = 0.25 * moves[:-2] + 0.5 * moves[1:-1] + 0.25 * moves[2:]
        opening, widening, pouting = np.zeros((3, POINTS, 3))
        opening[UPPER, 1], opening[LOWER, 1] = -3.0, 3.0
        widening[: len(OUTER_LIPS), 0] = 1.0
        pouting[: len(OUTER_LIPS), 2] = 0.5
        shape = rng.normal(size=(POINTS, 3)) * 20
        shape[LOWER] = shape[UPPER] + [0, 25.0, 0]
        basis = np.stack([opening, widening, pouting])
        self.lips = (shape + np.einsum("nk,kpc->npc", moves, basis)).reshape(FRAMES, -1).astype(np.float32)
        self.loudness = np.where(silent, QUIET, LOUD + rng.normal(size=FRAMES))[:, None].astype(np.float32)

    def fit(self, sound: bool = True) -> dict[str, np.ndarray]:
        """The constants from the first frames."""
        tracks = {"lips": self.lips[:TRAINED]} | ({"loudness": self.loudness[:TRAINED]} if sound else {})
        return LipsCode().fit(Recording(self.windows[:TRAINED], tracks, 64))

    def codes(self, constants: dict[str, np.ndarray]) -> np.ndarray:
        """The code in all frames [N, M]."""
        around = Conditions(self.windows[neighbours_in_time(FRAMES)], {})
        return np.asarray(LipsCode().encode(around, constants, True))


def explained(codes: np.ndarray, truth: np.ndarray) -> float:
    """Share of the variance of `truth` [N] that a linear function of the codes [N, M] explains."""
    inputs = np.column_stack([codes, np.ones(len(codes))])
    left = truth - inputs @ np.linalg.lstsq(inputs, truth, rcond=None)[0]
    return 1 - left.var() / truth.var()


def opening(person: Person, codes: np.ndarray) -> Callable[[np.ndarray], float]:
    """The function from a code [M] to the opening of the lips that it stands for, fitted to the training frames."""
    inputs = np.column_stack([codes[:TRAINED], np.ones(TRAINED)])
    weights = np.linalg.lstsq(inputs, person.seen[:TRAINED, 0], rcond=None)[0]
    return lambda code: float(np.append(code, 1) @ weights)


def test_three_aspects_of_the_lips_are_estimated_at_their_own_time():
    person = Person()
    codes = person.codes(person.fit(sound=False))
    held_out = slice(TRAINED, -1)
    for aspect in range(3):
        assert explained(codes[held_out], person.seen[held_out, aspect]) > 0.9
    for lag in (-2, 2, 7):
        late = np.roll(person.seen, lag, axis=0)
        assert max(explained(codes[held_out], late[held_out, k]) for k in range(3)) < 0.3


def test_the_gap_of_the_inner_lips():
    person = Person()
    np.testing.assert_allclose(lip_gap(person.lips), np.abs(25 + 6 * person.moves[:, 0]), rtol=1e-4)


def test_in_pauses_the_lips_are_as_the_person_has_them_there():
    person = Person(range(100, 130), range(300, 330), range(430, 460), range(480, 486), rest=-1.5)
    constants = person.fit()
    plain, codes = person.codes({name: constants[name] for name in ("weights", "bias")}), person.codes(constants)
    pause = codes[438:452]
    np.testing.assert_allclose(pause, np.broadcast_to(constants["rest"], pause.shape), atol=0.05)
    assert opening(person, codes)(constants["rest"]) == pytest.approx(-1.5, abs=0.3)
    # Neither speech nor a short pause is changed; towards a long one the change is gradual.
    for part in (slice(136, 290), slice(340, 420), slice(476, 490)):
        np.testing.assert_allclose(codes[part], plain[part], atol=1e-5)
    way = np.abs(np.diff(codes[426:440] - plain[426:440], axis=0)).max()
    assert way < 0.5 * np.abs(constants["rest"]).max()


def test_of_a_person_who_hardly_pauses_the_rest_is_that_of_closed_lips():
    person = Person(range(100, 110), range(200, 206), range(430, 460))
    constants = person.fit()
    codes = person.codes(constants)
    assert opening(person, codes)(codes[445]) < np.quantile(person.moves[:, 0], 0.2)


def test_without_sound_or_pauses_nothing_is_known_of_rest():
    person = Person(range(100, 130), rest=-1.5)
    assert person.fit(sound=False).keys() == {"weights", "bias"}
    assert Person().fit().keys() == {"weights", "bias"}
    assert fit_silence(person.windows, person.loudness[:, 0]).keys() == {"silence_weights", "silence_bias"}
    without_lips = Recording(person.windows, {"loudness": person.loudness}, 64)
    assert not any(np.any(value) for value in LipsCode().fit(without_lips).values())
