"""The silhouette of the whole person: arms, hands, legs and what they hold, which a face parser misses.

A person network sees the whole frame, at a low resolution. What it calls person and hangs together with the head is the
person; near the edge of what the face parser found the parser decides, whose resolution is higher.
"""

import math
from collections.abc import Container, Iterable, Iterator

import cv2
import numpy as np

from adnerf_jax.face.views import crop, to_frame, whole_frame
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.selfie_segmentation import SIDE, PersonSegmenter

# Pixels of the network's output within which its edge is uncertain: there the parser's edge is taken.
_UNCERTAIN = 3.0
# The network runs on key frames, and on the others if the picture has changed since the network's last run: the largest
# change in a grey picture of so many pixels a side, in grey levels. Three recordings of talking exceed it in 0, 1 and 5
# of 100 frames, one with gestures in 12.
_THUMBNAIL, _CHANGED = 16, 40.0
_SURE = 4.0  # minus the logit of a person from which the network is sure that there is none
_SEES_HEAD = 0.8  # share of the parser's head that the network must see for its word on the body


class PersonWatcher:
    """Runs the person network on frames on their way to a parser.

    Args:
      frames: pairs (index, uint8 RGB [H, W, 3]), consecutive; the first and the last one are key frames.
      keys: indices of the key frames.
    """

    def __init__(self, frames: Iterable[tuple[int, np.ndarray]], keys: Container[int]):
        self._segment = PersonSegmenter(weights.path("selfie_segmentation"))
        self._frames, self._keys = frames, keys
        self._known: dict[int, np.ndarray] = {}
        self._latest = -1
        self._thumbnail: np.ndarray | None = None

    def key_frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """The key frames; meanwhile the network sees all of them."""
        for i, rgb in self._frames:
            self._see(i, rgb)
            if i in self._keys:
                yield i, rgb

    def _see(self, i: int, rgb: np.ndarray) -> None:
        small = crop(rgb, whole_frame(rgb.shape[1], rgb.shape[0]), SIDE)
        thumbnail = cv2.resize(small, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).mean(-1)
        changed = self._thumbnail is None or np.abs(thumbnail - self._thumbnail).max() > _CHANGED
        if not changed and i not in self._keys:
            return
        now = self._segment(small)
        if self._thumbnail is not None:
            before = self._known[self._latest]
            for between in range(self._latest + 1, i):
                share = (between - self._latest) / (i - self._latest)
                self._known[between] = before + share * (now - before)
        self._known[i], self._latest, self._thumbnail = now, i, thumbnail

    def logits(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Logits of "person" [256, 256] of the frames from `start` to before `stop`.

        A frame's are there once the next key frame has been read from `key_frames`.
        """
        for i in range(start, stop):
            self._known = {seen: cells for seen, cells in self._known.items() if seen >= min(i, self._latest)}
            yield self._known[i]


def person_in_frame(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """The network's logits [256, 256] of the whole frame, resampled: float32 [H, W]; positive: a person."""
    return to_frame(cells[..., None], whole_frame(width, height), height, width, cell=1)[..., 0]


def whole_person(head: np.ndarray, body: np.ndarray, person: np.ndarray) -> np.ndarray:
    """The person by the parser and by the person network together.

    Args:
      head: bool [H, W], the parser's head.
      body: bool [H, W], the parser's neck and torso.
      person: float [H, W], logits from `person_in_frame`.

    Returns:
      bool [H, W]: the head; the body, but for what the network is sure is none, if the network sees the head;
      and what the network sees farther from these than its edge is uncertain, where it hangs together with them.
    """
    seen = person > 0
    if (head & seen).sum() >= _SEES_HEAD * head.sum():
        body = body & ~_beyond_edge(body, (person > -_SURE) | head)
    found = head | body
    added = _beyond_edge(seen, found)
    if not added.any():
        return found
    _, regions = cv2.connectedComponents((found | added).astype(np.uint8))
    held = np.zeros(regions.max() + 1, bool)
    held[regions[found]] = True
    return found | (added & held[regions])


def _beyond_edge(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What of a mask is farther from another one than an edge is uncertain, with its connection to that other one."""
    uncertain = _UNCERTAIN * max(mask.shape) / SIDE
    outside = mask & ~other
    if not outside.any():
        return outside
    distance = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    beyond = outside & (distance > uncertain)
    if not beyond.any():
        return beyond
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * math.ceil(uncertain) + 3,) * 2)
    return outside & (cv2.dilate(beyond.astype(np.uint8), around) > 0)


def agreement(found: np.ndarray, person: np.ndarray) -> float:
    """IoU of the parser's person and the person network's, of the latter what hangs together with the former.

    Args:
      found: bool [H, W], the parser's person.
      person: float [H, W], logits from `person_in_frame`.
    """
    _, regions = cv2.connectedComponents((person > 0).astype(np.uint8))
    seen = np.isin(regions, np.setdiff1d(regions[found], [0]))
    union = (found | seen).sum()
    return float((found & seen).sum() / union) if union else 1.0
