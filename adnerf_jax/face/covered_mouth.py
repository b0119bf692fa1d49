"""Frames in which something covers the mouth, such as a hand or a microphone.

The landmark network places lips wherever it takes the face to be, also on what is in front of it. So the colours at the
lips are compared with those around them and with the cheeks': bare lips differ from the skin around them, and neither
they nor that skin are grey. Brightness cancels, as all colours are ratios to the cheeks'.
"""

from typing import NamedTuple

import cv2
import numpy as np

from adnerf_jax.face.landmarks import INNER_LIPS, OUTER_LIPS

_WIDTH = 160.0  # pixels that the face is scaled to, so that the blur does not depend on the resolution
_BLUR = 2.0  # standard deviation in these pixels
_AROUND = 1.5  # distance of the samples of skin from the mouth's centre, as a multiple of the lips' outline
_FLOOR = 4.0  # added to grey levels before logarithms
# Vertices of the upper cheeks and of the bridge of the nose, which what covers the mouth leaves free.
_CHEEKS = np.array([6, 50, 101, 117, 118, 195, 197, 280, 330, 346, 347])
# Thresholds, chosen on 16 recordings without a covered mouth. Their least contrast between lips and skin is 0.12, of a
# painted hand at most 0.04; at most 1 of their 40 samples is grey, of a microphone 4 or more.
_LEAST_CONTRAST = 0.08
_GREY, _LEAST_REDNESS, _GREY_SAMPLES = 0.6, 0.1, 3
# Least share of the person's own usual contrast, sample by sample: their least is 0.42 but for single noisy frames.
_LEAST_LIKENESS = 0.25
_LEAST_FRAMES = 12  # that tell what is usual
_RUN = 3  # consecutive frames; fewer are noise
_MARGIN = 3  # frames before and after, in which it enters and leaves
_MOST_COVERED = 0.5  # share of the frames up to which the others are enough to learn the lips from


class MouthColours(NamedTuple):
    """Colours at the mouth in a frame.

    Attributes:
      lips, around: float [20, 2], of samples on the lips and of the skin beside each: logarithms of red over green and
        of brightness, less the cheeks'.
      redness: logarithm of red over green of the cheeks.
    """

    lips: np.ndarray
    around: np.ndarray
    redness: float


def mouth_colours(rgb: np.ndarray, points: np.ndarray) -> MouthColours:
    """Measures the colours at the mouth.

    Args:
      rgb: uint8 [H, W, 3].
      points: [478, 2 or 3] px, landmarks.
    """
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    left, top = np.maximum(np.floor(low), 0).astype(int)
    right, bottom = np.ceil(high).astype(int) + 1
    face = rgb[top:bottom, left:right]
    if not face.size:
        return MouthColours(np.zeros((20, 2)), np.zeros((20, 2)), 0.0)
    scale = _WIDTH / max(high[0] - low[0], 1.0)
    size = [max(round(side * scale), 1) for side in face.shape[1::-1]]
    small = cv2.resize(face, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    blurred = cv2.GaussianBlur(small.astype(np.float32), (0, 0), _BLUR)
    places = (points[:, :2] - (left, top) + 0.5) * (np.array(size) / face.shape[1::-1]) - 0.5

    def colours(at: np.ndarray) -> np.ndarray:
        column, row = np.clip(np.rint(at).astype(int), 0, np.array(size) - 1).T
        return blurred[row, column]

    def measures(colour: np.ndarray) -> np.ndarray:
        red, green = colour[..., 0] + _FLOOR, colour[..., 1] + _FLOOR
        return np.stack([np.log(red / green), np.log(colour @ np.array([0.3, 0.6, 0.1], np.float32) + _FLOOR)], -1)

    outer = places[OUTER_LIPS]
    centre = outer.mean(0)
    cheeks = measures(np.median(colours(places[_CHEEKS]), axis=0))
    lips = measures(colours((outer + places[INNER_LIPS]) / 2)) - cheeks
    around = measures(colours(centre + (outer - centre) * _AROUND)) - cheeks
    return MouthColours(lips, around, float(cheeks[0]))


def covered_frames(colours: list[MouthColours]) -> np.ndarray:
    """In which of N frames in order of time the mouth is covered, bool [N]."""
    if not colours:
        return np.zeros(0, bool)
    lips, around = (np.array([getattr(one, name) for one in colours]) for name in ("lips", "around"))
    redness = np.array([one.redness for one in colours])
    difference = (lips - around) * (1.0, 0.5)  # in redness and brightness
    flat = np.abs(difference).mean(1).sum(-1) < _LEAST_CONTRAST
    limit = -_GREY * np.maximum(redness, _LEAST_REDNESS)
    grey = (np.concatenate([lips, around], 1)[..., 0] < limit[:, None]).sum(1) >= _GREY_SAMPLES
    covered = flat | grey
    if (~covered).sum() >= _LEAST_FRAMES:
        usual = np.median(difference[~covered], axis=0)
        covered |= np.einsum("nkc,kc->n", difference, usual) < _LEAST_LIKENESS * np.square(usual).sum()
    mask = covered.astype(np.uint8)[None]
    kept = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((1, _RUN), np.uint8))
    return cv2.dilate(kept, np.ones((1, 2 * _MARGIN + 1), np.uint8))[0].astype(bool)


def shows_lips(covered: np.ndarray) -> bool:
    """Whether enough frames show the mouth to learn the lips from; `covered` [N] is of the frames with a face."""
    return covered.sum() <= _MOST_COVERED * len(covered)
