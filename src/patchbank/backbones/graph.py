"""Builds ONNX graphs of convolutional networks: batch norms folded, outputs named after the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from patchbank.arrays import Array, DoubleArray
from patchbank.backbones.base import Layer
from patchbank.errors import CheckpointError

# Old enough for every ONNX Runtime that the package allows, and for TensorRT, OpenVINO and CoreML.
OPSET = 13
IR_VERSION = 8

Weights = Mapping[str, Array]


class GraphBuilder:
    """Collects nodes and folded weights. Every method takes and returns the names of values in the graph.

    The weights come from a file that may be anyone's: each is checked for name, shape and finiteness (CheckpointError).
    """

    def __init__(self, weights: Weights, eps: float) -> None:
        self._weights = weights
        self._eps = eps
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []

    def conv(
        self,
        x: str,
        output: str,
        weight: str,
        norm: str,
        shape: tuple[int, int, int, int],
        *,
        stride: int = 1,
        groups: int = 1,
        same: bool = False,
    ) -> str:
        """Convolution without bias + batch norm, as one convolution with bias. `shape` is (C_out, C_in/groups, k, k).

        `same` pads as TensorFlow does (by the input's size, the odd pixel at the end), otherwise k // 2 on every side.
        """
        kernel, bias = self._fold(weight, norm, shape)
        self._add_initializer(weight, kernel)
        self._add_initializer(norm, bias)
        padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"} if same else {"pads": [shape[2] // 2] * 4}
        sides = [shape[2], shape[3]]
        return self.node(
            "Conv", [x, weight, norm], output, kernel_shape=sides, strides=[stride, stride], group=groups, **padding
        )

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds one node with one output; returns the output's name."""
        from onnx import helper

        self._nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: float) -> str:
        """A scalar float32."""
        self._add_initializer(name, np.array(value, np.float32))
        return name

    def build(self, name: str, input_name: str, layers: tuple[Layer, ...]) -> bytes:
        """The ONNX file: input (batch, 3, height, width), one output a layer, all sizes but the channels free."""
        from onnx import TensorProto, helper

        def value(value_name: str, channels: int, prefix: str) -> Any:
            shape: list[str | int | None] = ["batch", channels, f"{prefix}height", f"{prefix}width"]
            return helper.make_tensor_value_info(value_name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self._nodes,
            name,
            [value(input_name, 3, "")],
            [value(layer.name, layer.channels, f"{layer.name}.") for layer in layers],
            self._initializers,
        )
        model = helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="patchbank",
        )
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized

    def _fold(self, weight: str, norm: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """gamma (w x - mean) / sqrt(var + eps) + beta, folded in float64 into a kernel and a bias (float32)."""
        per_channel = shape[:1]
        gamma, beta = self._take(f"{norm}.weight", per_channel), self._take(f"{norm}.bias", per_channel)
        mean, var = self._take(f"{norm}.running_mean", per_channel), self._take(f"{norm}.running_var", per_channel)
        if (var < 0).any():
            raise CheckpointError(f"{norm}.running_var: expected variances, got negative numbers")
        scale = gamma / np.sqrt(var + self._eps)
        kernel = self._take(f"{weight}.weight", shape) * scale[:, None, None, None]  # (C_out, C_in/groups, k, k)
        return kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)

    def _take(self, name: str, shape: tuple[int, ...]) -> DoubleArray:
        if name not in self._weights:
            raise CheckpointError(
                f"expected a tensor {name!r} of shape {shape}, got a checkpoint without it; "
                "is this another network's file?"
            )
        tensor = self._weights[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{name}: expected shape {shape}, got {tensor.shape}; is this another network's file?"
            )
        values = tensor.astype(np.float64)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{name}: expected finite numbers, got NaN or infinity; the file is damaged")
        return values

    def _add_initializer(self, name: str, values: Array) -> None:
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
