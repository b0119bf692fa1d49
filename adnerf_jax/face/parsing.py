"""Head, neck, torso and background of every frame of a video.

The network wants a head that fills about half of its picture. Where it does in the frame itself, one view of the whole
frame is parsed; otherwise two, one around the head and one of the surroundings, whose logits are blended. Logits, not
labels, are averaged over three frames and brought to the frame's size, which keeps edges smooth and steady.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from adnerf_jax.errors import UserError
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.pretrained import face_parsing

PARTS = ("background", "head", "neck", "torso")
BACKGROUND, HEAD, NECK, TORSO = range(4)
# The colours of the published dataset's `parsing/*.png`, in OpenCV's order blue, green, red.
COLOURS_BGR = np.array([(255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)

_CLASS_PARTS = np.array(
    [
        {"background": BACKGROUND, "neck": NECK, "necklace": NECK, "cloth": TORSO}.get(name, HEAD)
        for name in face_parsing.CLASSES
    ]
)

# Side of the network's picture. Against 512 px (overlap of head / torso, milliseconds a frame on two cores): 320 .975 /
# .989, 50; 384 .988 / .993, 72; 416 .990 / .994, 86; 512 - / -, 220 on a 450 px clip; .989 / .972, .993 / .979, .994 / .984
# on a 256 px one. Below 300 px the net loses faces.
_SIDE = 416
_BATCH = 4  # views a call: a quarter faster than one; larger batches gain nothing
_FACE_SHARE = 0.45  # of a view's side, for the extent of the landmarks
_ENOUGH_SHARE = 0.38  # from here on one view of the whole frame serves
_FAR_SHARE = 0.2  # in the view of the surroundings; less and the net no longer sees a person
_STEADY_FRAMES = 12  # standard deviation of the Gaussian over time by which views follow the face
_NEIGHBOUR_WEIGHT = 0.25  # of the frames before and after in the average of logits


class View(NamedTuple):
    """A square of the frame: upper left corner and side in px; it may reach beyond the frame."""

    x: float
    y: float
    side: float


def to_colours(parts: np.ndarray) -> np.ndarray:
    """Part maps [..., H, W] as the published dataset's colours, uint8 [..., H, W, 3] in BGR (`cv2.imwrite`)."""
    return COLOURS_BGR[parts]


def from_colours(bgr: np.ndarray) -> np.ndarray:
    """Part maps uint8 [..., H, W] of uint8 BGR pictures [..., H, W, 3]: the nearest of the four colours."""
    # Head, neck and torso are blue, green and red alone; all three together are background.
    brightest = np.argmax(bgr, axis=-1)
    return np.where((bgr > 127).sum(-1) > 1, BACKGROUND, np.array([HEAD, NECK, TORSO])[brightest]).astype(np.uint8)


def parse_video(frames: Iterable[np.ndarray], landmarks: Landmarks) -> Iterator[np.ndarray]:
    """The part map of each frame, also of those without a face; a few frames are held at a time.

    Args:
      frames: uint8 RGB [H, W, 3], as many as `landmarks` has.
      landmarks: of the same frames.

    Yields:
      uint8 [H, W], indices into PARTS.

    Raises:
      UserError: no frame has a face.
    """
    if not landmarks.valid.any():
        raise UserError("no face was found in the video: it must show one person's face, upright and large enough")
    for (rgb, index), logits in _steady(_logits_of(frames, landmarks)):
        parts = logits.argmax(-1).astype(np.uint8)
        yield clean(parts, landmarks.points[index, :, :2]) if rgb is not None else parts
