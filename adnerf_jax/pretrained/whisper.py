"""The Whisper tiny.en encoder in JAX, from the weights of its CTranslate2 conversion.

Whisper (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022) turns an 80-band log-mel
spectrogram at 100 Hz into one 384-d vector every 20 ms. Only the encoder is read; the decoder stays on disk.
"""

import functools
import os
import pathlib
import struct
from typing import BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import SAMPLE_RATE

HOP = 160  # samples from one mel frame to the next
FFT = 400  # samples in an analysis window (25 ms)
BANDS = 80
WIDTH = 384
HEADS = 6
LAYERS = 4

# Whisper clamps the spectrogram at 80 dB below the maximum of the clip. The maximum is unknown for a live stream, so
# this constant is used instead, as log10 of the mel power. Speech recorded at a usual level reaches 1.3 to 2.1; the
# lower value keeps the features of quiet recordings (-12 dB) closer to those of the same sound at full level.
PEAK_LOG10_POWER = 1.0
DYNAMIC_RANGE_LOG10 = 8.0

Params = dict[str, jax.Array]

_CT2_OLDEST_VERSION = 5
_CT2_DTYPES = ("<f4", "<i1", "<i2", "<i4", "<f2")
_ENCODER = "encoder/"


def load(path: str | os.PathLike) -> Params:
    """Reads the encoder's weights from a CTranslate2 `model.bin`.

    Args:
      path: the model file, Whisper tiny.en in floating point.

    Returns:
      float32 arrays by their name in the file without the leading "encoder/".

    Raises:
      UserError: the file is missing, or is not such a model.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            params = _read_encoder(file)
    except OSError as error:
        raise UserError(f"cannot read the Whisper weights {path}: {error.strerror}") from None
    except (struct.error, ValueError, IndexError, UnicodeDecodeError):
        raise UserError(f"{path} is not a CTranslate2 model, or it is truncated: fetch it again") from None
    found = params.get("conv1/weight", np.zeros(0)).shape
    if found != (WIDTH, BANDS, 3) or f"layer_{LAYERS - 1}/ffn/linear_1/weight" not in params:
        raise UserError(f"{path} does not hold Whisper tiny.en (first convolution {found})")
    return {name: jnp.asarray(array, jnp.float32) for name, array in params.items()}


def _read_encoder(file: BinaryIO) -> dict[str, np.ndarray]:
    """The variables under "encoder/". File layout: version, names, then (name, shape, type, bytes) of each variable."""

    def number(code: str) -> int:
        return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]

    def text() -> str:
        return file.read(number("H"))[:-1].decode()

    if number("I") < _CT2_OLDEST_VERSION:
        raise ValueError("too old")
    text(), number("I")  # skips the model's class and its revision
    params = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = _CT2_DTYPES[number("B")]
        size = number("I")
        if name.startswith(_ENCODER):
            params[name.removeprefix(_ENCODER)] = np.frombuffer(file.read(size), dtype).reshape(shape)
        else:
            file.seek(size, os.SEEK_CUR)
    return params


@functools.cache
def mel_filters() -> np.ndarray:
    """Slaney's mel filterbank [80, 201] float32, the default of librosa.

    Triangles between 82 points equally spaced on a mel scale that is linear below 1 kHz and logarithmic above, each
    scaled to unit area.
    """
    linear_step, knee_hz, log_step = 200.0 / 3.0, 1000.0, np.log(6.4) / 27.0
    knee = knee_hz / linear_step
    nyquist = SAMPLE_RATE / 2
    mels = np.linspace(0.0, knee + np.log(nyquist / knee_hz) / log_step, BANDS + 2)
    edges = np.where(mels < knee, mels * linear_step, knee_hz * np.exp(log_step * (np.maximum(mels, knee) - knee)))
    bins = np.linspace(0.0, nyquist, FFT // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    return (triangles * 2.0 / (high - low)).astype(np.float32)


def log_mel(samples: jax.Array) -> jax.Array:
    """Whisper's log-mel spectrogram with a fixed reference level instead of the maximum of the clip.

    Args:
      samples: [..., T] at 16 kHz, T a multiple of 160; padded with silence at both ends.

    Returns:
      [..., T/160, 80]; frame k is centred on sample 160 k. Silence is (1 - 8 + 4) / 4 = -0.75.
    """
    frames = samples.shape[-1] // HOP
    padded = jnp.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(FFT // 2, FFT // 2)])
    index = HOP * np.arange(frames)[:, None] + np.arange(FFT)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    windowed = padded[..., index] * expand_leading(window.astype(np.float32), samples.ndim + 1)
    spectrum = jnp.fft.rfft(windowed, axis=-1)
    power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
    floor = 10.0 ** (PEAK_LOG10_POWER - DYNAMIC_RANGE_LOG10)
    return (jnp.log10(jnp.maximum(power @ mel_filters().T, floor)) + 4.0) / 4.0


def encode(params: Params, mel: jax.Array, layer: int) -> jax.Array:
    """Runs the encoder up to one of its layers.

    Args:
      params: result of `load`.
      mel: [..., F, 80] log-mel frames at 100 Hz, F even, at most 3000 (30 s).
      layer: 0 ... 3; 3 includes the final layer norm.

    Returns:
      [..., F/2, 384]; row k is centred on the time 20 k ms.

    Raises:
      ValueError: there is no such layer.
    """
    if not 0 <= layer < LAYERS:
        raise ValueError(f"layer {layer} is not one of 0 to {LAYERS - 1}")
    batch, x = mel.shape[:-2], mel.reshape(-1, *mel.shape[-2:])
    x = _convolution(params, "conv1", x, stride=1)
    x = _convolution(params, "conv2", x, stride=2)
    x = x + params["position_encodings/encodings"][None, : x.shape[1]]
    for index in range(layer + 1):
        x = x + _attention(params, f"layer_{index}/self_attention", x)
        hidden = jax.nn.gelu(
            _linear(params, f"layer_{index}/ffn/linear_0", _layer_norm(params, f"layer_{index}/ffn/layer_norm", x)),
            approximate=False,
        )
        x = x + _linear(params, f"layer_{index}/ffn/linear_1", hidden)
    if layer == LAYERS - 1:
        x = _layer_norm(params, "layer_norm", x)
    return x.reshape(*batch, *x.shape[1:])


def _linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{name}/weight"].T + expand_leading(params[f"{name}/bias"], x.ndim)


def _layer_norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    x = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    gamma, beta = (expand_leading(params[f"{name}/{part}"], x.ndim) for part in ("gamma", "beta"))
    return x * gamma + beta


def _convolution(params: Params, name: str, x: jax.Array, stride: int) -> jax.Array:
    y = jax.lax.conv_general_dilated(
        x, params[f"{name}/weight"], (stride,), [(1, 1)], dimension_numbers=("NWC", "OIW", "NWC")
    )
    return jax.nn.gelu(y + expand_leading(params[f"{name}/bias"], y.ndim), approximate=False)


def _attention(params: Params, name: str, x: jax.Array) -> jax.Array:
    joint = _linear(params, f"{name}/linear_0", _layer_norm(params, f"{name}/layer_norm", x))
    query, key, value = (part.reshape(*x.shape[:2], HEADS, WIDTH // HEADS) for part in jnp.split(joint, 3, axis=-1))
    return _linear(params, f"{name}/linear_1", jax.nn.dot_product_attention(query, key, value).reshape(x.shape))
