"""SyncNet's score of lips against sound (paper, section 4.3 and table 1), frame by frame, where its weights are given.

As the published evaluation computes it: embeddings of five frames and of 0.2 s of speech, their mean distance at each
lag of 15 frames to both sides; confidence is the median of these less the smallest. The face is cut out by this
program's landmarks, which stand in for the published face detector, so that scores are near to its scores but not the
same.
"""

import collections
from collections.abc import Callable

import cv2
import numpy as np

from adnerf_jax.common.timing import FPS
from adnerf_jax.pretrained.syncnet import CLIP, COEFFICIENTS, EMBEDDING, SIDE, STEPS, SyncNet

SOUND_RATE = 16000
MOST_LAG = 15  # frames to each side
LEAST = 10  # embeddings of lips that a score needs
_SMOOTHING = 13  # frames that the median of the face's place is taken over
_MARGIN = 0.4  # of the face's size
_BATCH = 8  # clips embedded at once
_WINDOW, _HOP, _FFT, _FILTERS = 400, 160, 512, 26
_PREEMPHASIS, _LIFTER = 0.97, 22
_GREY = 110  # past the picture's edge
_TINY = 1e-6  # added to differences, as PyTorch's pairwise distance does


def cepstrum(samples: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstral coefficients at 100 Hz, [T, 13], of mono samples at 16 kHz in [-1, 1].

    Those of python_speech_features by default, of 16-bit samples: pre-emphasis, 25 ms windows without a taper, 26
    filters, liftering, the first one replaced by the logarithm of the energy.
    """
    x = np.asarray(samples, np.float64) * 32768.0
    x = np.append(x[:1], x[1:] - _PREEMPHASIS * x[:-1])
    count = 1 + max(-(-(len(x) - _WINDOW) // _HOP), 0)
    x = np.pad(x, (0, max((count - 1) * _HOP + _WINDOW - len(x), 0)))
    tiny = np.finfo(float).eps
    windows = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP][:count]
    power = np.square(np.abs(np.fft.rfft(windows, _FFT))) / _FFT
    energy = np.maximum(power.sum(1), tiny)
    mel = np.log(np.maximum(power @ _filters().T, tiny))
    k, n = np.arange(COEFFICIENTS)[:, None], np.arange(_FILTERS)
    basis = np.cos(np.pi * k * (n + 0.5) / _FILTERS) * np.where(k == 0, np.sqrt(1 / _FILTERS), np.sqrt(2 / _FILTERS))
    found = mel @ basis.T * (1 + _LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / _LIFTER))
    found[:, 0] = np.log(energy)
    return found


def _filters() -> np.ndarray:
    """Triangles on the mel scale, [26, 257]."""
    top = 2595 * np.log10(1 + SOUND_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    edges = np.floor((_FFT + 1) * hertz / SOUND_RATE)
    bins = np.arange(_FFT // 2 + 1)
    low, middle, high = (edges[i : i + _FILTERS, None] for i in range(3))
    rising = (bins - low) / np.maximum(middle - low, 1)
    falling = (high - bins) / np.maximum(high - middle, 1)
    return np.where((bins >= low) & (bins < middle), rising, np.where((bins >= middle) & (bins < high), falling, 0.0))


def speech_embeddings(network: SyncNet, samples: np.ndarray, frames: int) -> np.ndarray:
    """Embeddings of the sound at frames 0, 1, … at 25 fps, [at most `frames`, 1024]; of mono samples at 16 kHz."""
    coefficients = cepstrum(samples)
    hop = int(SOUND_RATE / _HOP / FPS)
    count = min(frames, max((len(coefficients) - STEPS) // hop + 1, 0))
    if not count:
        return np.zeros((0, EMBEDDING), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(coefficients, STEPS, axis=0)[::hop][:count]
    blocks = [_in_one_size(network.speech, windows[i : i + 64], 64) for i in range(0, count, 64)]
    return np.concatenate(blocks)


class LipClips:
    """Lips of frames as they come to SyncNet's embeddings; frames are let go after half a second.

    Args:
      network: that embeds.
    """

    def __init__(self, network: SyncNet):
        self._network = network
        # Time and picture of what waits for the frames after it; boxes (x, y, half size) of these and those before.
        self._waiting: collections.deque = collections.deque()
        self._boxes: collections.deque = collections.deque(maxlen=_SMOOTHING)
        self._crops: collections.deque = collections.deque(maxlen=CLIP)
        self._batch: list[np.ndarray] = []
        self._times: list[int] = []
        self._embeddings: list[np.ndarray] = []

    def add(self, time: int, rgb: np.ndarray, points: np.ndarray | None) -> None:
        """The next frame.

        Args:
          time: its place at 25 fps.
          rgb: uint8 [H, W, 3].
          points: landmarks [478, 3] px; None where there is no face, whose last place is then taken.
        """
        box = _box(points) if points is not None else (self._boxes[-1] if self._boxes else None)
        if box is None:
            return
        self._boxes.append(box)
        self._waiting.append((time, rgb))
        if len(self._waiting) > _SMOOTHING // 2:
            self._cut()

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings [n, 1024] and the times [n] of the first frames of their clips."""
        while self._waiting:
            if len(self._boxes) > len(self._waiting) + _SMOOTHING // 2:
                self._boxes.popleft()
            self._cut()
        self._flush()
        found = np.concatenate(self._embeddings) if self._embeddings else np.zeros((0, EMBEDDING), np.float32)
        return found, np.array(self._times, int)

    def _cut(self) -> None:
        """The face of the first frame that waits, at the median of the places around."""
        time, rgb = self._waiting.popleft()
        box = np.median(np.array(self._boxes), axis=0)
        if self._crops and self._crops[-1][0] != time - 1:
            self._crops.clear()  # a gap in time
        self._crops.append((time, crop_face(rgb, box)))
        if len(self._crops) == CLIP:
            self._batch.append(np.stack([picture for _, picture in self._crops]))
            self._times.append(self._crops[0][0])
        if len(self._batch) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._embeddings.append(_in_one_size(self._network.lips, np.stack(self._batch), _BATCH))
            self._batch = []


def _in_one_size(embed: Callable, inputs: np.ndarray, size: int) -> np.ndarray:
    """What `embed` gives for up to `size` inputs, which it always gets as many of, so that it is compiled once."""
    return embed(np.concatenate([inputs, np.repeat(inputs[-1:], size - len(inputs), axis=0)]))[: len(inputs)]


def _box(points: np.ndarray) -> tuple[float, float, float]:
    """Middle and half the longer side of the face's bounding box, px."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return (*((low + high) / 2), float((high - low).max() / 2))


def crop_face(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The face with the published margin, more of it below, uint8 [224, 224, 3]; grey past the picture's edge."""
    x, y, half = box
    margin = int(half * (1 + 2 * _MARGIN)) + 1
    padded = cv2.copyMakeBorder(rgb, *[margin] * 4, cv2.BORDER_CONSTANT, value=(_GREY,) * 3)
    x, y = x + margin, y + margin
    rows = slice(max(int(y - half), 0), int(y + half * (1 + 2 * _MARGIN)))
    columns = slice(max(int(x - half * (1 + _MARGIN)), 0), int(x + half * (1 + _MARGIN)))
    return cv2.resize(padded[rows, columns], (SIDE, SIDE))


def sync_scores(lips: np.ndarray, times: np.ndarray, speech: np.ndarray) -> dict[str, float]:
    """Scores of embeddings.

    Args:
      lips: [n, 1024], at frames `times` [n].
      speech: [N, 1024], at frames 0, 1, …

    Returns:
      `sync_confidence`, `sync_distance` (the smallest mean distance) and `sync_offset_s` (positive: the sound is late);
      nothing for fewer than 10 embeddings.
    """
    inside = times < len(speech)
    lips, times = lips[inside], times[inside]
    if len(lips) < LEAST:
        return {}
    padded = np.pad(speech, ((MOST_LAG, MOST_LAG), (0, 0)))
    lags = np.arange(2 * MOST_LAG + 1)
    distances = np.array([np.linalg.norm(lips - padded[times + lag] + _TINY, axis=1).mean() for lag in lags])
    best = int(distances.argmin())
    return {
        "sync_confidence": float(np.median(distances) - distances[best]),
        "sync_distance": float(distances[best]),
        "sync_offset_s": (best - MOST_LAG) / FPS,
    }
