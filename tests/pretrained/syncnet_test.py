"""SyncNet against a slow reference implementation of the published network, and its scores of synthetic embeddings."""

import itertools

import numpy as np
import pytest
import scipy.fft
import torch_files

from adnerf_jax.common.errors import UserError
from adnerf_jax.evaluation.sync_confidence import LipClips, cepstrum, crop_face, speech_embeddings, sync_scores
from adnerf_jax.pretrained.syncnet import CLIP, SIDE, SyncNet

# The published `nn.Sequential`s: ("conv", out, kernel, stride, edge), ("pool", window, step, edge).
SPEECH = [
    ("conv", 64, (3, 3), (1, 1), (1, 1)),
    ("pool", (1, 1), (1, 1), (0, 0)),
    ("conv", 192, (3, 3), (1, 1), (1, 1)),
    ("pool", (3, 3), (1, 2), (0, 0)),
    ("conv", 384, (3, 3), (1, 1), (1, 1)),
    ("conv", 256, (3, 3), (1, 1), (1, 1)),
    ("conv", 256, (3, 3), (1, 1), (1, 1)),
    ("pool", (3, 3), (2, 2), (0, 0)),
    ("conv", 512, (5, 4), (1, 1), (0, 0)),
]
LIPS = [
    ("conv", 96, (5, 7, 7), (1, 2, 2), (0, 0, 0)),
    ("pool", (1, 3, 3), (1, 2, 2), (0, 0, 0)),
    ("conv", 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
    ("pool", (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ("conv", 256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    ("conv", 256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    ("conv", 256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    ("pool", (1, 3, 3), (1, 2, 2), (0, 0, 0)),
    ("conv", 512, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
]


def random_state() -> dict[str, np.ndarray]:
    """A random state dictionary with the names, shapes and order of the published network."""
    rng = np.random.default_rng(0)
    state = {}

    def norm(name, channels):
        state[f"{name}.weight"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(0, 0.1, channels).astype(np.float32)
        state[f"{name}.running_mean"] = rng.normal(0, 0.1, channels).astype(np.float32)
        state[f"{name}.running_var"] = rng.uniform(0.5, 2.0, channels).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.zeros((), np.int64)

    def linear(name, after, before):
        state[f"{name}.weight"] = rng.normal(0, before**-0.5, (after, before)).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(0, 0.1, after).astype(np.float32)

    for tower, layers, before in (("aud", SPEECH, 1), ("lip", LIPS, 3)):
        place = 0
        for kind, *rest in layers:
            if kind == "pool":
                place += 1
                continue
            after, kernel = rest[:2]
            fan = before * int(np.prod(kernel))
            state[f"netcnn{tower}.{place}.weight"] = rng.normal(0, (2 / fan) ** 0.5, (after, before, *kernel)).astype(
                np.float32
            )
            state[f"netcnn{tower}.{place}.bias"] = rng.normal(0, 0.1, after).astype(np.float32)
            norm(f"netcnn{tower}.{place + 1}", after)
            place, before = place + 3, after
        linear(f"netfc{tower}.0", 512, 512)
        norm(f"netfc{tower}.1", 512)
        linear(f"netfc{tower}.3", 1024, 512)
    return state


def slow_tower(state: dict, tower: str, layers: list, x: np.ndarray) -> np.ndarray:
    """The embedding of one input [C, ...], one tap of a kernel after the other."""

    def normalised(x, name):
        mean, var, gain, shift = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        shape = (-1, *[1] * (x.ndim - 1))
        x = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5)
        return x * gain.reshape(shape) + shift.reshape(shape)

    def taps(x, window, step, edge, fill):
        x = np.pad(x, [(0, 0), *((e, e) for e in edge)], constant_values=fill)
        counts = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:], window, step, strict=True)]
        for tap in itertools.product(*map(range, window)):
            slices = (slice(t, t + s * (n - 1) + 1, s) for t, s, n in zip(tap, step, counts, strict=True))
            yield tap, x[(slice(None), *slices)]

    place = 0
    for kind, *rest in layers:
        if kind == "pool":
            best = None
            for _, seen in taps(x, *rest, -np.inf):
                best = seen if best is None else np.maximum(best, seen)
            x, place = best, place + 1
            continue
        _, kernel, step, edge = rest
        weight, total = state[f"netcnn{tower}.{place}.weight"], 0.0
        for tap, seen in taps(x, kernel, step, edge, 0.0):
            total = total + np.tensordot(weight[(slice(None), slice(None), *tap)], seen, 1)
        total = total + state[f"netcnn{tower}.{place}.bias"].reshape(-1, *[1] * (total.ndim - 1))
        x, place = np.maximum(normalised(total, f"netcnn{tower}.{place + 1}"), 0), place + 3
    x = x.reshape(-1)
    x = state[f"netfc{tower}.0.weight"] @ x + state[f"netfc{tower}.0.bias"]
    x = np.maximum(normalised(x, f"netfc{tower}.1"), 0)
    return state[f"netfc{tower}.3.weight"] @ x + state[f"netfc{tower}.3.bias"]


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture
def network(state, tmp_path, monkeypatch):
    return SyncNet(torch_files.save(torch_files.stand_in(monkeypatch), tmp_path / "syncnet.model", state, legacy=True))


def test_speech_against_a_reference_implementation(network, state):
    x = np.random.default_rng(1).normal(0, 5, (2, 13, 20))
    found = network.speech(x)
    assert found.shape == (2, 1024)
    expected = [slow_tower(state, "aud", SPEECH, one[None]) for one in x]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())  # float32


@pytest.mark.slow
def test_lips_against_a_reference_implementation(network, state):
    clip = np.random.default_rng(2).integers(0, 256, (CLIP, SIDE, SIDE, 3), dtype=np.uint8)
    found = network.lips(clip[None])
    # The published network reads pictures by OpenCV: blue first, 0 to 255.
    expected = slow_tower(state, "lip", LIPS, clip[..., ::-1].transpose(3, 0, 1, 2).astype(np.float64))
    assert found.shape == (1, 1024)
    np.testing.assert_allclose(found[0], expected, atol=1e-4 * np.abs(expected).max())


def test_other_files_are_refused(state, tmp_path, monkeypatch):
    torch = torch_files.stand_in(monkeypatch)
    lacking = {name: value for name, value in state.items() if not name.startswith("netcnnlip.4.")}
    with pytest.raises(UserError, match="does not hold SyncNet's weights"):
        SyncNet(torch_files.save(torch, tmp_path / "lacking.model", lacking))
    with pytest.raises(UserError, match=r"netfcaud.3 has shape \(512, 512\) instead of \(1024, 512\)"):
        other = state | {"netfcaud.3.weight": np.zeros((512, 512), np.float32)}
        SyncNet(torch_files.save(torch, tmp_path / "other.model", other))
    (tmp_path / "text.model").write_text("no weights")
    with pytest.raises(UserError, match="cannot be read safely|not a PyTorch checkpoint"):
        SyncNet(tmp_path / "text.model")


def test_cepstral_coefficients_by_their_definition():
    rng = np.random.default_rng(3)
    samples = rng.normal(0, 0.1, 16000 // 4)
    found = cepstrum(samples)
    assert found.shape == (24, 13)  # 25 ms every 10 ms, the last one filled up with zeros
    signal = 32768 * samples
    signal = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
    at = 160 * 5
    power = np.abs(np.fft.fft(signal[at : at + 400], 512)[:257]) ** 2 / 512
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    edges = np.floor(513 * 700 * (10 ** (mels / 2595) - 1) / 16000).astype(int)
    bands = np.zeros(26)
    for j in range(26):
        for i in range(edges[j], edges[j + 1]):
            bands[j] += power[i] * (i - edges[j]) / (edges[j + 1] - edges[j])
        for i in range(edges[j + 1], edges[j + 2]):
            bands[j] += power[i] * (edges[j + 2] - i) / (edges[j + 2] - edges[j + 1])
    expected = scipy.fft.dct(np.log(bands), norm="ortho")[:13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
    expected[0] = np.log(power.sum())
    np.testing.assert_allclose(found[5], expected, rtol=1e-9)


class Echo:
    """A fake network: the mean of a clip's first frame, and the first coefficient of speech."""

    def __init__(self):
        self.sizes = set()

    def lips(self, clips):
        self.sizes.add(len(clips))
        return np.repeat(clips[:, :1].mean((1, 2, 3, 4))[:, None], 1024, axis=1)

    def speech(self, coefficients):
        self.sizes.add(len(coefficients))
        return np.repeat(coefficients[:, 0, :1], 1024, axis=1)


def test_each_clip_is_five_frames_in_a_row():
    network = Echo()
    clips = LipClips(network)
    points = np.full((478, 3), 20.0)
    points[0], points[1] = 10.0, 30.0
    times = [*range(3, 12), *range(14, 20)]  # two are missing
    for time in times:
        seen = None if time == 5 else points  # one without a face, which is taken to stay where it was
        clips.add(time, np.full((40, 40, 3), 10 * time, np.uint8), seen)
    found, firsts = clips.finish()
    assert firsts.tolist() == [3, 4, 5, 6, 7, 14, 15]
    np.testing.assert_allclose(found[:, 0], 10 * firsts)
    assert network.sizes == {8}  # compiled once


def test_a_face_is_cut_out_with_its_margin():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:76, 36:64] = 200  # y − 10 … y + 18 and x ± 14 around (50, 50) with half a side of 10
    picture[:40] = 0
    cut = crop_face(picture, np.array([50.0, 50.0, 10.0]))
    assert cut.shape == (SIDE, SIDE, 3) and (cut == 200).all()
    outside = crop_face(picture, np.array([0.0, 0.0, 10.0]))
    assert (outside[0, 0] == 110).all()


def test_speech_starts_with_each_frame():
    samples = np.random.default_rng(4).normal(0, 0.1, 16000)
    found = speech_embeddings(Echo(), samples, 1000)
    coefficients = cepstrum(samples)
    assert len(found) == (len(coefficients) - 20) // 4 + 1
    np.testing.assert_allclose(found[:, 0], coefficients[: 4 * len(found) : 4, 0])
    assert len(speech_embeddings(Echo(), samples, 7)) == 7
    assert len(speech_embeddings(Echo(), samples[:2000], 7)) == 0


@pytest.mark.parametrize("late", [-7, 0, 5])
def test_lags_and_confidence_of_known_embeddings(late):
    rng = np.random.default_rng(5)
    speech = rng.normal(size=(80, 1024))
    times = np.arange(20, 50)
    scores = sync_scores(speech[times + late], times, speech)
    assert scores["sync_offset_s"] == late / 25
    assert scores["sync_distance"] == pytest.approx(32e-6)  # 1e-6 in each of 1024 dimensions
    # Elsewhere the distance of two normal vectors: sqrt(2 · 1024).
    assert scores["sync_confidence"] == pytest.approx(45.25, rel=0.01)
    assert sync_scores(speech[:5], np.arange(5), speech) == {}
