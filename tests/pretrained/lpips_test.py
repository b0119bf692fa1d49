"""LPIPS against a slow reference implementation, and the order of its distances."""

import pickle

import cv2
import numpy as np
import pytest

from adnerf_jax.common.errors import UserError
from adnerf_jax.pretrained import lpips, weights
from adnerf_jax.pretrained.lpips import Lpips

TAPS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def write_random(path, name: str) -> dict:
    """Random weights of a network, in the format of the published file."""
    rng = np.random.default_rng(0)
    plan = lpips._PLANS[name]
    layers = {}
    for i, (size, before, after) in enumerate(zip(plan.kernels, (3, *plan.channels), plan.channels, strict=False)):
        scale = np.sqrt(2 / (size * size * before))
        layers[f"Conv_{i}"] = {
            "kernel": rng.normal(0, scale, (size, size, before, after)).astype(np.float32),
            "bias": rng.normal(0, 0.1, after).astype(np.float32),
        }
    stored = {plan.key: layers}
    for k, channels in enumerate(TAPS[name]):
        stored[f"NetLinLayer_{k}"] = {"Conv_0": {"kernel": rng.random((1, 1, channels, 1)).astype(np.float32)}}
    path.write_bytes(renamed(pickle.dumps(stored, protocol=4)))
    return stored


def renamed(data: bytes) -> bytes:
    """The published files were written by numpy 1, whose `_core` was `core`; lengths stand before the names."""
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    data = data.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
    # Without the pickle's frames, whose stated lengths would be wrong now.
    return data[:2] + data[11:] if data[2:3] == b"\x95" else data


def slow_conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int, edge: int) -> np.ndarray:
    """Convolution and ReLU of [H, W, in], one tap of the kernel after the other, in float64."""
    size = len(kernel)
    x = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    total = np.tile(bias.astype(np.float64), (rows, columns, 1))
    for dy in range(size):
        for dx in range(size):
            seen = x[dy : dy + stride * rows : stride, dx : dx + stride * columns : stride][:rows, :columns]
            total += seen @ kernel[dy, dx].astype(np.float64)
    return np.maximum(total, 0)


def slow_pool(x: np.ndarray, window: int) -> np.ndarray:
    rows, columns = ((n - window) // 2 + 1 for n in x.shape[:2])
    cells = [
        [x[2 * i : 2 * i + window, 2 * j : 2 * j + window].max((0, 1)) for j in range(columns)] for i in range(rows)
    ]
    return np.array(cells)


def slow_lpips(stored: dict, name: str, a: np.ndarray, b: np.ndarray) -> float:
    """From the papers: torchvision's `features`, the taps of `lpips.pretrained_networks`, `normalize_tensor`."""
    layers = next(value for key, value in stored.items() if not key.startswith("NetLin"))
    if name == "alex":  # stride, edge, pooled before
        plan = [(4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False)]
        tapped, window = {0, 1, 2, 3, 4}, 3
    else:
        plan = [(1, 1, i in (2, 4, 7, 10)) for i in range(13)]
        tapped, window = {1, 3, 6, 9, 12}, 2

    def taps(x):
        x = ((x * 2 - 1) - [-0.030, -0.088, -0.188]) / np.array([0.458, 0.448, 0.450])
        for i, (stride, edge, pooled) in enumerate(plan):
            x = slow_pool(x, window) if pooled else x
            x = slow_conv(x, layers[f"Conv_{i}"]["kernel"], layers[f"Conv_{i}"]["bias"], stride, edge)
            if i in tapped:
                yield x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)

    total = 0.0
    for k, (p, q) in enumerate(zip(taps(a), taps(b), strict=True)):
        total += ((p - q) ** 2 @ stored[f"NetLinLayer_{k}"]["Conv_0"]["kernel"][0, 0, :, 0].astype(np.float64)).mean()
    return total


def pictures(height: int = 33, width: int = 42) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    a = rng.random((height, width, 3))
    return a, np.clip(a + 0.2 * rng.normal(size=a.shape), 0, 1)


@pytest.mark.parametrize("name", lpips.NETWORKS)
def test_against_a_reference_implementation(tmp_path, name):
    stored = write_random(tmp_path / "weights", name)
    metric = Lpips(name, tmp_path / "weights")
    a, b = pictures()
    assert metric(a, b) == pytest.approx(slow_lpips(stored, name, a, b), rel=1e-4)
    assert metric(a, b) == pytest.approx(metric(b, a), rel=1e-5)
    assert metric(a, a) == 0.0


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("alex", [(7, 9), (3, 4), (1, 1), (1, 1), (1, 1)]), ("vgg", [(33, 42), (16, 21), (8, 10), (4, 5), (2, 2)])],
)
def test_shapes_of_the_features(tmp_path, name, sizes):
    write_random(tmp_path / "weights", name)
    features = Lpips(name, tmp_path / "weights").features(pictures()[0])
    assert [f.shape for f in features] == [(*size, c) for size, c in zip(sizes, TAPS[name], strict=True)]
    assert all(np.linalg.norm(f, axis=-1).max() == pytest.approx(1, abs=1e-4) for f in features)


@pytest.mark.parametrize("name", lpips.NETWORKS)
def test_a_picture_of_the_smallest_size_gives_a_number(tmp_path, name):
    write_random(tmp_path / "weights", name)
    a, b = pictures(lpips.MIN_SIDE, lpips.MIN_SIDE)
    assert Lpips(name, tmp_path / "weights")(a, b) > 0


@pytest.mark.parametrize("name", lpips.NETWORKS)
def test_the_published_weights(name):
    try:
        path = weights.path(f"lpips_{name}")
    except UserError as error:
        if "connection" in str(error):
            pytest.skip(f"offline: {error}")
        raise
    stored = lpips._Unpickler(path.open("rb")).load()
    metric = Lpips(name)
    a, b = pictures()
    assert metric(a, b) == pytest.approx(slow_lpips(stored, name, a, b), rel=1e-4)
    # The distance grows with the distortion: increasing blur, noise or darkening of a smooth picture with edges.
    rng = np.random.default_rng(4)
    picture = cv2.resize(rng.random((6, 6, 3)), (64, 64), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    picture[20:40, 14:36] = 0.9
    noise = rng.normal(size=picture.shape)
    worse = [
        [cv2.GaussianBlur(picture, (0, 0), s) for s in (1.0, 2.0, 4.0)],
        [np.clip(picture + s * noise, 0, 1) for s in (0.02, 0.06, 0.2)],
        [picture * s for s in (0.8, 0.5, 0.2)],
    ]
    assert metric(picture, picture) == 0.0
    for series in worse:
        scores = [metric(image, picture) for image in series]
        assert 0 < scores[0] < scores[1] < scores[2]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "weights"
    write_random(path, "vgg")
    with pytest.raises(UserError, match="does not hold the LPIPS weights"):
        Lpips("alex", path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not hold the LPIPS weights"):
        Lpips("vgg", path)


def test_a_pickle_that_is_a_program_does_not_run(tmp_path):
    class Program:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "weights"
    path.write_bytes(pickle.dumps({"AlexNet_0": Program()}))
    with pytest.raises(UserError, match="it refers to"):
        Lpips("alex", path)
    assert not (tmp_path / "ran").exists()
