"""The shapes of a network's values, by the onnx package's inference, and the small numbers that decide shapes.

Exported transformers compute sizes inside the graph: Shape of the image, divided by a patch's side, gives the grid to
which position embeddings are resized. The package follows only some of that arithmetic. What it does not follow is
computed here, from whole numbers and a few floats, exactly as the runtime will: an operator or a value for which that
is not certain (a division of negative numbers, a number that a double does not hold) stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import BackboneError

Shape = tuple[int, ...]

_WIDE = {7, 11, 13, 14, 15}  # element types of 8 bytes and more
_MOST = 1024  # numbers of a value that is computed
_LARGEST = 1 << 53  # of a computed whole number
# Of inference and arithmetic: rounds, and operators in all of them. What is unknown after them stays unknown.
_ROUNDS, _INFERRED = 12, 60_000
_OF_SHAPES = ("Shape", "Size")  # read no more of their input than its shape
_FOLLOWED = (np.int64, np.int32, np.float32, np.bool_)


def inferred(onnx: bytes, sizes: Mapping[str, Shape]) -> tuple[dict[str, Shape], frozenset[str]]:
    """Shapes as far as they can be told, and which values have elements of 8 bytes.

    sizes: of the network's inputs. What the file itself says of the values inside is not believed. Raises
    BackboneError for a graph that no inference takes.
    """
    import onnx as package

    try:
        model = package.load_model_from_string(onnx)
        for entry in model.graph.input:
            if entry.name in sizes:
                dims = entry.type.tensor_type.shape.dim
                for dim, side in zip(dims, sizes[entry.name], strict=True):
                    dim.dim_value = side
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        values = _without_weights(model.graph)
        return _in_rounds(model, values)
    except Exception as error:  # of many kinds, from a package without type information
        raise BackboneError("expected a network whose shapes can be told, got a damaged one") from error


def _without_weights(graph: Any) -> dict[str, Array]:
    """Turns large initializers into inputs, which makes inference quick. Returns the values of the small ones."""
    from onnx import helper, numpy_helper

    small, values = [], dict[str, Array]()
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > _MOST:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            continue
        small.append(tensor)
        array = numpy_helper.to_array(tensor)
        if array.dtype in _FOLLOWED:
            values[tensor.name] = array
    del graph.initializer[:]
    graph.initializer.extend(small)
    return values


def _in_rounds(model: Any, values: dict[str, Array]) -> tuple[dict[str, Shape], frozenset[str]]:
    """Infers shapes, computes what follows from them, and again, until nothing new follows."""
    import onnx as package

    shapes, wide = dict[str, Shape](), set[str]()
    for _ in range(max(1, min(_ROUNDS, _INFERRED // max(len(model.graph.node), 1)))):
        graph = package.shape_inference.infer_shapes(model, data_prop=True).graph
        for value in (*graph.value_info, *graph.output, *graph.input):
            about = value.type.tensor_type
            if about.elem_type in _WIDE:
                wide.add(value.name)
            if about.HasField("shape") and all(dim.HasField("dim_value") for dim in about.shape.dim):
                shapes[value.name] = tuple(int(dim.dim_value) for dim in about.shape.dim)
        new = _computed(model.graph, shapes, values)
        if not new:
            break
        shapes |= {name: array.shape for name, array in new.items()}
        wide |= {name for name, array in new.items() if array.itemsize >= 8}
    return shapes, frozenset(wide)


def _computed(graph: Any, shapes: Mapping[str, Shape], values: dict[str, Array]) -> dict[str, Array]:
    """Replaces the operators whose outputs are known numbers by these, and adds them to `values`."""
    import onnx as package
    from onnx import numpy_helper

    outputs, left, new = {output.name for output in graph.output}, package.GraphProto(), dict[str, Array]()
    for node in graph.node:
        array = _value(node, shapes, values) if len(node.output) == 1 else None
        if array is None or node.output[0] in outputs:
            left.node.append(node)
        else:
            new[node.output[0]] = values[node.output[0]] = array
    if new:
        del graph.node[:]
        graph.node.extend(left.node)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in new.items())
    return new


def _value(node: Any, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> Array | None:
    """An operator's output, where it follows from what is known; else None."""
    from onnx import helper

    operator = _OPERATORS.get(node.op_type)
    if operator is None:
        return None
    try:
        about = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        inputs: list[Any] = [values[name] if name else None for name in node.input if node.op_type not in _OF_SHAPES]
        if node.op_type in _OF_SHAPES:
            inputs = [shapes[name] if name in shapes else values[name].shape for name in node.input]
        with np.errstate(all="ignore"):
            array = np.asarray(operator(*inputs, **about))
        return array if array.dtype in _FOLLOWED and array.size <= _MOST and _certain(array) else None
    except Exception:  # noqa: BLE001  (of a hostile graph, anything: what cannot be computed is unknown)
        return None


