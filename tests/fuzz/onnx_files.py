"""Networks: their operators, attributes, tensors and shapes, and the bytes around them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.fuzz import hostile

from patchbank.backbones import BackboneInfo, Layer, load_backbone, restore_backbone
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import PatchbankError

_OPS = (
    "Relu", "MaxPool", "AveragePool", "Resize", "Tile", "Expand", "ConstantOfShape", "Loop", "If", "Pad", "Conv",
    "Gemm", "MatMul", "Concat", "Identity", "Add", "Sigmoid", "Transpose", "Reshape", "ConvTranspose", "LRN", "Range",
    "RandomNormal", "EPContext", "Split", "GlobalAveragePool", "Shape", "Gather", "Div", "Mul", "Sub", "Slice", "Cast",
)  # fmt: skip
_WHOLE = (0, 1, 2, 3, -1, 7, 64, 3000, 10**6, 2**31, 2**62, -(2**62))


def several() -> bytes:
    """A network of many kinds of operators."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["d", "", "scales"], ["e"], mode="nearest"),
        helper.make_node("Shape", ["c"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Add", ["zeros", "c"], ["f"]),
        helper.make_node("Concat", ["f", "c"], ["stride2"], axis=1),
        helper.make_node("Pad", ["d", "pads"], ["g"], mode="reflect"),
        helper.make_node("Conv", ["g", "w1"], ["stride4"]),
    ]
    tensors = [
        weight("w0", 8, 3, 3, 3),
        weight("w1", 6, 8, 3, 3),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("stride2", "stride4")]
    graph = helper.make_graph(nodes, "several", [image], outputs, tensors)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    return bytes(model.SerializeToString())


def changed(data: bytes, rng: np.random.Generator) -> bytes:
    """Another network: by its parts, by its bytes, or with its fields written in another way."""
    kind = rng.integers(8)
    if kind == 0:
        return hostile.bytes_changed(data, rng)
    if kind == 1:  # a field of a number with more than 32 bits, or of a longer form
        return (
            data + [b"\xba\x80\x80\x80\x10\x00", b"\x88\x80\x00\x01", b"\x0b\x0c", b"\x08\x08\x08\x08"][rng.integers(4)]
        )
    model = onnx.load_model_from_string(data)
    graph = model.graph
    for _ in range(int(rng.integers(1, 4))):
        node = graph.node[rng.integers(len(graph.node))]
        what = rng.integers(9)
        if what == 0:
            node.op_type = _OPS[rng.integers(len(_OPS))]
        elif what == 1 and node.input:
            names = [name for each in graph.node for name in (*each.input, *each.output)]
            node.input[rng.integers(len(node.input))] = names[rng.integers(len(names))]
        elif what == 2 and node.attribute:
            attribute = node.attribute[rng.integers(len(node.attribute))]
            if attribute.ints:
                attribute.ints[rng.integers(len(attribute.ints))] = int(rng.choice(_WHOLE))
            else:
                attribute.i = int(rng.choice(_WHOLE))
        elif what == 3:
            names = ["kernel_shape", "strides", "pads", "dilations", "group", "axis", "output_shape", "size"]
            made = helper.make_attribute(names[rng.integers(len(names))], rng.choice(_WHOLE, 2).tolist())
            node.attribute.append(made)
        elif what == 4 and graph.initializer:
            tensor = graph.initializer[rng.integers(len(graph.initializer))]
            if rng.integers(2) and tensor.dims:
                tensor.dims[rng.integers(len(tensor.dims))] = int(rng.choice(_WHOLE))
            elif tensor.data_type in (1, 7) and tensor.raw_data:
                values = np.frombuffer(tensor.raw_data, np.float32 if tensor.data_type == 1 else np.int64).copy()
                values[rng.integers(values.size)] = rng.choice([0, -1, 50_000, 2**31 - 1])
                tensor.raw_data = values.tobytes()
        elif what == 5:
            graph.node.append(node)
        elif what == 6:
            out, shape = node.output[0], numpy_helper.from_array(rng.choice([1, 3, 9999, 60_000], 4), "shape")
            node.output[0] = "before"
            graph.initializer.append(shape)
            op = ["Expand", "Tile", "Reshape"][rng.integers(3)]
            graph.node.append(helper.make_node(op, ["before", "shape"], [out]))
        elif what == 7:
            node.domain = ["", "ai.onnx", "com.microsoft", "evil"][rng.integers(4)]
        else:
            dims = graph.input[0].type.tensor_type.shape.dim
            dims[rng.integers(4)].dim_value = int(rng.choice(_WHOLE))
    return bytes(model.SerializeToString())


class Target:
    """Changed networks: in a model file, and as a backbone of the user's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = Layer("stride2", 16, 2), Layer("stride4", 6, 4)
        zeros = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        several_info = BackboneInfo("several", own, *zeros, "own", "mean")
        self.bases = [(FakeBackbone().to_onnx(), FakeBackbone().info), (several(), several_info)]
        for name in ("dinov3", "hugging_face"):  # their sizes are computed inside the graph
            path = Path(__file__).parents[1] / "backbones" / "golden" / f"{name}.onnx"
            self.bases.append((path.read_bytes(), load_backbone(str(path)).info))
        self.info = several_info

    def case(self, rng: np.random.Generator) -> Path:
        onnx_bytes, self.info = self.bases[rng.integers(len(self.bases))]
        path = self.folder / "case.onnx"
        path.write_bytes(changed(onnx_bytes, rng))
        return path

    def run(self, path: Path) -> None:
        image = np.zeros((1, 3, 96, 96), np.float32)
        with suppress(PatchbankError):
            restore_backbone(path.read_bytes(), self.info, side=96).features(image)
        load_backbone(str(path)).features(image)
