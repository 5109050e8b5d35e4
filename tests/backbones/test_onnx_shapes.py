"""Sizes that a network computes for itself: what we compute beforehand is what the runtime will, or it is unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patchbank.backbones import onnx_shapes
from patchbank.backbones.onnx_safety import check_plain
from patchbank.backbones.session import import_onnxruntime
from patchbank.errors import BackboneError

INTS, FLOATS = [-7, -3, 0, 2, 5, 1023], [-2.75, -0.5, 0.0, 0.1, 3.5, 700.25]
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")


def whole(*values: int) -> Any:
    return np.array(values, np.int64)


def cases() -> dict[str, tuple[str, list[Any], dict[str, Any]]]:
    """name -> operator, inputs, attributes."""
    found: dict[str, tuple[str, list[Any], dict[str, Any]]] = {}
    for op in ELEMENTWISE:
        for kind, values in ((np.int64, INTS), (np.int32, INTS), (np.float32, FLOATS)):
            a = np.array(values, kind)
            others = a[a > 0] if op == "Div" else a
            for b in others:
                found[f"{op} {np.dtype(kind)} {b}"] = op, [a if op != "Div" else abs(a), np.array([b], kind)], {}
    for op in ("Neg", "Identity"):
        found |= {f"{op} {a.dtype}": (op, [a], {}) for a in (whole(*INTS), np.array(FLOATS, np.float32))}
    found |= {f"{op} floats": (op, [np.abs(np.array(FLOATS, np.float32))], {}) for op in ("Floor", "Ceil", "Sqrt")}
    found |= {f"{op} of less than 0": (op, [np.array(FLOATS, np.float32)], {}) for op in ("Floor", "Ceil")}
    truths = np.array([True, False, True]), np.array([True, True, False])
    found |= {"Not": ("Not", [truths[0]], {}), "And": ("And", [*truths], {}), "Or": ("Or", [*truths], {})}
    for to in (1, 6, 7, 9):
        found[f"Cast floats to {to}"] = "Cast", [np.array(FLOATS, np.float32)], {"to": to}
        found[f"Cast ints to {to}"] = "Cast", [whole(*INTS)], {"to": to}
    most, least = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    for start, end, step in ((1, 4, 1), (-2, most, 1), (least, -1, 2), (0, 0, 1), (3, 100, 1), (-100, 2, 1), (4, 1, 1)):
        inputs = [whole(*INTS), whole(start), whole(end), whole(0), whole(step)]
        found[f"Slice {start}:{end}:{step}"] = "Slice", inputs, {}
        found[f"Slice {start}:{end}"] = "Slice", inputs[:3], {}
    table = whole(*range(6)).reshape(2, 3)
    for axis, places in ((0, whole(1)), (0, whole(-1, 0)), (1, np.array(2)), (-1, whole(0, 0))):
        found[f"Gather {axis} {places}"] = "Gather", [table, places], {"axis": axis}
    found |= {
        "Unsqueeze": ("Unsqueeze", [whole(3), whole(0, 2)], {}),
        "Squeeze": ("Squeeze", [whole(3).reshape(1, 1, 1), whole(0, -1)], {}),
        "Squeeze all": ("Squeeze", [whole(3)], {}),
        "Reshape": ("Reshape", [table, whole(3, -1)], {}),
        "Concat": ("Concat", [whole(1), whole(2, 3), whole(4)], {"axis": 0}),
        "Concat columns": ("Concat", [table, table], {"axis": -1}),
        "Where": ("Where", [truths[0], whole(1, 2, 3), whole(7)], {}),
        "Expand": ("Expand", [whole(1, 2), whole(3, 1)], {}),
        "Expand fewer": ("Expand", [table, whole(3)], {}),
        "ConstantOfShape": ("ConstantOfShape", [whole(2, 2)], {}),
        "ConstantOfShape of ones": (
            "ConstantOfShape", [whole(3)], {"value": helper.make_tensor("v", TensorProto.INT64, [1], [1])},
        ),
        "Range": ("Range", [np.array(2), np.array(11), np.array(4)], {}),
        "Range down": ("Range", [np.array(5), np.array(-2), np.array(-3)], {}),
        "Range of nothing": ("Range", [np.array(5), np.array(2), np.array(1)], {}),
        "Shape": ("Shape", [np.zeros((2, 3, 4, 5), np.float32)], {}),
        "Shape from the end": ("Shape", [np.zeros((2, 3, 4, 5), np.float32)], {"start": -3, "end": -1}),
        "Shape beyond": ("Shape", [np.zeros((2, 3, 4, 5), np.float32)], {"start": 2, "end": 9}),
        "Size": ("Size", [np.zeros((2, 3), np.float32)], {}),
        "Constant": ("Constant", [], {"value_ints": [4, 5]}),
        "Constant of one": ("Constant", [], {"value_int": 4}),
    }  # fmt: skip
    return found


CASES = cases()


def runtimes(op: str, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """What ONNX Runtime makes of one operator: the oracle."""
    names = [f"i{place}" for place in range(len(inputs))]
    entries = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in zip(names, inputs, strict=True)
    ]
    out = onnx.ValueInfoProto(name="out")
    graph = helper.make_graph([helper.make_node(op, names, ["out"], **attributes)], "g", entries, [out])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    session = import_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def ours(op: str, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    names = [f"i{place}" for place in range(len(inputs))]
    node = helper.make_node(op, names, ["out"], **attributes)
    values = {name: np.asarray(each) for name, each in zip(names, inputs, strict=True)}
    return onnx_shapes._value(node, {name: each.shape for name, each in values.items()}, values)


@pytest.mark.parametrize("name", CASES)
def test_operators_give_what_the_runtime_gives(name: str) -> None:
    """To the bit and to the type: a size that came out smaller here than there would hide what a network costs."""
    found, expected = ours(*CASES[name]), runtimes(*CASES[name])
    assert found is not None, "a case that stays unknown would prove nothing"
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_every_operator_has_a_case() -> None:
    """One that was added without would be trusted for nothing."""
    assert {op for op, _, _ in CASES.values()} == set(onnx_shapes._OPERATORS)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Div", [whole(-7), whole(2)], {}),  # -3 or -4
        ("Div", [whole(7), whole(0)], {}),
        ("Div", [np.float32([1]), np.float32([0])], {}),
        ("Mul", [whole(1 << 40), whole(1 << 40)], {}),
        ("Add", [whole(1 << 62), whole(1 << 62)], {}),
        ("Mul", [np.int32([1 << 20]), np.int32([1 << 20])], {}),
        ("Cast", [np.float32([3e9])], {"to": 6}),
        ("Cast", [np.float32([np.nan])], {"to": 7}),
        ("Cast", [whole(1 << 40)], {"to": 6}),
        ("Sqrt", [np.float32([-1])], {}),
        ("Reshape", [whole(1, 2), whole(0, 2)], {}),
        ("Slice", [whole(1, 2), whole(1), whole(0), whole(0), whole(-1)], {}),
        ("Gather", [whole(1, 2), whole(2)], {}),
        ("Range", [np.float32(0), np.float32(1), np.float32(0.1)], {}),  # of floats, the last one depends
        ("Range", [np.array(0), np.array(1 << 60), np.array(1)], {}),
        ("Range", [np.array(0), np.array(1), np.array(0)], {}),
        ("Expand", [whole(1), whole(1 << 40)], {}),
        ("ConstantOfShape", [whole(1 << 40)], {}),
        ("ConstantOfShape", [whole(-1)], {}),
        ("Add", [np.ones((600, 1), np.int64), np.ones((1, 600), np.int64)], {}),
        ("Concat", [whole(1)] * 2000, {"axis": 0}),
        ("Pow", [whole(2), whole(3)], {}),
        ("Add", [whole(1), np.int32([1])], {}),
        ("Cast", [whole(1)], {"to": 10}),
        ("Identity", [np.float64([1])], {}),
    ],
)
def test_what_is_not_certain_stays_unknown(op: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    """Overflow, rounding of negative numbers, too many numbers, what no machine defines: none of them is a number, and
    none of them an error."""
    assert ours(op, inputs, attributes) is None


def resized(*nodes: Any, **tensors: Any) -> bytes:
    """A network that resizes the image to `sides`, which the nodes compute from `size`, the image's height."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    tensors |= {"two": whole(2), "same": whole(1, 3)}
    constants = [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()]
    all_nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["size"]),
        *nodes,
        helper.make_node("Concat", ["same", "side", "side"], ["sides"], axis=0),
        helper.make_node("Resize", ["image", "", "", "sides"], ["out"]),
    ]
    graph = helper.make_graph(all_nodes, "g", [image], [out], constants)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def test_sizes_are_followed() -> None:
    """Height / 14, as patches have it, and half of it by way of floats: known, and small."""
    check_plain(resized(node("Div", "size n", "side"), n=whole(14)), 384)
    half = [node("Cast", "size", "a", to=1), node("Mul", "a n", "b"), node("Cast", "b", "side", to=7)]
    check_plain(resized(*half, n=np.array([0.5], np.float32)), 384)


