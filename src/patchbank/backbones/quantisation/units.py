"""The parts of a network that 8 bits can compute: convolutions, additions and max pooling, each with the ReLU or clip
behind it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import Array, FloatArray
from patchbank.errors import BackboneError

LEAST_OPSET = 13  # the first in which each channel may have a scale of its own


@dataclass(frozen=True, eq=False)
class Unit:
    """One step in 8 bits. node: its operator. inputs: the activations that it takes. output: the value that leaves it,
    behind its activation function. ceiling: what that function cuts at: 6 for ReLU6, infinity for ReLU, None without
    one. weight: (C_out, C_in / groups, h, w), bias: (C_out,) of a convolution; else empty."""

    node: Any
    inputs: tuple[str, ...]
    output: str
    ceiling: float | None
    weight: FloatArray
    bias: FloatArray

    @property
    def groups(self) -> int:
        """The groups of a convolution."""
        return next((a.i for a in self.node.attribute if a.name == "group"), 1)

    @property
    def depthwise(self) -> bool:
        """Says whether it is a convolution of each channel by itself."""
        return self.weight.ndim == 4 and 1 < self.groups == len(self.weight) and self.weight.shape[1] == 1


@dataclass(frozen=True, eq=False)
class Network:
    """A network as units and what else is in it. others: the operators that stay in float32, in order. measured: the
    values whose ranges a quantisation needs: those that units take and make."""

    model: Any
    units: tuple[Unit, ...]
    others: tuple[Any, ...]

    @property
    def input(self) -> str:
        """The name of the images."""
        known = {each.name for each in self.model.graph.initializer}
        return next(str(entry.name) for entry in self.model.graph.input if entry.name not in known)

    @property
    def measured(self) -> tuple[str, ...]:
        names = [name for unit in self.units for name in (*unit.inputs, unit.output)]
        return tuple(dict.fromkeys(names))


def network_of(model: Any) -> Network:
    """An onnx.ModelProto as units. Raises BackboneError for a network that 8 bits would not make faster."""
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise _refused(f"expected an ONNX file of opset {LEAST_OPSET} or later, got {opset}")
    operators = Counter(node.op_type for node in model.graph.node)
    if operators["QuantizeLinear"] or operators["QLinearConv"]:
        raise _refused("it is quantised already")
    units, others = _split(model.graph)
    found = sum(1 for unit in units if unit.node.op_type == "Conv")
    products = operators["MatMul"] + operators["Gemm"]
    if found <= products:
        raise _refused(f"expected mostly convolutions, got {found}, and {products} matrix products")
    return Network(model, tuple(units), tuple(others))


def _refused(why: str) -> BackboneError:
    return BackboneError(f"precision = 'int8' is not possible for this network ({why}); use precision = 'float32'")


def _split(graph: Any) -> tuple[list[Unit], list[Any]]:
    values = constants(graph)
    kept = {output.name for output in graph.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    units: list[Unit] = []
    others: list[Any] = []
    made: set[str] = set()
    taken: set[str] = set()  # outputs of activation functions that are part of a unit
    for node in graph.node:
        if node.output[0] in taken:
            continue
        if not _possible(node, values, made):
            others.append(node)
            continue
        output, ceiling = node.output[0], None
        after = readers.get(output, [])
        if len(after) == 1 and output not in kept and (cut := _ceiling(after[0], values)) is not None:
            output, ceiling = after[0].output[0], cut
            taken.add(output)
        made.add(output)
        units.append(_unit(node, output, ceiling, values))
    return units, others


def constants(graph: Any) -> dict[str, Array]:
    """The values that a network holds."""
    from onnx import numpy_helper

    found = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _possible(node: Any, values: Mapping[str, Array], made: set[str]) -> bool:
    """Whether a node can be computed in 8 bits. made: what units before it make."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Conv":
        weight, *bias = (values.get(name) for name in node.input[1:] if name)
        fits = weight is not None and weight.ndim == 4 and weight.dtype == np.float32
        return fits and node.input[0] not in values and all(each is not None for each in bias)
    if node.op_type == "Add":
        return all(name in made for name in node.input)
    return node.op_type == "MaxPool" and node.input[0] in made and len(node.output) == 1


def _ceiling(node: Any, values: Mapping[str, Array]) -> float | None:
    """What an activation function cuts at; None for any other operator."""
    if node.op_type == "Relu":
        return math.inf
    if node.op_type != "Clip":
        return None
    low, high, *_ = [values.get(name) if name else None for name in [*node.input[1:], "", ""]]
    if low is None or low.size != 1 or float(low.reshape(-1)[0]) != 0 or len(node.input) < 3 or high is None:
        return None
    return float(high.reshape(-1)[0]) if high.size == 1 and float(high.reshape(-1)[0]) > 0 else None


def _unit(node: Any, output: str, ceiling: float | None, values: Mapping[str, Array]) -> Unit:
    none = np.zeros(0, np.float32)
    if node.op_type != "Conv":
        return Unit(node, tuple(node.input), output, ceiling, none, none)
    weight = values[node.input[1]]
    bias = values[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(len(weight), np.float32)
    return Unit(node, (node.input[0],), output, ceiling, weight, bias)
