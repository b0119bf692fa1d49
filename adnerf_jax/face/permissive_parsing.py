"""Segmentation into head, neck, torso and background without weights under a non-commercial licence.

A network segments the person (`pretrained.selfie_segmentation`, Apache-2.0). Landmarks divide the person: above the jaw
line is the head, below it neck and torso. Colour models of hair, skin and clothes find hair that hangs beside the neck,
which has the colour of the hair above the forehead, and the neck, which has the colour of the face.
"""

import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from adnerf_jax.face.jaw import jaw_line, pixel_coordinates
from adnerf_jax.face.parsing import Parser
from adnerf_jax.face.views import assemble, crop, place_views, whole_frame
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.selfie_segmentation import SIDE, PersonSegmenter

# In face coordinates (`jaw.face_coordinates`): heights from the chin (0) to the top of the forehead (1), and distances
# to the side in the same unit.
_HAIR_ABOVE = 1.02  # the person above is hair, or a bald head
_HAIR_LOWEST = -1.0  # hair beside the neck does not reach lower
_CLOTHES_BELOW = -0.75  # the person below wears clothes
_SHOULDER = (-0.3, 0.65)  # (height, distance): also below this height and farther to the side
_CHEEKS = (0.15, 0.6, 0.25)  # (lowest, highest, distance to each side): skin
_NECK = 0.4  # distance from the chin, down and to each side, at which the neck's prior is neutral
_NECK_PRIOR = 3.0  # log odds of the neck at the chin
_EDGE = 0.01  # height over which the jaw line changes the head's log odds by 1
_MAX_LOG_ODDS = 6.0
_FACE_LOGIT = 6.0  # minimum logit of "person" inside the landmarks' outline
_BINS, _SMOOTHING = 16, 0.8  # colour histogram: bins per channel, standard deviation of its blur in bins
_MIN_PIXELS = 50  # pixels that a colour model needs


def permissive_logits(frames: Iterable[tuple[int, np.ndarray]], points: np.ndarray) -> Iterator[np.ndarray]:
    """Logits of the parts of some frames; the softmax probability of the background is that of the person network.

    Args:
      frames: pairs (index, uint8 RGB [H, W, 3]).
      points: [N, V, 2] px, landmarks of all frames.

    Yields:
      float32 [H, W, 4] for each of `frames`.
    """
    segment = PersonSegmenter(weights.path("selfie_segmentation"))
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    height, width = first[1].shape[:2]
    # The person reaches farther than the head's surroundings that `place_views` chooses for a face parser.
    whole = whole_frame(width, height)
    views = [[*of_frame[:-1], whole] for of_frame in place_views(points, width, height)]
    for i, rgb in itertools.chain([first], frames):
        cells = [segment(crop(rgb, view, SIDE))[..., None] for view in views[i]]
        person = assemble(cells, views[i], height, width, cell=1)[..., 0]
        outline = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(outline, cv2.convexHull(np.rint(points[i]).astype(np.int32)), 1)
        person = np.where(outline > 0, np.maximum(person, _FACE_LOGIT), person)
        yield _divide(rgb, person, points[i])


# Its edges are too unstable over time for interpolation between key frames.
PERMISSIVE = Parser(permissive_logits, key_gap=1, finds_whole_person=True)


def _divide(rgb: np.ndarray, person: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Divides the person.

    Args:
      rgb: uint8 [H, W, 3].
      person: [H, W], logits of "person".
      points: [V, 2] px, landmarks.

    Returns:
      float32 [H, W, 4], logits of background, head, neck and torso.
    """
    height, width = person.shape
    up, aside = pixel_coordinates(points, height, width)
    jaw_aside, jaw_up = jaw_line(points)
    line = np.interp(aside, jaw_aside, jaw_up)
    head = np.clip((up - line) / _EDGE, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)
    inside = person > 0
    colours = (rgb // (256 // _BINS)).astype(np.intp)
    hair = inside & (up > _HAIR_ABOVE)
    clothes = inside & ((up < _CLOTHES_BELOW) | ((up < _SHOULDER[0]) & (np.abs(aside) > _SHOULDER[1])))
    lowest, highest, reach = _CHEEKS
    skin = (up > lowest) & (up < highest) & (np.abs(aside) < reach)
    as_hair, as_clothes, as_skin = (_log_density(colours, mask) for mask in (hair, clothes, skin))
    if min(hair.sum(), clothes.sum()) >= _MIN_PIXELS:  # with no clothes in view, a dark collar would look like hair
        hair_like = inside & (as_hair > np.maximum(as_clothes, as_skin)) & (up > _HAIR_LOWEST)
        beside = ((aside < jaw_aside.min()) | (aside > jaw_aside.max())) & (up < line)
        head = np.where(beside & _connected(hair_like | hair, hair), _MAX_LOG_ODDS, head)
    prior = _NECK_PRIOR * (1 - (aside**2 + np.minimum(up, 0) ** 2) / _NECK**2)
    neck = np.clip(as_skin - as_clothes + prior, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)
    body = person + _log_sigmoid(-head)
    return np.stack(
        [
            np.zeros_like(person),
            person + _log_sigmoid(head),
            body + _log_sigmoid(neck),
            body + _log_sigmoid(-neck),
        ],
        -1,
    ).astype(np.float32)


def _connected(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected regions of a mask that hold a seed."""
    count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    seeded = np.bincount(regions[seeds & mask], minlength=count) > 0
    return seeded[regions] & mask


def _log_density(colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Log density of each pixel's colour under the colour histogram of a mask.

    Args:
      colours: int [H, W, 3], histogram bins.
      mask: bool [H, W]; with fewer than `_MIN_PIXELS` pixels the density is uniform.

    Returns:
      [H, W].
    """
    counts = np.zeros((_BINS,) * 3)
    if mask.sum() >= _MIN_PIXELS:
        np.add.at(counts, tuple(colours[mask].T), 1 / mask.sum())
    return np.log(gaussian_filter(counts, _SMOOTHING) + _BINS**-3 / 10)[tuple(np.moveaxis(colours, -1, 0))]


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)
