"""Segmentation of every frame of a video into head, neck, torso and background.

A parser divides the person, and finds its outline at head and neck; a person network adds the limbs (`person.py`).

Logits rather than labels are averaged over three frames and resampled to the frame's size, which keeps edges smooth and
stable. The network runs on key frames only; between them the logits are interpolated linearly.
"""

import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.face.jaw import face_coordinates, jaw_line
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.person import PersonWatcher, agreement, person_in_frame, whole_person
from adnerf_jax.face.views import assemble, crop, place_views
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.pretrained import face_parsing, weights

_T = TypeVar("_T")

PARTS = ("background", "head", "neck", "torso")
BACKGROUND, HEAD, NECK, TORSO = range(4)
_HAIR = 4  # in a parser's logits: what is head and not skin, also below the jaw
# The colours of the published dataset's `parsing/*.png`, in OpenCV's order blue, green, red.
_COLOURS = np.array([(255, 255, 255), (0, 0, 255), (0, 255, 0), (255, 0, 0)], np.uint8)  # RGB

_CLASS_PARTS = np.array(
    [
        {
            "background": BACKGROUND,
            "neck": NECK,
            "necklace": NECK,
            "cloth": TORSO,
            **dict.fromkeys(("hair", "hat", "earring", "glasses"), _HAIR),
        }.get(name, HEAD)
        for name in face_parsing.CLASSES
    ]
)

# Side of the network's input. IoU of head / torso with the labels at 512 px (220 ms per frame on two cores), on a
# 450 px clip and on a 256 px one: at 320 .975 / .989 and .989 / .972 (50 ms), at 384 .988 / .993 and .993 / .979
# (72 ms), at 416 .990 / .994 and .994 / .984 (86 ms). Below 300 the network misses faces.
_SIDE, _SMALL_SIDE = 416, 320  # the smaller one if the views of the frames have no more pixels than that
_CELL = 8  # pixels of the network's input per cell of its logits
_BATCH = 4  # views per call: a quarter faster than one by one; larger batches are not faster
_NEIGHBOUR_WEIGHT = 0.25  # weight of each neighbouring frame in the average of logits
_MAX_GAP = 0.1  # share of the face's extent: regions closer than that belong to one person
# In face coordinates (`jaw.face_coordinates`): skin farther below the jaw line is not head; skin lower or farther to
# the side than the neck is a hand's or an arm's.
_BELOW_JAW, _NECK_LOWEST, _NECK_ASIDE = 0.04, -0.75, 0.7
# Share of the face's extent: an addition to the person that reaches farther from the head is no hair.
_HAIR_REACH = 0.35
_COMPARED = 10  # every so many frames, parser and person network are compared

# Maximum distance of key frames, and the motion of the face, as a fraction of its extent, from which they are closer.
# IoU with the labels of a network that runs on every frame, on a 450 px clip, mean and worst frame: every second frame
# .999 / .996, every third .998 / .995, every fifth .995 / .986; warping logits by optical flow adds .001 but is slower.
_KEY_GAP, _KEY_MOTION = 3, 0.06

# Reads frames by their indices: pairs (index, uint8 RGB [H, W, 3]) in order of time.
FrameReader = Callable[[Iterable[int]], Iterable[tuple[int, np.ndarray]]]
# From pairs (index, frame) and the landmarks [N, V, 2] px of all frames to the logits of each pair, float32 [H, W, 4],
# or [H, W, 5] with hair apart from the head's skin.
FrameLogits = Callable[[Iterable[tuple[int, np.ndarray]], np.ndarray], Iterator[np.ndarray]]


class Parser(NamedTuple):
    """A segmentation method.

    Attributes:
      logits: computes the logits of key frames.
      key_gap: maximum number of frames from one key frame to the next; 1: every frame is a key frame.
      finds_whole_person: whether it finds limbs too, so that the person network has nothing to add.
    """

    logits: FrameLogits
    key_gap: int
    finds_whole_person: bool = False


def write_parts(path: pathlib.Path, parts: np.ndarray) -> None:
    """Writes a part map [H, W] as an image in the published dataset's colours, atomically."""
    write_image(path, _COLOURS[parts])


def read_parts(path: pathlib.Path) -> np.ndarray:
    """Reads a part map uint8 [H, W] from an image in approximately the published dataset's colours.

    Raises:
      UserError: the picture is missing or damaged.
    """
    rgb = read_image(path)
    # Head, neck and torso are blue, green and red alone; all three together are background.
    brightest = np.argmax(rgb, axis=-1)
    return np.where((rgb > 127).sum(-1) > 1, BACKGROUND, np.array([TORSO, NECK, HEAD])[brightest]).astype(np.uint8)


