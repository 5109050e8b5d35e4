"""Writes a network in 8 bits as an ONNX graph of standard operators.

Each unit stands between DequantizeLinear and QuantizeLinear ("QDQ"), which runtimes fuse into operators on whole
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.backbones.quantisation.scales import Stored
from patchbank.backbones.quantisation.units import Network, Unit
from patchbank.backbones.quantisation.weights import Weights


class _Writer:
    """Collects nodes and constants, whose names begin with `prefix`."""

    def __init__(self, network: Network, stored: Mapping[str, Stored], prefix: str) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self._stored, self._prefix = stored, prefix
        self._outputs = {output.name for output in network.model.graph.output}
        self._read_as_floats = self._outputs | {name for node in network.others for name in node.input}

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{self._prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: Array | np.generic) -> str:
        self.constants[self._prefix + name] = np.asarray(value)
        return self._prefix + name

    def store(self, name: str, source: str) -> None:
        """Writes a value, which is in `source`, in 8 bits; and as floats again for those that read it so."""
        stored = self._stored[name]
        scale, zero = self.constant(f"{name}.scale", stored.scale), self.constant(f"{name}.zero", np.uint8(stored.zero))
        whole = self.node("QuantizeLinear", [source, scale, zero], f"{self._prefix}{name}.bytes")
        self.node("DequantizeLinear", [whole, scale, zero], self.floats(name))
        if name == source or name not in self._read_as_floats:
            return
        channels = (float(stored.scale) / stored.factor).astype(np.float32)  # (C,) a step in the value's own unit
        zeros = np.full(len(channels), stored.zero, np.uint8)
        back = [whole, self.constant(f"{name}.steps", channels), self.constant(f"{name}.zeros", zeros)]
        self.node("DequantizeLinear", back, name, axis=1)

    def floats(self, name: str) -> str:
        """The name of a value as units read it: its channels times their factors."""
        return f"{self._prefix}{name}.floats"

    def unit(self, unit: Unit, weights: Weights | None) -> None:
        """Writes a unit. Its activation function is the range of the bytes that it ends in."""
        import onnx

        node, source = onnx.NodeProto(), f"{self._prefix}{unit.output}.exact"
        node.CopyFrom(unit.node)
        inputs = [self.floats(name) for name in unit.inputs]
        if weights:
            inputs += self._weights(unit.output, self._stored[unit.inputs[0]].scale, weights)
        del node.input[:]
        node.input.extend(inputs)
        node.output[0] = node.name = source
        self.nodes.append(node)
        self.store(unit.output, source)

    def _weights(self, name: str, scale: np.float32, weights: Weights) -> list[str]:
        parts: dict[str, tuple[Array, Array]] = {
            "weight": (weights.weight, weights.scale),
            "bias": (weights.bias, weights.scale * scale),
        }
        found = []
        for part, (whole, steps) in parts.items():
            zeros = np.zeros(len(steps), whole.dtype)
            constants: dict[str, Array] = {"": whole, ".scale": steps, ".zero": zeros}
            taken = [self.constant(f"{name}.{part}{kind}", value) for kind, value in constants.items()]
            found.append(self.node("DequantizeLinear", taken, f"{self._prefix}{name}.{part}.floats", axis=0))
        return found


def write(network: Network, stored: Mapping[str, Stored], weights: Mapping[str, Weights]) -> bytes:
    """The ONNX file. weights: of each convolution, by its output."""
    import onnx
    from onnx import numpy_helper

    graph = network.model.graph
    writer = _Writer(network, stored, _unused(graph))
    written: set[str] = set()

    def store_others(names: Sequence[str]) -> None:
        for name in names:
            if name not in made and name not in written:
                written.add(name)
                writer.store(name, name)

    made = {unit.output for unit in network.units}
    units = {unit.node.output[0]: unit for unit in network.units}
    others = {id(node) for node in network.others}
    for node in graph.node:
        if unit := units.get(node.output[0]):
            store_others(unit.inputs)
            writer.unit(unit, weights.get(unit.output))
        elif id(node) in others:
            writer.nodes.append(node)
    smaller = onnx.ModelProto()
    smaller.CopyFrom(network.model)
    del smaller.graph.node[:], smaller.graph.initializer[:], smaller.graph.value_info[:]
    smaller.graph.node.extend(writer.nodes)
    read = {name for node in writer.nodes for name in node.input}
    smaller.graph.initializer.extend(each for each in graph.initializer if each.name in read)
    smaller.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in writer.constants.items()
    )
    serialized: bytes = smaller.SerializeToString(deterministic=True)
    return serialized


def _unused(graph: Any) -> str:
    """A start of names that no value of the graph has."""
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    prefix = "int8/"
    while any(name.startswith(prefix) for name in names):
        prefix = "_" + prefix
    return prefix
