"""Head, neck, torso and background of every frame of a video.

Logits, not labels, are averaged over three frames and brought to the frame's size, which keeps edges smooth and steady.
The network sees key frames only; between them the logits pass from one to the next in a straight line.
"""

import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.views import assemble, cut, place_views
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.pretrained import face_parsing, weights

PARTS = ("background", "head", "neck", "torso")
BACKGROUND, HEAD, NECK, TORSO = range(4)
# The colours of the published dataset's `parsing/*.png`, in OpenCV's order blue, green, red.
_COLOURS = np.array([(255, 255, 255), (0, 0, 255), (0, 255, 0), (255, 0, 0)], np.uint8)  # RGB

_CLASS_PARTS = np.array(
    [
        {"background": BACKGROUND, "neck": NECK, "necklace": NECK, "cloth": TORSO}.get(name, HEAD)
        for name in face_parsing.CLASSES
    ]
)

# Side of the network's picture. Overlap of head / torso with the labels at 512 px (220 ms a frame on two cores), on a
# 450 px clip and on a 256 px one: at 320 .975 / .989 and .989 / .972 (50 ms), at 384 .988 / .993 and .993 / .979
# (72 ms), at 416 .990 / .994 and .994 / .984 (86 ms). Below 300 the network loses faces.
_SIDE, _SMALL_SIDE = 416, 320  # the smaller one where views of the frames have no more pixels themselves
_CELL = 8  # pixels of the network's picture that share their logits
_BATCH = 4  # views a call: a quarter faster than one by one; more gain nothing
_NEIGHBOUR_WEIGHT = 0.25  # of the frames before and after in the average of logits
_GAP = 0.1  # of the face's extent: parts so near to each other are one person
_SMALL_HOLE = 0.05  # of the face's extent squared


# Key frames lie so far apart, and less where the face moves farther than this part of its extent. Overlap with the
# labels that the network gives each frame itself, on a 450 px clip, mean and worst frame: every second .999 / .996,
# every third .998 / .995, every fifth .995 / .986; bringing logits along by optical flow adds .001 and costs more.
_KEY_GAP, _KEY_MOTION = 3, 0.06

# Numbers of frames -> number and uint8 RGB [H, W, 3] of each, in order of time.
Pick = Callable[[Iterable[int]], Iterable[tuple[int, np.ndarray]]]
# Some frames with their numbers, points [N, V, 2] px of all frames -> logits float32 [H, W, 4] of each of the some.
FrameLogits = Callable[[Iterable[tuple[int, np.ndarray]], np.ndarray], Iterator[np.ndarray]]


class Parser(NamedTuple):
    """What tells the parts apart, and how far its key frames lie apart at most (1: it sees every frame)."""

    logits: FrameLogits
    key_gap: int


def write_parts(path: pathlib.Path, parts: np.ndarray) -> None:
    """Writes a part map [H, W] as a picture in the published dataset's colours, atomically."""
    write_image(path, _COLOURS[parts])


def read_parts(path: pathlib.Path) -> np.ndarray:
    """A part map uint8 [H, W] from a picture in about the published dataset's colours.

    Raises:
      UserError: the picture is missing or damaged.
    """
    rgb = read_image(path)
    # Head, neck and torso are blue, green and red alone; all three together are background.
    brightest = np.argmax(rgb, axis=-1)
    return np.where((rgb > 127).sum(-1) > 1, BACKGROUND, np.array([TORSO, NECK, HEAD])[brightest]).astype(np.uint8)


def parse_video(pick: Pick, landmarks: Landmarks, start: int = 0, parser: Parser | None = None) -> Iterator[np.ndarray]:
    """The part map of each frame, also of those without a face; a few frames are held at a time.

    Args:
      pick: gives the frames that are asked for.
      landmarks: of the whole video, so that a run that continues sees the key frames of one that was not interrupted.
      start: how many frames to leave out.
      parser: what tells the parts apart; `BISENET` by default.

    Yields:
      uint8 [H, W], indices into PARTS.

    Raises:
      UserError: no frame has a face.
      ValueError: `pick` lacks a frame.
    """
    if not landmarks.valid.any():
        raise UserError("no face was found in the video: it must show one person's face, upright and large enough")
    points = landmarks.points[..., :2]
    logits, gap = parser or BISENET
    keys = key_frames(points, gap)
    keys = keys[max(np.searchsorted(keys, start, side="right") - 1, 0) :]
    averaged = _average_neighbours(_between(keys, logits(pick(keys), points), start))
    for points_here, of_frame in zip(points[start:], averaged, strict=True):
        yield clean(of_frame.argmax(-1).astype(np.uint8), points_here)