def parse_video(
    read: FrameReader,
    landmarks: Landmarks,
    start: int = 0,
    parser: Parser | None = None,
    agreements: list[float] | None = None,
) -> Iterator[np.ndarray]:
    """The part map of each frame, with or without a face, in constant memory.

    Args:
      read: reads frames of the video.
      landmarks: those of the whole video, so that a resumed run has the same key frames as an uninterrupted one.
      start: index of the first frame.
      parser: the segmentation method; `BISENET` by default.
      agreements: receives the IoU of the parser's person and the person network's of every tenth frame; none from a
        parser that finds the whole person.

    Yields:
      uint8 [H, W], indices into PARTS.

    Raises:
      UserError: no frame has a face.
      ValueError: `read` does not give all frames.
    """
    if not landmarks.valid.any():
        raise UserError("no face was found in the video: it must show one person's face, upright and large enough")
    points = landmarks.points[..., :2]
    parser = parser or BISENET
    keys = key_frames(points, parser.key_gap)
    keys = keys[max(np.searchsorted(keys, start, side="right") - 1, 0) :]
    cells: Iterator[np.ndarray | None]
    if parser.finds_whole_person:
        logits, cells = parser.logits(read(keys), points), itertools.repeat(None, len(points) - start)
    else:
        watcher = PersonWatcher(read(range(keys[0], len(points))), set(keys.tolist()))
        logits = parser.logits(watcher.key_frames(), points)
        cells = _average_neighbours(watcher.logits(start, len(points)))
    # The order matters: the parser's logits of a frame are asked for first, so that the watcher has seen the frame.
    averaged = _average_neighbours(_interpolate(keys, logits, start))
    for i, points_here, of_frame, seen in zip(range(start, len(points)), points[start:], averaged, cells, strict=True):
        parts = assign_neck(of_frame.argmax(-1).astype(np.uint8), points_here)
        if seen is None:
            yield clean_parts(parts, points_here)
            continue
        person = person_in_frame(seen, *parts.shape)
        if agreements is not None and i % _COMPARED == 0:
            agreements.append(agreement(clean_parts(parts, points_here) != BACKGROUND, person))
        yield clean_parts(parts, points_here, person)


def key_frames(points: np.ndarray, gap: int) -> np.ndarray:
    """Indices of the frames that the network runs on; the first and the last frame are among them.

    Args:
      points: [N, V, 2] px, landmarks.
      gap: maximum number of frames from one key frame to the next.
    """
    extent = np.median(np.ptp(points, axis=1).max(-1))
    keys = [0]
    for i in range(1, len(points)):
        moved = np.linalg.norm(points[i] - points[keys[-1]], axis=-1).mean()
        if i - keys[-1] > 1 and moved > _KEY_MOTION * extent:
            keys.append(i - 1)
        if i - keys[-1] >= gap or i == len(points) - 1:
            keys.append(i)
    return np.array(keys)


