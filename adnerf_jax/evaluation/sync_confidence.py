"""SyncNet's confidence that lips and sound are in step (paper, section 4.3 and table 1).

Computed as in the published evaluation: embeddings of five frames and of 0.2 s of speech, and their mean distance at
every lag of up to 15 frames in both directions. The confidence is the median of these distances minus the smallest. The
face is cropped by MediaPipe's landmarks in place of the published face detector, so the scores are close to the
published ones but not identical.
"""

import collections
from collections.abc import Callable

import cv2
import numpy as np

from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.pretrained.syncnet import CLIP, COEFFICIENTS, EMBEDDING, SIDE, STEPS, SyncNet

MOST_LAG = 15  # frames in each direction
LEAST = 10  # lip embeddings that a score needs
_SMOOTHING = 13  # frames in the running median of the face's bounding box
_MARGIN = 0.4  # share of the face's size
_BATCH = 8  # clips that are embedded together
_WINDOW, _HOP, _FFT, _FILTERS = 400, 160, 512, 26
_PREEMPHASIS, _LIFTER = 0.97, 22
_GREY = 110  # grey level outside the image
_TINY = 1e-6  # added to differences, as PyTorch's pairwise distance does


def cepstrum(samples: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstral coefficients at 100 Hz, [T, 13], of mono samples at 16 kHz in [-1, 1].

    Equal to those of python_speech_features with its defaults on 16-bit samples: pre-emphasis, 25 ms rectangular
    windows, 26 filters, liftering, the first coefficient replaced by the logarithm of the energy.
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
    """Triangular mel filters, [26, 257]."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    edges = np.floor((_FFT + 1) * hertz / SAMPLE_RATE)
    bins = np.arange(_FFT // 2 + 1)
    low, middle, high = (edges[i : i + _FILTERS, None] for i in range(3))
    rising = (bins - low) / np.maximum(middle - low, 1)
    falling = (high - bins) / np.maximum(high - middle, 1)
    return np.where((bins >= low) & (bins < middle), rising, np.where((bins >= middle) & (bins < high), falling, 0.0))


def speech_embeddings(network: SyncNet, samples: np.ndarray, frames: int) -> np.ndarray:
    """Embeddings of mono samples at 16 kHz, one for each frame at 25 fps: [at most `frames`, 1024]."""
    coefficients = cepstrum(samples)
    hop = int(SAMPLE_RATE / _HOP / FPS)
    count = min(frames, max((len(coefficients) - STEPS) // hop + 1, 0))
    if not count:
        return np.zeros((0, EMBEDDING), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(coefficients, STEPS, axis=0)[::hop][:count]
    blocks = [_embed_padded(network.speech, windows[i : i + 64], 64) for i in range(0, count, 64)]
    return np.concatenate(blocks)


class LipClips:
    """SyncNet's lip embeddings of a stream of frames; a frame is kept for half a second at most.

    Args:
      network: computes the embeddings.
    """

    def __init__(self, network: SyncNet):
        self._network = network
        # (time, image) of the frames whose running median still needs later frames, and the boxes (x, y, half size) of
        # these and of the frames before them.
        self._waiting: collections.deque[tuple[int, np.ndarray]] = collections.deque()
        self._boxes: collections.deque[tuple[float, float, float]] = collections.deque(maxlen=_SMOOTHING)
        self._crops: collections.deque[tuple[int, np.ndarray]] = collections.deque(maxlen=CLIP)
        self._batch: list[np.ndarray] = []
        self._times: list[int] = []
        self._embeddings: list[np.ndarray] = []

    def add(self, time: int, rgb: np.ndarray, points: np.ndarray | None) -> None:
        """Takes the next frame.

        Args:
          time: index in time at 25 fps.
          rgb: uint8 [H, W, 3].
          points: landmarks [478, 3] px; None without a face: the last known box is used then.
        """
        box = _box(points) if points is not None else (self._boxes[-1] if self._boxes else None)
        if box is None:
            return
        self._boxes.append(box)
        self._waiting.append((time, rgb))
        if len(self._waiting) > _SMOOTHING // 2:
            self._crop_oldest()

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings [n, 1024] of all clips and the time index [n] of the first frame of each."""
        while self._waiting:
            if len(self._boxes) > len(self._waiting) + _SMOOTHING // 2:
                self._boxes.popleft()
            self._crop_oldest()
        self._flush()
        found = np.concatenate(self._embeddings) if self._embeddings else np.zeros((0, EMBEDDING), np.float32)
        return found, np.array(self._times, int)

    def _crop_oldest(self) -> None:
        """Crops the face of the oldest waiting frame at the running median of the boxes."""
        time, rgb = self._waiting.popleft()
        box = np.median(np.array(self._boxes), axis=0)
        if self._crops and self._crops[-1][0] != time - 1:
            self._crops.clear()  # a dropped frame: clips need consecutive frames
        self._crops.append((time, crop_face(rgb, box)))
        if len(self._crops) == CLIP:
            self._batch.append(np.stack([crop for _, crop in self._crops]))
            self._times.append(self._crops[0][0])
        if len(self._batch) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._embeddings.append(_embed_padded(self._network.lips, np.stack(self._batch), _BATCH))
            self._batch = []


def _embed_padded(embed: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, size: int) -> np.ndarray:
    """The embeddings of up to `size` inputs, padded to `size` so that `embed` is compiled for one shape."""
    return embed(np.concatenate([inputs, np.repeat(inputs[-1:], size - len(inputs), axis=0)]))[: len(inputs)]


def _box(points: np.ndarray) -> tuple[float, float, float]:
    """Centre (x, y) and half the longer side of the face's bounding box, px."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    x, y = (low + high) / 2
    return float(x), float(y), float((high - low).max() / 2)


def crop_face(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The face with the published margin, wider below, uint8 [224, 224, 3]; grey outside the image."""
    x, y, half = box
    margin = int(half * (1 + 2 * _MARGIN)) + 1
    padded = cv2.copyMakeBorder(rgb, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(_GREY,) * 3)
    x, y = x + margin, y + margin
    rows = slice(max(int(y - half), 0), int(y + half * (1 + 2 * _MARGIN)))
    columns = slice(max(int(x - half * (1 + _MARGIN)), 0), int(x + half * (1 + _MARGIN)))
    return np.asarray(cv2.resize(padded[rows, columns], (SIDE, SIDE)))


def sync_scores(lips: np.ndarray, times: np.ndarray, speech: np.ndarray) -> dict[str, float]:
    """SyncNet's scores of lip and speech embeddings.

    Args:
      lips: [n, 1024].
      times: int [n], the frame of each row of `lips`.
      speech: [N, 1024], of frames 0, 1, …

    Returns:
      `sync_confidence`, `sync_distance` (the smallest mean distance) and `sync_offset_s` (positive: the sound is late);
      {} for fewer than 10 lip embeddings.
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
