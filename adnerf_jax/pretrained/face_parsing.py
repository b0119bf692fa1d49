"""BiSeNet face parsing (79999_iter.pth): 19 classes of CelebAMask-HQ, the network that the published code uses.

Its weights were trained on a data set for non-commercial research. Architecture: Yu et al. 2018, "BiSeNet", with a
ResNet-18 context path, as published in zllrunning/face-parsing.PyTorch. It is convolutional except for global averages,
so that the sides of the input can be any multiples of 32.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.broadcasting import expand_leading
from adnerf_jax.common.errors import UserError
from adnerf_jax.pretrained import torch_pickle

CLASSES = (
    "background skin left_brow right_brow left_eye right_eye glasses left_ear right_ear earring nose mouth upper_lip "
    "lower_lip neck necklace cloth hair hat"
).split()
STRIDE = 8  # pixels per cell of the logits
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
# The batch norm that follows a convolution, by the last part of the convolution's name.
_BATCH_NORM = {"conv1": "bn1", "conv2": "bn2", "conv": "bn", "conv_atten": "bn_atten", "0": "1"}

Params = dict[str, tuple[jax.Array, jax.Array]]


def load(path: str | pathlib.Path) -> Params:
    """Reads the convolutions' kernels [h, w, in, out] and biases [out] by name, with batch norms folded into them.

    Raises:
      UserError: the file is not this network's checkpoint.
    """
    state = torch_pickle.load(path)
    kernels = [k for k in state if k.endswith(".weight") and state[k].ndim == 4] if isinstance(state, dict) else []
    if "conv_out.conv_out.weight" not in kernels:
        raise UserError(f"{path} is not the face parsing network's checkpoint (79999_iter.pth)")
    params = {}
    for key in kernels:
        name = key.removesuffix(".weight")
        parent, _, last = name.rpartition(".")
        kernel = state[key].astype(np.float64)
        bias = np.zeros(len(kernel))
        norm = f"{parent}.{_BATCH_NORM.get(last)}"
        if f"{norm}.running_var" in state:
            scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"].astype(np.float64) + 1e-5)
            kernel = kernel * scale[:, None, None, None]
            bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        kernel = kernel.transpose(2, 3, 1, 0)
        params[name] = (jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
    return params


def logits(params: Params, rgb: jax.Array) -> jax.Array:
    """Class logits float32 [N, H/8, W/8, 19] of pictures uint8 [N, H, W, 3]; H and W are multiples of 32.

    Cell (i, j) is at pixel (i (H − 1)/(H/8 − 1), j (W − 1)/(W/8 − 1)): the network was trained with aligned corners.
    """
    mean, std = (expand_leading(jnp.array(values), rgb.ndim) for values in (_MEAN, _STD))
    x = (rgb.astype(jnp.float32) / 255 - mean) / std
    x = _conv(params, "cp.resnet.conv1", x, stride=2)
    edges = [(0, 0), (1, 1), (1, 1), (0, 0)]
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)
    stages = []
    for layer in (1, 2, 3, 4):
        x = _residual(params, f"cp.resnet.layer{layer}.0", x, stride=1 if layer == 1 else 2)
        x = _residual(params, f"cp.resnet.layer{layer}.1", x, stride=1)
        stages.append(x)
    _, at8, at16, at32 = stages
    whole = _conv(params, "cp.conv_avg.conv", _average(at32))
    context = _conv(params, "cp.conv_head32.conv", _double(_attention(params, "cp.arm32", at32) + whole))
    context = _conv(params, "cp.conv_head16.conv", _double(_attention(params, "cp.arm16", at16) + context))
    fused = _conv(params, "ffm.convblk.conv", jnp.concatenate([at8, context], -1))
    gate = _conv(params, "ffm.conv2", _conv(params, "ffm.conv1", _average(fused)), relu=False)
    fused = fused + fused * jax.nn.sigmoid(gate)
    return _conv(params, "conv_out.conv_out", _conv(params, "conv_out.conv.conv", fused), relu=False)


@jax.jit
def parse(params: Params, rgb: jax.Array) -> jax.Array:
    """Labels uint8 [N, S, S], indices into CLASSES, of pictures uint8 [N, S, S, 3]; S is a multiple of 32."""
    cells = logits(params, rgb)
    rows, columns = (_aligned(n // STRIDE, n) for n in rgb.shape[1:3])
    return jnp.einsum("ah,bw,nhwc->nabc", rows, columns, cells).argmax(-1).astype(jnp.uint8)


def _conv(params: Params, name: str, x: jax.Array, stride: int = 1, relu: bool = True) -> jax.Array:
    kernel, bias = params[name]
    edge = kernel.shape[0] // 2
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(edge, edge)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = y + expand_leading(bias, y.ndim)
    return jax.nn.relu(y) if relu else y


def _residual(params: Params, name: str, x: jax.Array, stride: int) -> jax.Array:
    y = _conv(params, f"{name}.conv2", _conv(params, f"{name}.conv1", x, stride), relu=False)
    shortcut = f"{name}.downsample.0"
    return jax.nn.relu(y + (_conv(params, shortcut, x, stride, relu=False) if shortcut in params else x))


def _attention(params: Params, name: str, x: jax.Array) -> jax.Array:
    x = _conv(params, f"{name}.conv.conv", x)
    return x * jax.nn.sigmoid(_conv(params, f"{name}.conv_atten", _average(x), relu=False))


def _average(x: jax.Array) -> jax.Array:
    return x.mean((1, 2), keepdims=True)


def _double(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _aligned(cells: int, pixels: int) -> np.ndarray:
    """The matrix [pixels, cells] of linear interpolation with aligned corners."""
    at = np.arange(pixels) * (cells - 1) / (pixels - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))).astype(np.float32)