def _certain(array: Array) -> bool:
    """Says whether any machine computes the same numbers."""
    if array.dtype == np.bool_:
        return True
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).all())
    return bool((array == np.iinfo(array.dtype).max).all() or (abs(array.astype(np.float64)) < _LARGEST).all())


# --- the operators: (*inputs, **attributes) -> output; any exception means unknown ------------------------------------

_Operator = Callable[..., Array]


def _elementwise(function: _Operator) -> _Operator:
    def operator(*inputs: Array) -> Array:
        _check_most(np.broadcast_shapes(*(each.shape for each in inputs)))
        if len({each.dtype for each in inputs}) > 1:
            raise ValueError
        found = function(*inputs)
        if found.dtype.kind == "i" and not np.array_equal(found, function(*(each.astype(float) for each in inputs))):
            raise ValueError  # it overflows
        return found

    return operator


def _check_most(shape: Sequence[int]) -> None:
    if math.prod(shape) > _MOST:
        raise ValueError


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return _elementwise(np.divide)(a, b)
    if (a < 0).any() or (b <= 0).any():  # machines round them differently
        raise ValueError
    return _elementwise(np.floor_divide)(a, b)


def _where(which: Array, a: Array, b: Array) -> Array:
    _check_most(np.broadcast_shapes(which.shape, a.shape, b.shape))
    return np.where(which, a, b)


def _cast(data: Array, to: int) -> Array:
    kind = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}[to]
    if kind in (np.int32, np.int64) and not (abs(data.astype(np.float64)) < 1 << 31).all():
        raise ValueError
    return data.astype(kind)  # of floats, what is before the point


def _squeeze(data: Array, axes: Sequence[int] | None = None) -> Array:
    return np.squeeze(data, None if axes is None else tuple(int(axis) for axis in axes))


def _unsqueeze(data: Array, axes: Sequence[int]) -> Array:
    return np.expand_dims(data, tuple(int(axis) for axis in axes))


def _reshape(data: Array, shape: Array, allowzero: int = 0) -> Array:
    if (shape == 0).any() or allowzero not in (0, 1):
        raise ValueError
    return data.reshape([int(side) for side in shape])


def _slice(
    data: Array,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Array:
    index = [slice(None)] * data.ndim
    every = zip(starts, ends, range(len(starts)) if axes is None else axes, steps or [1] * len(starts), strict=True)
    for start, end, axis, step in every:
        if step < 1:
            raise ValueError
        index[int(axis)] = slice(int(start), int(end), int(step))
    return data[tuple(index)]


def _gather(data: Array, places: Array, axis: int = 0) -> Array:
    _check_most((data.size, places.size))
    return np.take(data, places, axis=axis)


def _expand(data: Array, shape: Array) -> Array:
    sides = np.broadcast_shapes(data.shape, tuple(int(side) for side in shape))
    _check_most(sides)
    return np.broadcast_to(data, sides).copy()


def _filled(shape: Array, value: Any = None) -> Array:
    from onnx import numpy_helper

    return _expand(np.array(0, np.float32) if value is None else numpy_helper.to_array(value).reshape(()), shape)


def _range(start: Array, stop: Array, step: Array) -> Array:
    if start.dtype.kind != "i" or abs(int(stop) - int(start)) > _MOST * abs(int(step)):  # of floats, machines differ
        raise ValueError
    return np.arange(int(start), int(stop), int(step), dtype=start.dtype)


def _constant(value: Any = None, value_int: int | None = None, value_ints: Sequence[int] | None = None) -> Array:
    from onnx import numpy_helper

    if value is not None:
        return numpy_helper.to_array(value)
    return np.array(value_ints if value_int is None else value_int, np.int64)


_OPERATORS: Mapping[str, _Operator] = {
    "Shape": lambda shape, start=0, end=None: np.array(shape[start:end], np.int64),
    "Size": lambda shape: np.array(math.prod(shape), np.int64),
    "Constant": _constant,
    "Identity": lambda data: data,
    "Cast": _cast,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Concat": lambda *arrays, axis: np.concatenate(arrays, axis),
    "Slice": _slice,
    "Gather": _gather,
    "Where": _where,
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _divide,
    "Neg": _elementwise(np.negative),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Sqrt": _elementwise(np.sqrt),
    "Min": _elementwise(lambda *arrays: np.minimum.reduce(np.broadcast_arrays(*arrays))),
    "Max": _elementwise(lambda *arrays: np.maximum.reduce(np.broadcast_arrays(*arrays))),
    "Equal": _elementwise(np.equal),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Not": _elementwise(np.logical_not),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
}
