"""Speech features: the Whisper encoder's arithmetic, bounded context, streaming, windows, DeepSpeech files."""

import io
import os
import pathlib
import struct

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.pretrained import weights, whisper
from adnerf_jax.speech import features as speech

RATE = SAMPLE_RATE


def _babble(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise bursts and frequency-modulated tones: the sound varies everywhere, so that any shift is detected."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * (150 * time + 40 * np.sin(2 * np.pi * 1.3 * time))) * (1 + np.sin(2 * np.pi * 3.1 * time))
    return (0.1 * tone + 0.05 * rng.standard_normal(len(time)) * (np.sin(9 * time) > 0)).astype(np.float32)


@pytest.fixture(params=["whisper", "logmel"])
def encoder(request) -> speech.Encoder:
    return speech.get_encoder(request.param)


def test_mel_filters_are_librosas():
    filters = pytest.importorskip("librosa.filters").mel(sr=RATE, n_fft=whisper.FFT, n_mels=whisper.BANDS)
    np.testing.assert_allclose(whisper.mel_filters(), filters, atol=1e-7)


def test_log_mel_of_a_tone_and_of_silence():
    time = np.arange(RATE) / RATE
    mel = np.asarray(jax.jit(whisper.log_mel)(jnp.asarray(0.5 * np.sin(2 * np.pi * 1000 * time), jnp.float32)))
    assert mel.shape == (100, whisper.BANDS)
    # |X| of a sine at a bin's centre is amplitude * sum(Hann) / 2 = 0.5 * 200 / 2, its two neighbours' half of that.
    bins = np.array([24, 25, 26])  # 1000 Hz = bin 25
    expected = np.log10(whisper.mel_filters()[:, bins] @ np.array([25.0, 50.0, 25.0]) ** 2 + 1e-12)
    band = expected.argmax()
    assert mel[50].argmax() == band
    assert mel[50, band] * 4 - 4 == pytest.approx(expected[band], abs=1e-3)
    silence = np.asarray(jax.jit(whisper.log_mel)(jnp.zeros((2, 3200))))
    np.testing.assert_allclose(silence, (whisper.PEAK_LOG10_POWER - 8 + 4) / 4, atol=1e-6)


def test_whisper_layer_against_a_reference_implementation():
    """One layer against plain float64 NumPy with loops."""
    loaded = whisper.load(weights.path("whisper"))
    params = {name: np.asarray(value, np.float64) for name, value in loaded.items()}
    mel = np.random.default_rng(0).normal(size=(12, whisper.BANDS))

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * params[name + "/gamma"] + params[name + "/beta"]

    def gelu(x):
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    def linear(name, x):
        return x @ params[name + "/weight"].T + params[name + "/bias"]

    def convolve(name, x, stride):
        padded = np.pad(x, ((1, 1), (0, 0)))
        rows = [np.einsum("kc,ock->o", padded[t : t + 3], params[name + "/weight"]) for t in range(0, len(x), stride)]
        return gelu(np.array(rows) + params[name + "/bias"])

    x = convolve("conv2", convolve("conv1", mel, 1), 2) + params["position_encodings/encodings"][:6]
    joint = linear("layer_0/self_attention/linear_0", norm("layer_0/self_attention/layer_norm", x))
    query, key, value = np.split(joint, 3, axis=1)
    heads = []
    for head in np.split(np.arange(whisper.WIDTH), whisper.HEADS):
        score = np.exp(query[:, head] @ key[:, head].T / np.sqrt(len(head)))
        heads.append(score / score.sum(1, keepdims=True) @ value[:, head])
    x = x + linear("layer_0/self_attention/linear_1", np.concatenate(heads, 1))
    x = x + linear("layer_0/ffn/linear_1", gelu(linear("layer_0/ffn/linear_0", norm("layer_0/ffn/layer_norm", x))))

    ours = jax.jit(whisper.encode, static_argnames="layer")(loaded, jnp.asarray(mel, jnp.float32), layer=0)
    np.testing.assert_allclose(ours, x, atol=2e-4)  # float32 against float64; values reach 5


def test_whisper_rejects_other_files(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        whisper.load(tmp_path / "absent.bin")
    (tmp_path / "text.bin").write_bytes(b"not a model, surely")
    with pytest.raises(UserError, match="not a CTranslate2 model"):
        whisper.load(tmp_path / "text.bin")
    other = io.BytesIO()
    other.write(struct.pack("<IH", 6, 5) + b"Spec\0" + struct.pack("<II", 1, 0))
    (tmp_path / "other.bin").write_bytes(other.getvalue())
    with pytest.raises(UserError, match="does not hold Whisper tiny.en"):
        whisper.load(tmp_path / "other.bin")


def test_features_have_the_length_and_rate_of_the_sound(encoder):
    for samples in (1, 320, 321, 39999):
        features = encoder(_babble(3.0)[:samples])
        chex.assert_shape(features, (-(-samples // 320), encoder.dim))
        assert np.isfinite(features).all() and features.dtype == np.float32
    assert encoder(np.zeros(0, np.float32)).shape == (0, encoder.dim)


def test_features_depend_only_on_sound_up_to_the_right_context_of_their_chunk(encoder):
    sound = _babble(4.0)
    whole = encoder(sound)
    chunk = 3  # features 75 ... 99, the second from 1.5 s on
    end = round((2.0 + encoder.right_seconds) * RATE)
    # With a shorter sound a chunk is computed in another batch, which may change the last digits of float32.
    np.testing.assert_allclose(encoder(sound[:end])[75:100], whole[75:100], atol=1e-4)
    changed = sound.copy()
    changed[end:] = 0.3 * np.random.default_rng(1).standard_normal(len(sound) - end)
    np.testing.assert_allclose(encoder(changed)[:100], whole[:100], atol=1e-4)
    assert encoder.chunk_span(chunk)[1] == end
    if encoder.name == "whisper":  # it does use the right context; the log-mel only uses 25 ms around a feature
        changed[end - 4000 :] = 0
        assert np.abs(encoder(changed)[75:100] - whole[75:100]).max() > 1e-2


def test_a_stream_gives_the_features_of_the_file(encoder):
    sound = _babble(2.3)
    stream = []
    for chunk in range(5):
        start, stop = encoder.chunk_span(chunk)
        received = sound[: max(stop, 0)]  # what has arrived by then
        window = np.zeros(stop - start, np.float32)
        window[max(-start, 0) : max(-start, 0) + len(received[max(start, 0) :])] = received[max(start, 0) :]
        stream.append(np.asarray(encoder.encode_windows(np.stack([window] * speech.BATCH)))[0])
    np.testing.assert_allclose(np.concatenate(stream)[: len(encoder(sound))], encoder(sound), atol=1e-4)


def test_one_compilation_serves_every_length(encoder):
    encoder.encode_windows.clear_cache()  # other tests use the same encoder with other compiler settings
    for seconds in (1.0, 0.01, 2.2):
        encoder(_babble(seconds))
    assert encoder.encode_windows._cache_size() == 1


def test_features_move_with_the_sound(encoder):
    """Half a second of silence at the start shifts the features by 25 rows: feature k is centred on k/50 s."""
    sound = _babble(2.0)
    later = encoder(np.concatenate([np.zeros(RATE // 2, np.float32), sound]))[25:]
    here = encoder(sound)
    # The shift is a whole chunk, and the padding is silence too: every window holds the same samples.
    np.testing.assert_allclose(later[: len(here)], here, atol=1e-4)


def test_the_features_are_those_that_people_were_trained_on():
    """Another layer, or other filters, would give everybody that was trained before another mouth."""
    found = speech.get_encoder("whisper")(_babble(1.0))[[10, 30]][:, ::50]
    expected = [
        [0.319, 0.567, 0.977, 1.573, 0.215, 1.337, 0.515, -0.014],
        [1.433, 0.703, 1.505, 1.567, -0.019, 1.403, 0.407, 0.683],
    ]
    # Rounded to three digits; other layers are off by 0.2 on average.
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_quieter_recording_gives_similar_features():
    encoder, sound = speech.get_encoder("whisper"), _babble(4.0)
    loud, quiet = encoder(sound), encoder(sound * 10 ** (-12 / 20))
    mean = loud.mean(0)
    # 0.96 on speech; normalisation by statistics of the clip, which would violate the bounded context, would give 1.
    assert np.corrcoef((loud - mean).ravel(), (quiet - mean).ravel())[0, 1] > 0.8


def test_windows_hold_the_sixteen_features_around_the_frame():
    features = np.arange(40, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    rows = speech.windows(features, 20)
    chex.assert_shape(rows, (20, 16, 3))
    np.testing.assert_array_equal(rows[10, :, 0], np.arange(12, 28))
    np.testing.assert_array_equal(rows[0, :, 0], [0] * 8 + list(range(8)))  # the first feature, not zeros
    np.testing.assert_array_equal(rows[19, :, 0], list(range(30, 40)) + [39] * 6)
    np.testing.assert_array_equal(speech.windows(features, 3, first=-8)[0, :, 0], np.arange(16))
    with pytest.raises(ValueError):
        speech.windows(np.zeros((0, 3)), 1)


def test_speech_windows_hold_features_of_silence_beyond_the_ends(encoder):
    sound = _babble(1.0)
    frames = speech.frames_for(len(sound))
    rows = speech.speech_windows(encoder, sound, frames)
    chex.assert_shape(rows, (25, 16, encoder.dim))
    np.testing.assert_allclose(rows[10], encoder(sound)[12:28], atol=1e-4)
    silence = np.zeros_like(sound)
    padded = encoder(np.concatenate([silence, sound, silence]))
    np.testing.assert_allclose(rows[0], padded[42:58], atol=1e-4)
    np.testing.assert_allclose(rows[24], padded[90:106], atol=1e-4)


def test_frames_for_rounds_up():
    assert [speech.frames_for(n) for n in (0, 1, 640, 641, 16000)] == [0, 1, 1, 2, 25]


def test_the_error_for_an_unknown_encoder_names_the_known_ones():
    with pytest.raises(UserError, match="'mfcc'.*logmel, whisper"):
        speech.get_encoder("mfcc")


def test_deepspeech_windows_and_logits(tmp_path):
    path = tmp_path / "aud.npy"
    rows = np.random.default_rng(0).normal(size=(5, 16, 29))
    np.save(path, rows)
    loaded = speech.load_deepspeech(path)
    np.testing.assert_array_equal(loaded, rows.astype(np.float32))
    logits = np.random.default_rng(1).normal(size=(41, 29)).astype(np.float32)
    np.save(path, logits)
    loaded = speech.load_deepspeech(path)
    chex.assert_shape(loaded, (21, 16, 29))
    np.testing.assert_array_equal(loaded[10], logits[12:28])


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((5, 16, 28)),
        np.zeros((5, 29, 16)),
        np.zeros(29),
        np.zeros((0, 29)),
        np.full((4, 29), np.nan),
        np.zeros((4, 29), np.int32),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=["28 logits", "transposed", "one row", "empty", "nan", "integers", "pickled"],
)
def test_deepspeech_refuses_arrays_that_are_not_features(tmp_path, content):
    path = tmp_path / "aud.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match="aud.npy"):
        speech.load_deepspeech(path)


def test_deepspeech_refuses_other_files(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        speech.load_deepspeech(tmp_path / "absent.npy")
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(UserError, match="not a .npy"):
        speech.load_deepspeech(tmp_path / "text.npy")
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="many.npz"):
        speech.load_deepspeech(tmp_path / "many.npz")


def test_a_real_deepspeech_file_loads():
    root = os.environ.get("ADNERF_TEST_DATA")
    if not root:
        pytest.skip("ADNERF_TEST_DATA is not set")
    loaded = speech.load_deepspeech(pathlib.Path(root) / "audio/deepspeech_sugar_325x16x29.npy")
    chex.assert_shape(loaded, (325, 16, 29))
    # Neighbouring windows overlap by 14 rows: two rows per frame.
    np.testing.assert_allclose(loaded[100, 2:], loaded[101, :-2], atol=1e-5)