@pytest.mark.parametrize(
    "data",
    [
        resized(node("Mul", "size n", "side"), n=whole(1000)),
        resized(node("Sub", "n size", "a"), node("Div", "a two", "b"), node("Mul", "b b", "side"), n=whole(0)),
        resized(node("Div", "n two", "a"), node("Mul", "a a", "b"), node("Mul", "b b", "side"), n=whole(-3)),
        resized(node("Range", "z n o", "a"), node("Size", "a", "b"), node("Mul", "b two", "side"), z=np.array(0),
                n=np.array(10**6), o=np.array(1)),
    ],
    ids=["large", "rounded up or down", "negative", "counted"],
)  # fmt: skip
def test_sizes_that_are_large_or_not_certain_are_refused(data: bytes) -> None:
    """A network may compute what it costs, but not so that nobody can tell."""
    with pytest.raises(BackboneError, match="--trusted"):
        check_plain(data, 64)


def test_a_network_of_endless_rounds_is_refused_soon() -> None:
    """Each size needs the shape before: after some rounds they stay unknown, which costs no more than that."""
    nodes, last = [], "image"
    for place in range(40):
        nodes += [
            node("Shape", last, f"s{place}"),
            node("Max", f"s{place} one", f"m{place}"),
            node("Div", f"m{place} one", f"d{place}"),
            node("Expand", f"{last} d{place}", f"v{place}"),
        ]
        last = f"v{place}"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    out = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [out], [numpy_helper.from_array(whole(1), "one")])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(BackboneError, match="Expand"):
        check_plain(model.SerializeToString(), 64)
