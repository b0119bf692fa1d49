"""Speech features with bounded context, and the windows of them that condition each video frame.

Sound is processed in chunks of 0.5 s. The features of a chunk are a function of one fixed-length window of samples: the
chunk with its left and right context. No statistic of the whole clip is used, so that a live stream gives the same
features as the whole file, with a latency of one chunk and its right context.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import FEATURE_RATE, FPS, FRAMES_AFTER, SAMPLE_RATE, WINDOW
from adnerf_jax.pretrained import weights, whisper

SAMPLES_PER_FEATURE = SAMPLE_RATE // FEATURE_RATE
SAMPLES_PER_FRAME = int(SAMPLE_RATE / FPS)

CHUNK = 25  # features of a chunk (0.5 s)
BATCH = 4  # chunks per XLA call when the whole recording is available
# A linear probe predicts the lips' shape better from this layer than from the last one.
WHISPER_LAYER = 2
DEEPSPEECH_LOGITS = 29


class Encoder:
    """Features of 16 kHz mono sound at 50 Hz; feature k is centred on k/50 s.

    Feature k depends on the sound from `left_seconds` before its chunk to `right_seconds` after it; its chunk holds
    the features 25 * (k // 25) … 25 * (k // 25) + 24.

    Attributes:
      name: "whisper" or "logmel".
      dim: number of channels.
      left_seconds, right_seconds: context of a chunk.
      encode_windows: jitted function of the samples [B, T] in the windows of B chunks (`chunk_span`) to the features
        [B, 25, dim] of the chunks. Compiled for each B; `__call__` and `span` always use `BATCH`.
    """

    def __init__(
        self,
        name: str,
        dim: int,
        left_seconds: float,
        right_seconds: float,
        encode: Callable[[jax.Array], jax.Array],
    ):
        """Creates an encoder.

        Args:
          name, dim, left_seconds, right_seconds: see the attributes.
          encode: samples [B, T] → features [B, T/320, dim], jittable.
        """
        self.name, self.dim = name, dim
        self.left_seconds, self.right_seconds = left_seconds, right_seconds
        self._left = round(left_seconds * FEATURE_RATE)
        self._length = self._left + CHUNK + round(right_seconds * FEATURE_RATE)
        self.encode_windows = jax.jit(lambda sound: encode(sound)[:, self._left : self._left + CHUNK])

    def chunk_span(self, chunk: int) -> tuple[int, int]:
        """The half-open range of samples in the window of a chunk; samples before 0 are silence."""
        start = (chunk * CHUNK - self._left) * SAMPLES_PER_FEATURE
        return start, start + self._length * SAMPLES_PER_FEATURE

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features of a whole recording.

        Args:
          samples: [T] float32 in [-1, 1], 16 kHz mono; padded with silence at both ends.

        Returns:
          [ceil(T/320), dim] float32.
        """
        return self.span(samples, 0, -(-len(samples) // SAMPLES_PER_FEATURE))

    def span(self, samples: np.ndarray, first: int, last: int) -> np.ndarray:
        """Features [first, last) of a recording.

        Args:
          samples: [T] float32 in [-1, 1], 16 kHz mono; padded with silence at both ends.
          first, last: indices of features; negative ones and those past the end are features of silence.

        Returns:
          [last - first, dim] float32.

        Raises:
          ValueError: `samples` is not one-dimensional.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise ValueError(f"sound must be mono [T], not {samples.shape}")
        if last <= first:
            return np.zeros((0, self.dim), np.float32)
        first_chunk, last_chunk = first // CHUNK, -(-last // CHUNK)
        features = []
        for start in range(first_chunk, last_chunk, BATCH):
            batch = np.stack([_slice_padded(samples, *self.chunk_span(k)) for k in range(start, start + BATCH)])
            features.append(np.asarray(self.encode_windows(batch)))
        offset = first - first_chunk * CHUNK
        return np.concatenate(features).reshape(-1, self.dim)[offset : offset + last - first]


def _slice_padded(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """samples[start:stop], zero outside of the array; `start` may be negative."""
    inside = samples[max(start, 0) : max(stop, 0)]
    before = min(max(-start, 0), stop - start)
    return np.pad(inside, (before, stop - start - before - len(inside)))


def get_encoder(name: str) -> Encoder:
    """The encoder "whisper" (384-d; context 4 s left, 0.5 s right) or "logmel" (80-d, 0.1 s each, needs no weights).

    Raises:
      UserError: no such encoder, or Whisper's weights cannot be fetched.
    """
    if name not in ENCODERS:
        raise UserError(f"there is no speech encoder called {name!r}: use one of {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]()


@functools.cache
def _whisper_encoder() -> Encoder:
    params = whisper.load(weights.path("whisper"))
    return Encoder(
        "whisper",
        whisper.WIDTH,
        left_seconds=4.0,
        right_seconds=0.5,
        encode=lambda sound: whisper.encode(params, whisper.log_mel(sound), WHISPER_LAYER),
    )


@functools.cache
def _logmel_encoder() -> Encoder:
    def encode(sound: jax.Array) -> jax.Array:
        mel = whisper.log_mel(sound)
        # From 100 to 50 Hz: mel frames 2k - 1, 2k and 2k + 1, the receptive field of Whisper's strided convolution.
        before = jnp.pad(mel[:, 1:-1:2], [(0, 0), (1, 0), (0, 0)], mode="edge")
        return before / 4 + mel[:, 0::2] / 2 + mel[:, 1::2] / 4

    return Encoder("logmel", whisper.BANDS, left_seconds=0.1, right_seconds=0.1, encode=encode)


ENCODERS: dict[str, Callable[[], Encoder]] = {"whisper": _whisper_encoder, "logmel": _logmel_encoder}


def frames_for(samples: int) -> int:
    """Number of 25 fps frames for a number of 16 kHz samples, rounded up."""
    return -(-samples // SAMPLES_PER_FRAME)


def windows(features: np.ndarray, frames: int, first: int = 0) -> np.ndarray:
    """The window of features of each frame: row i holds the features [2i - 8, 2i + 8) (paper, section 3.2).

    Args:
      features: [F, C] at 50 Hz.
      frames: number of frames N at 25 fps.
      first: index of the feature in row 0 of `features`.

    Returns:
      [N, 16, C] of the type of `features`. The first and last feature are repeated beyond the ends; the published code
      pads with zeros, which are not the features of silence.

    Raises:
      ValueError: `features` is empty or not two-dimensional.
    """
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features must be [F, C] with F > 0, not {features.shape}")
    indices = 2 * np.arange(frames)[:, None] + np.arange(-WINDOW // 2, WINDOW // 2)
    return features[np.clip(indices - first, 0, len(features) - 1)]


def speech_windows(encoder: Encoder, samples: np.ndarray, frames: int) -> np.ndarray:
    """The windows of a recording's first N = `frames` frames, with the features of silence beyond its ends.

    Returns:
      [N, 16, dim] float32, a read-only view: overlapping windows share their memory.
    """
    lead = WINDOW // 2
    features = encoder.span(samples, -lead, 2 * frames + lead)
    return np.lib.stride_tricks.sliding_window_view(features, WINDOW, axis=0)[: 2 * frames : 2].swapaxes(1, 2)


def load_deepspeech(path: str | os.PathLike) -> np.ndarray:
    """Loads DeepSpeech features, the input of the published method, as windows.

    Args:
      path: a .npy file of windows [N, 16, 29], one for each 25 fps frame, as the published preprocessing writes them,
        or of logits [T, 29] at 50 Hz.

    Returns:
      [N, 16, 29] float32; for logits N = ceil(T/2), and their first and last rows are repeated beyond the ends.

    Raises:
      UserError: the file is missing, is not a .npy file of numbers, or has another shape or type.
    """
    path = pathlib.Path(path)
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"cannot read the DeepSpeech features {path}: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise UserError(f"{path} is not a .npy file of numbers: save DeepSpeech features with numpy.save") from None
    is_logits = getattr(array, "ndim", 0) == 2 and array.shape[1] == DEEPSPEECH_LOGITS
    is_windows = getattr(array, "ndim", 0) == 3 and array.shape[1:] == (WINDOW, DEEPSPEECH_LOGITS)
    if not (is_logits or is_windows) or len(array) == 0 or array.dtype.kind != "f":
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive of arrays"
        raise UserError(f"{path} holds {found}: DeepSpeech features must be floats [N, 16, 29] or [T, 29]")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path} holds values that are not finite: extract the DeepSpeech features again")
    return windows(array, -(-len(array) // 2)) if is_logits else array


def look_ahead(encoder: Encoder) -> float:
    """The look-ahead in seconds: how much sound after the start of a frame is needed to render it, in the worst case.

    A frame reads the windows of the three frames after it, features are computed by whole chunks, and a chunk needs its
    right context.
    """
    return (CHUNK + 2 * FRAMES_AFTER + WINDOW // 2 - 1) / FEATURE_RATE + encoder.right_seconds


def stream_windows(
    encoder: Encoder, blocks: Iterable[np.ndarray], before: int = 0, after: int = 0
) -> Iterator[np.ndarray]:
    """The streaming form of `speech_windows`, in constant memory; equal to it up to floating-point rounding.

    The result does not depend on how the sound is split into blocks, bit for bit.

    Args:
      encoder: encoder of the features.
      blocks: consecutive float32 [t] blocks of 16 kHz mono sound.
      before, after: number of frames of silence to add before and after the sound.

    Yields:
      [16, dim] float32 for each 25 fps frame, as soon as the blocks hold the right context of its features.
    """
    blocks = iter(blocks)
    sound = np.zeros(0, np.float32)  # samples that later chunks need
    dropped, ended = 0, False  # number of samples before `sound`; whether `blocks` is exhausted
    lead = WINDOW // 2
    features = np.zeros((0, encoder.dim), np.float32)
    frame = -before
    chunk = (2 * frame - lead) // CHUNK
    first = chunk * CHUNK  # index of the first row of `features`
    while True:
        start, stop = encoder.chunk_span(chunk)
        while not ended and dropped + len(sound) < stop:
            block = next(blocks, None)
            ended = block is None
            sound = sound if block is None else np.concatenate([sound, block])
        # One chunk at a time: a larger batch would add latency and could change the order of summation.
        batch = _slice_padded(sound, start - dropped, stop - dropped)[None]
        features = np.concatenate([features, np.asarray(encoder.encode_windows(batch))[0]])
        chunk += 1
        last = frames_for(dropped + len(sound)) + after if ended else None
        while 2 * frame + lead <= first + len(features):
            if frame == last:
                return
            row = 2 * frame - lead - first
            yield features[row : row + WINDOW]
            frame += 1
        needed = 2 * frame - lead  # the first feature of the next window
        features, first = features[needed - first :], needed
        unused = max(encoder.chunk_span(chunk)[0] - dropped, 0)
        sound, dropped = sound[unused:], dropped + min(unused, len(sound))
