"""Speech features bounded in time, and the windows of them that drive each video frame.

Sound is cut into chunks of 0.5 s. A chunk's features are computed from one window of fixed length: some seconds
before the chunk, the chunk, a fraction of a second after it. Nothing else enters, no statistic of the whole clip
either, so a live stream can give exactly what the whole file gives, one chunk and the right context later.
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

RATE = FEATURE_RATE
SAMPLES_PER_FEATURE = SAMPLE_RATE // RATE
SAMPLES_PER_FRAME = int(SAMPLE_RATE / FPS)

CHUNK = 25  # features computed at a time (0.5 s)
BATCH = 4  # chunks in one XLA call, of a recording that is there as a whole
# The layer that tells visemes apart best: a linear probe reads the lips better from it than from the last one.
WHISPER_LAYER = 2
DEEPSPEECH_LOGITS = 29


class Encoder:
    """Features of 16 kHz mono sound at 50 Hz, feature k about the time k/50 s.

    Feature k depends on the sound from `left_seconds` before its chunk to `right_seconds` after it, the chunk being
    the 25 features from 25 * (k // 25) on.

    Attributes:
      name: "whisper" or "logmel".
      dim: number of channels.
      rate: features a second, 50.
      left_seconds, right_seconds: context of a chunk.
      encode_windows: the pure core, [B, window] sound → [B, 25, dim] features of each window's chunk; `chunk_span`
        says what to put in a window. Compiled once for a B; recordings use `BATCH`.
    """

    rate = RATE

    def __init__(
        self,
        name: str,
        dim: int,
        left_seconds: float,
        right_seconds: float,
        encode: Callable[[jax.Array], jax.Array],
    ):
        """`encode`: [B, T] sound → [B, T/320, dim], a pure function that `jax.jit` takes."""
        self.name, self.dim = name, dim
        self.left_seconds, self.right_seconds = left_seconds, right_seconds
        self._left = round(left_seconds * RATE)
        self._length = self._left + CHUNK + round(right_seconds * RATE)
        self.encode_windows = jax.jit(lambda sound: encode(sound)[:, self._left : self._left + CHUNK])

    def chunk_span(self, chunk: int) -> tuple[int, int]:
        """The half-open range of samples that chunk number `chunk` is computed from; before 0 there is silence."""
        start = (chunk * CHUNK - self._left) * SAMPLES_PER_FEATURE
        return start, start + self._length * SAMPLES_PER_FEATURE

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features of a whole recording.

        Args:
          samples: [T] float32 in [-1, 1], 16 kHz mono. Silence is assumed before and after.

        Returns:
          [ceil(T/320), dim] float32.
        """
        return self.span(samples, 0, -(-len(samples) // SAMPLES_PER_FEATURE))

    def span(self, samples: np.ndarray, first: int, last: int) -> np.ndarray:
        """Features [first, last) of a recording, [last - first, dim] float32; before 0 and past the end: of silence."""
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise ValueError(f"sound is mono, [T], not {samples.shape}")
        if last <= first:
            return np.zeros((0, self.dim), np.float32)
        first_chunk, last_chunk = first // CHUNK, -(-last // CHUNK)
        features = []
        for start in range(first_chunk, last_chunk, BATCH):
            batch = np.stack([_cut(samples, *self.chunk_span(chunk)) for chunk in range(start, start + BATCH)])
            features.append(np.asarray(self.encode_windows(batch)))
        offset = first - first_chunk * CHUNK
        return np.concatenate(features).reshape(-1, self.dim)[offset : offset + last - first]


def _cut(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """samples[start:stop], with silence where there are none."""
    inside = samples[max(start, 0) : max(stop, 0)]
    before = min(max(-start, 0), stop - start)
    return np.pad(inside, (before, stop - start - before - len(inside)))


def get_encoder(name: str) -> Encoder:
    """The encoder called "whisper" (384-d, 4 s + 0.5 s + 0.5 s windows) or "logmel" (80-d, needs no weights).

    Raises:
      UserError: no such encoder; Whisper's weights cannot be had.
    """
    if name not in ENCODERS:
        raise UserError(f"there is no speech encoder called {name!r}: take one of {', '.join(sorted(ENCODERS))}")
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
        # Whisper's second convolution sees the frames 2k - 1 ... 2k + 1 too.
        before = jnp.pad(mel[:, 1:-1:2], [(0, 0), (1, 0), (0, 0)], mode="edge")
        return before / 4 + mel[:, 0::2] / 2 + mel[:, 1::2] / 4

    return Encoder("logmel", whisper.BANDS, left_seconds=0.1, right_seconds=0.1, encode=encode)


ENCODERS: dict[str, Callable[[], Encoder]] = {"whisper": _whisper_encoder, "logmel": _logmel_encoder}


def frames_for(samples: int) -> int:
    """Number of 25 fps frames that so many samples of driving sound last, begun ones counted: ceil(seconds * 25)."""
    return -(-samples // SAMPLES_PER_FRAME)


def windows(features: np.ndarray, frames: int, first: int = 0) -> np.ndarray:
    """Each frame's window of features: row i holds the features [2i - 8, 2i + 8) (paper, section 3.2).

    Args:
      features: [F, C] at 50 Hz.
      frames: number of frames N at 25 fps.
      first: the feature number of row 0 of `features`, -8 where the lead-in was computed as well.

    Returns:
      [N, 16, C], `features`' type. Beyond the ends the end's feature is repeated: zeros, which the published code
      puts there, are no sound at all to a network.

    Raises:
      ValueError: `features` is empty or has no two axes.
    """
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features are [F, C], F > 0, not {features.shape}")
    wanted = 2 * np.arange(frames)[:, None] + np.arange(-WINDOW // 2, WINDOW // 2)
    return features[np.clip(wanted - first, 0, len(features) - 1)]


def speech_windows(encoder: Encoder, samples: np.ndarray, frames: int) -> np.ndarray:
    """The windows of a recording's first `frames` frames, [N, 16, dim] float32; silence is encoded at its ends.

    They overlap and are one memory, an eighth of their size: to be read only.
    """
    lead = WINDOW // 2
    features = encoder.span(samples, -lead, 2 * frames + lead)
    return np.lib.stride_tricks.sliding_window_view(features, WINDOW, axis=0)[: 2 * frames : 2].swapaxes(1, 2)


def load_deepspeech(path: str | os.PathLike) -> np.ndarray:
    """Windows from a user's DeepSpeech features, the input of the published method.

    Args:
      path: a .npy file of windows [N, 16, 29], one a 25 fps frame, as the reference's preprocessing writes them, or
        of logits [T, 29] at 50 Hz.

    Returns:
      [N, 16, 29] float32; N = ceil(T/2) for logits, whose first and last rows are repeated beyond the ends.

    Raises:
      UserError: the file is missing, is not a .npy of numbers, or has another shape.
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
        raise UserError(f"{path} holds {found}; DeepSpeech features are floats, [N, 16, 29] or [T, 29]")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path} holds numbers that are not finite: extract the DeepSpeech features again")
    return windows(array, -(-len(array) // 2)) if is_logits else array


def look_ahead(encoder: Encoder) -> float:
    """Seconds of sound after a frame's beginning that have to be there before the frame can be rendered, at most.

    A frame sees the windows of three later ones; a feature comes with its chunk, the chunk after its right context.
    """
    return (CHUNK + 2 * FRAMES_AFTER + WINDOW // 2 - 1) / RATE + encoder.right_seconds


def stream_windows(
    encoder: Encoder, blocks: Iterable[np.ndarray], before: int = 0, after: int = 0
) -> Iterator[np.ndarray]:
    """The windows of a sound that arrives in blocks, in constant memory; the same numbers as `speech_windows`.

    However the sound is cut into blocks, the same arithmetic makes the same bits of it.

    Args:
      encoder: of the features.
      blocks: float32 [t] pieces of 16 kHz mono sound, one after the other.
      before, after: so many frames of the silence before and after the sound as well.

    Yields:
      [16, dim] float32 for each begun 25 fps frame; a frame comes once its features' right context has arrived.
    """
    blocks = iter(blocks)
    sound = np.zeros(0, np.float32)
    dropped, ended = 0, False  # samples that no later chunk needs, and whether `sound` runs to the end
    lead = WINDOW // 2
    features = np.zeros((0, encoder.dim), np.float32)
    frame = -before
    chunk = (2 * frame - lead) // CHUNK
    first = chunk * CHUNK  # number of the first feature in `features`
    while True:
        stop = encoder.chunk_span(chunk)[1]
        while not ended and dropped + len(sound) < stop:
            block = next(blocks, None)
            ended = block is None
            sound = sound if ended else np.concatenate([sound, block])
        start, stop = encoder.chunk_span(chunk)
        # One chunk at a time: sums in a larger batch could be taken in another order, and live input cannot wait.
        batch = _cut(sound, start - dropped, stop - dropped)[None]
        features = np.concatenate([features, np.asarray(encoder.encode_windows(batch))[0]])
        chunk += 1
        last = frames_for(dropped + len(sound)) + after if ended else None
        while 2 * frame + lead <= first + len(features):
            if frame == last:
                return
            at = 2 * frame - lead - first
            yield features[at : at + WINDOW]
            frame += 1
        keep = 2 * frame - lead
        features, first = features[keep - first :], keep
        unused = max(encoder.chunk_span(chunk)[0] - dropped, 0)
        sound, dropped = sound[unused:], dropped + min(unused, len(sound))
