"""The parts of a frame without weights under a non-commercial licence.

A network finds the person (`pretrained.selfie_segmentation`, Apache-2.0). Landmarks divide the person: above the jaw
is head, below it neck and torso. Two things only colour can tell: hair that hangs beside the neck looks like the hair
above the forehead, and the neck looks like the face.
"""

import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from adnerf_jax.face.parsing import Parser
from adnerf_jax.face.views import assemble, cut, place_views
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.selfie_segmentation import SIDE, PersonSegmenter

_CHIN, _FOREHEAD = 152, 10
_JAW = [58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288]  # from one jaw angle to the other
# Heights are counted in faces, from the chin (0) to the top of the forehead (1).
_HAIR_FROM = 1.02  # the person above is hair, or a bald head
_HAIR_DOWN_TO = -1.0  # hair beside the neck ends here
_CLOTH_BELOW = -0.75  # the person below is cloth,
_SHOULDER = (-0.3, 0.65)  # and below this, so far to the side
_CHEEKS = (0.15, 0.6, 0.25)  # lowest, highest, to each side: skin
_NECK = 0.4  # below the chin and to each side: here nothing speaks for or against the neck but its colour
_NECK_PRIOR = 3.0  # log odds at the chin
_EDGE = 0.01  # the jaw's line is so soft
_SURE = 6.0  # log odds at most
_FACE_LOGIT = 6.0  # of "person" inside the landmarks' outline
_BINS, _SMOOTH = 16, 0.8  # colour histogram: bins a channel, their blur
_ENOUGH_PIXELS = 50


def permissive_logits(frames: Iterable[tuple[int, np.ndarray]], points: np.ndarray) -> Iterator[np.ndarray]:
    """Logits of the parts, float32 [H, W, 4], of some frames; their softmax's background is 1 minus the person's share.

    Args:
      frames: numbers and uint8 RGB [H, W, 3].
      points: [N, V, 2] px, landmarks of all frames.
    """
    segment = PersonSegmenter(weights.path("selfie_segmentation"))
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    height, width = first[1].shape[:2]
    views = place_views(points, width, height)
    for i, rgb in itertools.chain([first], frames):
        cells = [segment(cut(rgb, view, SIDE))[..., None] for view in views[i]]
        person = assemble(cells, views[i], height, width, cell=1).reshape(height, width)
        outline = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(outline, cv2.convexHull(np.rint(points[i]).astype(np.int32)), 1)
        person = np.where(outline > 0, np.maximum(person, _FACE_LOGIT), person)
        yield _divide(rgb, person, points[i])


# Its edges tremble too much for frames in between to be filled in.
PERMISSIVE = Parser(permissive_logits, key_gap=1)


def _divide(rgb: np.ndarray, person: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Logits [H, W, 4] from those of "person" [H, W] and the landmarks [V, 2] px."""
    up, aside = _face_coordinates(points, *person.shape)
    jaw_aside, jaw_up = _face_coordinates_of(points[_JAW], points)[::-1]
    order = np.argsort(jaw_aside)
    line = np.interp(aside, jaw_aside[order], jaw_up[order])
    head = np.clip((up - line) / _EDGE, -_SURE, _SURE)
    inside = person > 0
    colours = (rgb // (256 // _BINS)).astype(np.intp)
    hair = inside & (up > _HAIR_FROM)
    cloth = inside & ((up < _CLOTH_BELOW) | ((up < _SHOULDER[0]) & (np.abs(aside) > _SHOULDER[1])))
    lowest, highest, reach = _CHEEKS
    skin = (up > lowest) & (up < highest) & (np.abs(aside) < reach)
    as_hair, as_cloth, as_skin = (_log_density(colours, mask) for mask in (hair, cloth, skin))
    if min(hair.sum(), cloth.sum()) >= _ENOUGH_PIXELS:  # with no cloth in view, a dark collar would pass for hair
        hair_like = inside & (as_hair > np.maximum(as_cloth, as_skin)) & (up > _HAIR_DOWN_TO)
        beside = ((aside < jaw_aside.min()) | (aside > jaw_aside.max())) & (up < line)
        head = np.where(beside & _connected(hair_like | hair, hair), _SURE, head)
    place = _NECK_PRIOR * (1 - (aside**2 + np.minimum(up, 0) ** 2) / _NECK**2)
    neck = np.clip(as_skin - as_cloth + place, -_SURE, _SURE)
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


def _face_coordinates(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all pixels [H, W]: heights above the chin and distances to its side, in heights of the face."""
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    return _face_coordinates_of(pixels, points)


def _face_coordinates_of(pixels: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axis = points[_FOREHEAD] - points[_CHIN]
    axis = axis / (axis @ axis)
    relative = pixels - points[_CHIN]
    return relative @ axis, relative @ np.array([-axis[1], axis[0]])


def _connected(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The regions of a mask that hold a seed."""
    count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    held = np.bincount(regions[seeds & mask], minlength=count) > 0
    return held[regions] & mask


def _log_density(colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[H, W] log density of each pixel's colour among the mask's; the same for all where that has hardly any pixels.

    Args:
      colours: int [H, W, 3], bins.
    """
    counts = np.zeros((_BINS,) * 3)
    if mask.sum() >= _ENOUGH_PIXELS:
        np.add.at(counts, tuple(colours[mask].T), 1 / mask.sum())
    return np.log(gaussian_filter(counts, _SMOOTH) + _BINS**-3 / 10)[tuple(np.moveaxis(colours, -1, 0))]


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)
