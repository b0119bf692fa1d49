"""Head poses one frame after the other: what every pose source gives."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from flax import struct


class Posed(NamedTuple):
    """A frame of a pose source.

    Attributes:
      transform: float32 [4, 4], camera-to-head.
      eyes: float32 [2], openness of the eyes in the video that the pose is from; None where there is none.
    """

    transform: np.ndarray
    eyes: np.ndarray | None = None


@struct.dataclass
class PoseSource:
    """Poses without an end.

    Attributes:
      start: begins an iterator from frame 0 on.
      length: own poses; None where any number of them is as good.
    """

    start: Callable[[], Iterator[Posed]] = struct.field(pytree_node=False)
    length: int | None = None


def mirrored(i: int, length: int) -> int:
    """Index 0, 1, … length−1, length−2, … 0, 1, …: a sequence played back and forth."""
    i %= max(2 * length - 2, 1)
    return i if i < length else 2 * length - 2 - i


def recorded(transforms: np.ndarray, eyes: np.ndarray | None = None) -> PoseSource:
    """Given poses [N, 4, 4] and, if known, openness of the eyes [N, 2]; back and forth where more are wanted."""

    def start() -> Iterator[Posed]:
        for i in itertools.count():
            row = mirrored(i, len(transforms))
            yield Posed(transforms[row], None if eyes is None else eyes[row])

    return PoseSource(start, len(transforms))
