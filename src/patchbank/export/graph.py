"""A graph of ONNX operators that grows node by node. Methods take and return names of values; arrays become constants.

Operators are those of the standard's own domain. Between opset 13 and the newest, the ones that are used here differ
in one thing only: where a reduction's axes stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import BackboneError
from patchbank.version import __version__

OLDEST_OPSET = 13
_AXES_AS_INPUT = 18  # from this opset on, for all reductions but ReduceSum, which has them since 13
_NETWORK = "network/"  # before the names of the network's own values, so that none is there twice

Value: TypeAlias = str | Array | float  # a value's name in the graph, or a constant


class Graph:
    """Collects nodes and constants. opset: the version of the standard that all operators are of."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def node(self, op: str, *inputs: Value, outputs: int = 1, name: str = "", **attributes: Any) -> str:
        """Adds one node. Returns the name of its last output, which is `name` where that is given."""
        from onnx import helper

        number = len(self._nodes)
        names = [f"{op}{number}.{place}" for place in range(outputs)]
        names[-1] = name or names[-1]
        values = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self._nodes.append(helper.make_node(op, values, names, name=f"{op}{number}", **attributes))
        return names[-1]

    def reduced(self, op: str, x: Value, axes: Sequence[int] | None = None, *, keepdims: bool = True) -> str:
        """A reduction (ReduceMax, ReduceMean, ...) over these axes; None: over all."""
        about: dict[str, Any] = {"keepdims": int(keepdims)}
        if axes is None:
            return self.node(op, x, **about)
        if self.opset >= _AXES_AS_INPUT or op == "ReduceSum":
            return self.node(op, x, np.array(axes, np.int64), **about)
        return self.node(op, x, axes=list(axes), **about)

    def cast(self, x: Value, dtype: type[np.generic], name: str = "") -> str:
        """The values as another type."""
        from onnx import helper

        return self.node("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), name=name)

    def shaped(self, x: Value, *shape: int, name: str = "") -> str:
        """The values in another shape; -1: what is left."""
        return self.node("Reshape", x, np.array(shape, np.int64), name=name)

    def part(self, x: Value, axis: int, start: int, stop: int) -> str:
        """x[start:stop] along an axis."""
        start_stop_axis = (np.array([number], np.int64) for number in (start, stop, axis))
        return self.node("Slice", x, *start_stop_axis)

    def top(self, x: Value, count: int, axis: int = -1, *, largest: bool) -> tuple[str, str]:
        """The `count` largest or smallest values along an axis, the outermost first, and their indices."""
        indices = self.node("TopK", x, np.array([count], np.int64), axis=axis, largest=int(largest), outputs=2)
        return f"{indices.removesuffix('.1')}.0", indices

    def network(self, onnx: bytes, image: str, layers: Sequence[str]) -> list[str]:
        """Puts a network into the graph, which gets this image, (1, 3, H, W). Returns the layers' names there.

        Raises BackboneError where it needs more than the standard's operators, or another opset.
        """
        model = _standard(onnx, self.opset)
        entry = next(each.name for each in model.graph.input if each.name not in _constants_of(model))
        renamed = {"": "", entry: image}
        for constant in model.graph.initializer:
            constant.name = renamed[constant.name] = _NETWORK + constant.name
            self._constants.append(constant)
        for node in model.graph.node:
            node.name = f"{_NETWORK}{node.op_type}{len(self._nodes)}"
            _rename(node.input, renamed)
            _rename(node.output, renamed)
            self._nodes.append(node)
        return [renamed[layer] for layer in layers]

    def build(self, inputs: Sequence[Any], outputs: Sequence[Any], metadata: dict[str, str]) -> bytes:
        """The ONNX file. inputs, outputs: (name, dtype, shape)."""
        from onnx import helper

        entries, results = ([_described(*each) for each in values] for values in (inputs, outputs))
        graph = helper.make_graph(self._nodes, "patchbank", entries, results, self._constants)
        imports = [helper.make_opsetid("", self.opset)]
        version = max(8, helper.find_min_ir_version_for(imports))
        model = helper.make_model(
            graph,
            ir_version=version,
            opset_imports=imports,
            producer_name="patchbank",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized

    def constant(self, values: Array | float) -> str:
        """Holds an array, or a number as float32. Returns its name."""
        from onnx import numpy_helper

        name = f"constant{len(self._constants)}"
        array = np.asarray(values, np.float32) if isinstance(values, float) else np.ascontiguousarray(values)
        self._constants.append(numpy_helper.from_array(array.reshape(np.shape(values)), name))
        return name


def opset_of(onnx: bytes) -> int:
    """The opset that a graph around this network has: the network's own, but at least the oldest."""
    return max(OLDEST_OPSET, _standard_opset(_parsed(onnx)))


def _standard(onnx: bytes, opset: int) -> Any:
    """The network in this opset."""
    model = _parsed(onnx)
    nodes = model.graph.node
    others = sorted({node.domain for node in nodes} - {"", "ai.onnx"})
    nested = any(each.HasField("g") or each.graphs for node in nodes for each in node.attribute)
    if others or nested or model.functions or model.graph.sparse_initializer:
        what = f"operators of {', '.join(others)}" if others else "functions, branches or sparse tensors"
        raise BackboneError(
            f"expected a network of standard ONNX operators; got {what}, which other runtimes do not know: export "
            "needs a network without them"
        )
    if _standard_opset(model) == opset:
        return model
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # of many kinds, from a package without type information
        raise BackboneError(
            f"expected a network of opset {OLDEST_OPSET} or later; got {_standard_opset(model)}, and it cannot be "
            "converted: export it again from where it comes from"
        ) from error


def _parsed(onnx: bytes) -> Any:
    import onnx as package

    return package.load_model_from_string(onnx)


def _standard_opset(model: Any) -> int:
    return next((int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)


def _constants_of(model: Any) -> set[str]:
    return {each.name for each in model.graph.initializer}


def _rename(names: Any, renamed: dict[str, str]) -> None:
    for place, name in enumerate(names):
        names[place] = renamed.setdefault(name, _NETWORK + name)


def _described(name: str, dtype: type[np.generic], shape: Sequence[int]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