def _interpolate(keys: np.ndarray, of_keys: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
    """Logits of all frames from index `start` on, linear in time between the key frames; keys[0] ≤ start."""
    before = np.zeros(())  # logits of the previous key frame
    for number, (key, after) in enumerate(zip(keys, of_keys, strict=True)):
        for i in range(keys[number - 1] + 1 if number else key, key):
            if i >= start:
                weight = (i - keys[number - 1]) / (key - keys[number - 1])
                yield before + weight * (after - before)
        if key >= start:
            yield after
        before = after


def assign_neck(labels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Part maps of a parser's labels: skin below the jaw is no head, whatever the parser says. Hair stays head.

    Args:
      labels: uint8 [H, W], indices into PARTS, or `_HAIR`.
      points: [478, 2] px, landmarks.

    Returns:
      uint8 [H, W], indices into PARTS.
    """
    parts = np.where(labels == _HAIR, np.uint8(HEAD), labels)
    y, x = np.nonzero(labels == HEAD)
    up, aside = face_coordinates(np.stack([x, y], -1).astype(np.float32), points.astype(np.float32))
    below = up < np.interp(aside, *jaw_line(points)) - _BELOW_JAW
    hand = (up < _NECK_LOWEST) | (np.abs(aside) > _NECK_ASIDE)
    parts[y[below], x[below]] = np.where(hand[below], np.uint8(TORSO), np.uint8(NECK))
    return parts


def clean_parts(parts: np.ndarray, points: np.ndarray, person: np.ndarray | None = None) -> np.ndarray:
    """Reduces a part map to one person without holes or islands.

    The head is the connected region with most landmarks. Neck and torso are the regions that touch it, or nearly do.
    What a person network sees beyond them is added where it hangs together with them, and what it is sure is no person
    is left out. All other pixels that are not background take the nearest part; what reaches far from the head is
    torso.

    Args:
      parts: uint8 [H, W].
      points: [V, 2] px landmarks.
      person: float [H, W], a person network's logits.
    """
    head = _region_at(parts == HEAD, points)
    if not head.any():
        return parts
    head = _fill_holes(head)
    extent = np.ptp(points, axis=0).max()
    body = ((parts == NECK) | (parts == TORSO)) & ~head
    # Faster than dilating by so large a disc.
    distance = cv2.distanceTransform((~(head | body)).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    _, regions = cv2.connectedComponents((distance <= math.ceil(extent * _MAX_GAP / 2)).astype(np.uint8))
    body &= regions == regions.flat[head.argmax()]
    whole = head | body if person is None else whole_person(head, body, person)
    added = whole & ~(head | body)
    kept = np.where(head, HEAD, np.where(body & whole, parts, BACKGROUND)).astype(np.uint8)
    unknown = _fill_holes(whole) & (kept == BACKGROUND)
    if added.any():
        far = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) > _HAIR_REACH * extent
        count, regions = cv2.connectedComponents(added.astype(np.uint8))
        limbs = np.bincount(regions[added & far], minlength=count) > 0
        limbs[0] = False
        kept[limbs[regions]] = TORSO
        unknown &= ~limbs[regions]
    kept = _take_nearest(kept, unknown, known=kept != BACKGROUND)
    islands = (parts != BACKGROUND) & (kept == BACKGROUND) & ~body
    return _take_nearest(kept, islands, known=~islands)


def _region_at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The connected region of `mask` that holds most points; the largest one if no region holds any."""
    _, regions = cv2.connectedComponents(mask.astype(np.uint8))
    x, y = np.rint(points).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    for votes in (regions[y[inside], x[inside]], regions.ravel()):
        counts = np.bincount(votes)[1:]  # region 0 is the outside of the mask
        if counts.sum():
            return regions == 1 + counts.argmax()
    return np.zeros_like(mask)


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """`mask` with its holes filled; regions that touch the frame's border are no holes."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top, width, height, _ = stats.T
    hole = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    hole[0] = False  # the mask itself
    return mask | hole[regions]


def extend_to_alpha(parts: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Extends the person's parts to all pixels with positive alpha, which take the nearest part.

    Args:
      parts: uint8 [H, W].
      alpha: uint8 [H, W], the matte of the person.

    Returns:
      uint8 [H, W].
    """
    return _take_nearest(parts, (parts == BACKGROUND) & (alpha > 0), known=parts != BACKGROUND)


def _take_nearest(parts: np.ndarray, unknown: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`parts` with the unknown pixels set to the part of the nearest known pixel."""
    if not unknown.any() or not known.any():
        return parts
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(nearest.max() + 1, np.uint8)
    of_label[nearest[known]] = parts[known]
    return np.where(unknown, of_label[nearest], parts)


def bisenet_logits(
    frames: Iterable[tuple[int, np.ndarray]], points: np.ndarray, side: int | None = None
) -> Iterator[np.ndarray]:
    """Logits of the parts from the face parsing network (BiSeNet).

    Args:
      frames: pairs (index, uint8 RGB [H, W, 3]).
      points: [N, V, 2] px, landmarks of all frames.
      side: px, of the network's input; None: the fastest side that hardly changes the labels.

    Yields:
      float32 [H, W, 5] for each of `frames`: those of PARTS, and of hair, which is not in those of the head.
    """
    params = face_parsing.load(weights.path("face_parsing"))
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    views = place_views(points, first[1].shape[1], first[1].shape[0])
    if side is None:
        pixels = np.median([view.side for of_frame in views for view in of_frame])
        side = _SMALL_SIDE if pixels <= _SMALL_SIDE else _SIDE
    for group in _batches(itertools.chain([first], frames), _BATCH):
        cells = _run(params, [crop(rgb, view, side) for i, rgb in group for view in views[i]])
        for i, rgb in group:
            height, width = rgb.shape[:2]
            yield assemble(list(itertools.islice(cells, len(views[i]))), views[i], height, width, _CELL)


BISENET = Parser(bisenet_logits, _KEY_GAP)
# The network at the resolution of its training and on every frame: the reference for the faster settings.
REFERENCE_BISENET = Parser(functools.partial(bisenet_logits, side=512), 1)


@jax.jit
def _part_logits(params: face_parsing.Params, rgb: jax.Array) -> jax.Array:
    """Logits [N, H/8, W/8, 5]: parts and hair have the largest logit of their classes, which preserves the argmax."""
    logits = face_parsing.logits(params, rgb)
    return jnp.stack([logits[..., _CLASS_PARTS == part].max(-1) for part in range(len(PARTS) + 1)], -1)


def _run(params: face_parsing.Params, pictures: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the network's logits of each picture; runs in batches of one shape, the last padded with copies."""
    for batch in _batches(pictures, _BATCH):
        padded = np.stack([*batch, *[batch[-1]] * (_BATCH - len(batch))])
        yield from np.asarray(_part_logits(params, padded))[: len(batch)]


def _batches(items: Iterable[_T], count: int) -> Iterator[list[_T]]:
    """Lists of `count` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, count)):
        yield batch


def _average_neighbours(logits: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Weighted averages of each frame's logits and its two neighbours'; the ends are repeated."""
    before = now = None
    for after in itertools.chain(logits, [None]):
        if now is not None:
            around = (now if before is None else before) + (now if after is None else after)
            yield (1 - 2 * _NEIGHBOUR_WEIGHT) * now + _NEIGHBOUR_WEIGHT * around
        before, now = now, after
