"""A portable model as an ONNX file, for whoever runs it without gossip.

Input "images": uint8[n, height, width, channels], pixels as they come from a file; the normalisation is part of the
graph. Output "logits": float32[n, classes]; their softmax are the probabilities. The classes' names are metadata. In
between everything is float32[n, channels, height, width], as ONNX has it, vectors with a height and width of 1. A
dense layer counts the values of an image row by row, column by column, channel by channel, so the graph turns an image
back before it flattens it. Needs the onnx package, which nothing else here does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossip import __version__
from gossip.errors import MissingExtraError, SpecError
from gossip.models.layers import Layer, Shape
from gossip.models.portable import PortableModel
from gossip.observe import write_atomically

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 17  # 2022: whatever reads ONNX today reads this
IR_VERSION = 8
EPSILON = 1e-5  # of every normalisation, as kernels/norm.py has it


def to_onnx(found: PortableModel, name: str = "gossip") -> ModelProto:
    """The checked graph. Raises MissingExtraError where onnx is not installed."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "an export needs the onnx package, which is not installed: pip install 'gossip-sgd[onnx]'"
        ) from error
    from onnx import TensorProto, helper

    graph = _Graph(found)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *found.shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(found.classes)])
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, [images], [logits], graph.constants),
        producer_name="gossip",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    layers = [layer.text for layer in found.layers]
    helper.set_model_props(model, {"classes": json.dumps(found.classes), "layers": json.dumps(layers)})
    onnx.checker.check_model(model, full_check=True)
    return model


def save_onnx(found: PortableModel, out: Path) -> dict[str, Any]:
    """Write the file; what was written, for --json. Raises SpecError, MissingExtraError."""
    model = to_onnx(found, out.stem)
    data = model.SerializeToString()
    try:
        write_atomically(out, data)
    except OSError as error:
        raise SpecError(f"{out}: cannot be written ({error.strerror}); choose another place") from error
    return {
        "onnx": str(out), "bytes": len(data), "opset": OPSET, "input": ["n", *found.shape],
        "classes": list(found.classes), "parameters": found.x.size,
    }  # fmt: skip


class _Graph:
    """Grows node by node; `_newest` is the tensor that the next layer reads."""

    def __init__(self, found: PortableModel) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._marked: dict[str, str] = {}
        self._parameters = found.parameters
        self._newest = "images"
        self._normalise(found)
        for number, layer in enumerate(found.layers):
            self._take(number, layer)
        self._add("Flatten", output="logits", axis=1)

    def _take(self, number: int, layer: Layer) -> None:
        own = {
            name.rpartition(".")[2]: parameter
            for name, parameter in self._parameters.items()
            if name.startswith(f"{number}.")
        }
        sides: dict[str, Any] = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.kernel] * 2}
        match layer.kind:
            case "dense":
                self._dense(layer, own)
            case "conv":
                self._conv(layer, own)
            case "maxpool":
                self._add("MaxPool", **sides)
            case "avgpool":
                self._add("AveragePool", **sides)
            case "batchnorm":
                texts = [self._constant(own[key]) for key in ("weight", "bias", "mean", "variance")]
                self._add("BatchNormalization", *texts, epsilon=EPSILON)
            case "groupnorm":
                self._groupnorm(layer, own)
            case "relu":
                self._add("Relu")
            case "mark":
                self._marked[layer.name] = self._newest
            case "add":
                self._add("Add", self._fitting(layer))

    # -- Layers ----------------------------------------------------------------------------------------------

    def _normalise(self, found: PortableModel) -> None:
        """(pixel / 255 - mean) / std, as one product and one sum, like the kernels."""
        from onnx import TensorProto

        mean, std = np.array(found.mean), np.array(found.std)
        self._add("Cast", to=TensorProto.FLOAT)
        self._add("Mul", self._constant((1 / (255 * std)).astype(np.float32)))
        self._add("Add", self._constant((-mean / std).astype(np.float32)))
        self._add("Transpose", perm=[0, 3, 1, 2])

    def _dense(self, layer: Layer, own: dict[str, np.ndarray]) -> None:
        if not _is_vector(layer.input):
            self._add("Transpose", perm=[0, 2, 3, 1])
        self._add("Flatten", axis=1)
        self._add("Gemm", self._constant(own["weight"]), self._constant(own["bias"]), transB=1)
        self._reshape(layer.output)

    def _conv(self, layer: Layer, own: dict[str, np.ndarray]) -> None:
        """Weights go from (filters, rows, columns, channels) to (filters, channels, rows, columns)."""
        constants = [self._constant(own["weight"].transpose(0, 3, 1, 2))]
        if "bias" in own:
            constants.append(self._constant(own["bias"]))
        sides: dict[str, Any] = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
        self._add("Conv", *constants, **sides, pads=[layer.padding] * 4)

    def _groupnorm(self, layer: Layer, own: dict[str, np.ndarray]) -> None:
        """ONNX has one of its own, but young and once redefined: a part is normalised as one instance."""
        parts = np.ones(layer.parts, np.float32), np.zeros(layer.parts, np.float32)
        self._add("Reshape", self._constant(np.array([0, layer.parts, -1], np.int64)))
        self._add("InstanceNormalization", *map(self._constant, parts), epsilon=EPSILON)
        self._reshape(layer.output)
        self._add("Mul", self._constant(own["weight"].reshape(-1, 1, 1)))
        self._add("Add", self._constant(own["bias"].reshape(-1, 1, 1)))

    def _fitting(self, layer: Layer) -> str:
        """What was marked, every `stride`-th row and column of it, between channels of zeros."""
        other, newest = self._marked[layer.name], self._newest
        if layer.stride > 1:
            ends = np.iinfo(np.int64).max
            numbers = ([0, 0], [ends, ends], [2, 3], [layer.stride, layer.stride])
            other = self._add("Slice", *(self._constant(np.array(n, np.int64)) for n in numbers), read=other)
        if lacking := layer.output[2] - layer.other[2]:
            pads = [0, layer.padding, 0, 0, 0, lacking - layer.padding, 0, 0]
            other = self._add("Pad", self._constant(np.array(pads, np.int64)), read=other)
        self._newest = newest
        return other

    def _reshape(self, shape: Shape) -> None:
        height, width, channels = shape
        self._add("Reshape", self._constant(np.array([0, channels, height, width], np.int64)))

    # -- Nodes -----------------------------------------------------------------------------------------------

    def _add(self, kind: str, *others: str, read: str = "", output: str = "", **attributes: Any) -> str:
        """One node behind `read`, or else the newest tensor, which its output becomes."""
        from onnx import helper

        output = output or f"{len(self.nodes)}.{kind.lower()}"
        self.nodes.append(helper.make_node(kind, [read or self._newest, *others], [output], output, **attributes))
        self._newest = output
        return output

    def _constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def _is_vector(shape: Shape) -> bool:
    return shape[:2] == (1, 1)