def key_frames(points: np.ndarray, gap: int) -> np.ndarray:
    """Numbers of the frames that the network sees, the first and the last among them.

    Args:
      points: [N, V, 2] px.
      gap: frames from one to the next at most.
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


def _between(keys: np.ndarray, of_keys: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
    """Logits of all frames from number `start` on, which the first of the keys is not after."""
    before = None
    for number, (key, after) in enumerate(zip(keys, of_keys, strict=True)):
        for i in range(keys[number - 1] + 1 if number else key, key):
            if i >= start:
                share = (i - keys[number - 1]) / (key - keys[number - 1])
                yield before + share * (after - before)
        if key >= start:
            yield after
        before = after


def clean(parts: np.ndarray, points: np.ndarray) -> np.ndarray:
    """One person without holes or islands.

    The head is the connected region that holds most landmarks. Neck and torso are what touches it, or nearly does.
    Everything else that is not background takes the part next to it.

    Args:
      parts: uint8 [H, W].
      points: [V, 2] px landmarks.
    """
    head = _region_at(parts == HEAD, points)
    if not head.any():
        return parts
    head = _fill_holes(head, largest=None)
    extent = np.ptp(points, axis=0).max()
    body = ((parts == NECK) | (parts == TORSO)) & ~head
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * math.ceil(extent * _GAP / 2) + 1,) * 2)
    _, regions = cv2.connectedComponents(cv2.dilate((head | body).astype(np.uint8), reach))
    body &= regions == regions.flat[head.argmax()]
    kept = np.where(head, HEAD, np.where(body, parts, BACKGROUND)).astype(np.uint8)
    holes = _fill_holes(head | body, largest=_SMALL_HOLE * extent**2) & (kept == BACKGROUND)
    unknown = ((parts != BACKGROUND) & (kept == BACKGROUND)) | holes
    return _take_nearest(kept, unknown, known=~unknown)


def _region_at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The connected region of `mask` that most points lie in; the largest where none do."""
    _, regions = cv2.connectedComponents(mask.astype(np.uint8))
    x, y = np.rint(points).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    for votes in (regions[y[inside], x[inside]], regions.ravel()):
        counts = np.bincount(votes)[1:]  # region 0 is what the mask leaves out
        if counts.sum():
            return regions == 1 + counts.argmax()
    return np.zeros_like(mask)


def _fill_holes(mask: np.ndarray, largest: float | None) -> np.ndarray:
    """`mask` with the regions it encloses, those up to `largest` px if given; what reaches the border is no hole."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top, width, height, area = stats.T
    hole = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    if largest is not None:
        hole &= area <= largest
    hole[0] = False  # the mask itself
    return mask | hole[regions]


def with_edge(parts: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The part map [H, W] widened to all pixels that the person has a share in, each of its nearest part.

    Args:
      parts: uint8 [H, W].
      alpha: uint8 [H, W], the person's share of each pixel.
    """
    return _take_nearest(parts, (parts == BACKGROUND) & (alpha > 0), known=parts != BACKGROUND)


def _take_nearest(parts: np.ndarray, unknown: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Part maps in which the unknown pixels have the part of the nearest known one."""
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
    """Logits of the parts, float32 [H, W, 4], of some frames with their numbers.

    Args:
      frames: number and uint8 RGB [H, W, 3] of each.
      points: [N, V, 2] px of all frames.
      side: px of the network's picture; as quick as the labels allow by default.
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
        cells = iter(_run(params, [cut(rgb, view, side) for i, rgb in group for view in views[i]]))
        for i, rgb in group:
            yield assemble(list(itertools.islice(cells, len(views[i]))), views[i], *rgb.shape[:2], _CELL)


BISENET = Parser(bisenet_logits, _KEY_GAP)
# The same network as its authors ask it, and of each frame: what quicker answers are measured against.
SLOW_BISENET = Parser(functools.partial(bisenet_logits, side=512), 1)


@jax.jit
def _part_logits(params: face_parsing.Params, rgb: jax.Array) -> jax.Array:
    """[N, H/8, W/8, 4]: of each part its strongest class, so that the strongest part holds the strongest class."""
    logits = face_parsing.logits(params, rgb)
    return jnp.stack([logits[..., _CLASS_PARTS == part].max(-1) for part in range(len(PARTS))], -1)


def _run(params: face_parsing.Params, pictures: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The network in batches of one shape; the last is filled up with copies."""
    for batch in _batches(pictures, _BATCH):
        padded = np.stack([*batch, *[batch[-1]] * (_BATCH - len(batch))])
        yield from np.asarray(_part_logits(params, padded))[: len(batch)]


def _batches(items: Iterable, count: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, count)):
        yield batch


def _average_neighbours(logits: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Each frame's logits with a share of the frame before and the one after; the ends stand in for what is missing."""
    before = now = None
    for after in itertools.chain(logits, [None]):
        if now is not None:
            around = (now if before is None else before) + (now if after is None else after)
            yield (1 - 2 * _NEIGHBOUR_WEIGHT) * now + _NEIGHBOUR_WEIGHT * around
        before, now = now, after
