"""Person segmentation: MediaPipe's `selfie_segmentation.tflite` (Apache-2.0), a MobileNetV3 with a small decoder.

Its last layer but one is a custom operator of MediaPipe that LiteRT does not have, a 2×2 transposed convolution of
stride 2. The network is truncated before it, and the layer is computed here in NumPy.
"""

import pathlib
import struct

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from adnerf_jax.common.errors import UserError

SIDE = 256  # pixels of the network's input and output
_OPERATOR = b"Convolution2DTransposeBias"


class PersonSegmenter:
    """Segments a person from the background.

    Raises:
      UserError: the file is not the selfie segmentation network.
    """

    def __init__(self, path: str | pathlib.Path):
        try:
            network, features, kernel, bias = _cut_network(pathlib.Path(path).read_bytes())
            self._kernel, self._bias = kernel[0], float(bias[0])  # [2, 2, C]
            self._network = Interpreter(model_content=network)
            self._network.allocate_tensors()
        except (OSError, StopIteration, AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
            raise UserError(f"{path} is not MediaPipe's selfie_segmentation.tflite: {error}") from None
        self._input = self._network.get_input_details()[0]["index"]
        self._features = features

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Logits of "person", float32 [256, 256], of a picture uint8 [256, 256, 3]."""
        self._network.set_tensor(self._input, rgb[None].astype(np.float32) / 255)
        self._network.invoke()
        cells = self._network.get_tensor(self._features)[0]
        # Kernel size and stride are equal: each cell gives 2×2 pixels without overlap.
        pixels = np.einsum("ijc,abc->iajb", cells, self._kernel) + self._bias
        return pixels.reshape(SIDE, SIDE).astype(np.float32)


def _cut_network(content: bytes) -> tuple[bytes, int, np.ndarray, np.ndarray]:
    """Truncates the network before the custom operator.

    Args:
      content: content of the `.tflite` file.

    Returns:
      the content of the truncated file, the index of its output tensor, the operator's kernel and its bias.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    at = next(i for i, op in enumerate(graph.operators) if model.operatorCodes[op.opcodeIndex].customCode == _OPERATOR)
    features, *weights = (int(i) for i in graph.operators[at].inputs)
    stored = {int(op.outputs[0]): int(op.inputs[0]) for op in graph.operators if len(op.inputs) == 1}
    kernel, bias = (_half_floats(model, graph.tensors[stored[i]]) for i in weights)
    dropped = set(weights)  # outputs of conversions to float32 that are no longer used
    graph.operators = [op for op in graph.operators[:at] if int(op.outputs[0]) not in dropped]
    graph.outputs = np.array([features], np.int32)
    model.signatureDefs = None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output()), features, kernel, bias


def _half_floats(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """A constant tensor stored as float16, as float32."""
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    return np.frombuffer(data, np.float16).reshape(tensor.shape).astype(np.float32)
