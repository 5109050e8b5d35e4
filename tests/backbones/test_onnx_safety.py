"""What is let through to ONNX Runtime: files that every parser sees alike, and networks that cost what one may."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patchbank.backbones import load_backbone, onnx_safety, onnx_shapes, restore_backbone
from patchbank.backbones.fake import FakeBackbone
from patchbank.backbones.onnx_safety import FIELDS, check_plain, read_model
from patchbank.config import Runtime
from patchbank.errors import BackboneError

WEIGHTS = FakeBackbone().to_onnx()


def network(*nodes: Any, opset: int = 17, **tensors: Any) -> bytes:
    """A network (image -> out) of these nodes."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()]
    graph = helper.make_graph(list(nodes), "g", [image], [out], constants)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    return bytes(model.SerializeToString())


def node(op: str, inputs: str, output: str = "out", **attributes: Any) -> Any:
    return helper.make_node(op, ["" if name == "-" else name for name in inputs.split()], [output], **attributes)


def test_the_table_of_fields_is_the_onnx_packages() -> None:
    """The oracle: a field that the walk did not know, or took for another type, would be seen by the runtime alone."""
    names = {"TensorType": "TypeProto.Tensor", "TensorShape": "TensorShapeProto", "Segment": "TensorProto.Segment"}
    kinds = {1: "double", 2: "float", 3: "int", 4: "int", 5: "int", 9: "bytes", 12: "bytes", 13: "int", 14: "int"}
    seen, waiting = set(), [("Model", onnx.ModelProto.DESCRIPTOR)]
    while waiting:
        ours, descriptor = waiting.pop()
        seen.add(ours)
        for field in descriptor.fields:
            name, kind, repeated = FIELDS[ours][field.number]
            assert name == field.name, (ours, field.name)
            assert repeated == (field.label == 3 if not hasattr(field, "is_repeated") else field.is_repeated)
            if field.message_type is None:
                assert kind == kinds[field.type], (ours, name)
            else:
                full = field.message_type.full_name.removeprefix("onnx.")
                known = names.get(kind, f"{kind}Proto")
                assert full.endswith((known, f".{kind}", kind)) or full == "TypeProto.SparseTensor", (full, kind)
                if kind not in seen:
                    waiting.append((kind, field.message_type))


@pytest.mark.parametrize(
    ("what", "more"),
    {
        "a tag of more than 32 bits": b"\xe8\x80\x80\x80\x10\x00",
        "a tag in a longer form": b"\x88\x00\x08",
        "a number in a longer form": b"\x28\x80\x00",
        "a number of more than 64 bits": b"\x28" + b"\xff" * 9 + b"\x7f",
        "an unknown field": b"\xf8\x3f\x00",
        "field number 0": b"\x00\x00",
        "a group": b"\x0b\x0c",
        "an unknown wire type": b"\x0e",
        "a singular field twice": b"\x08\x08",
        "another wire type": b"\x0d\x00\x00\x00\x00",
        "a length beyond the end": b"\x12\x7f",
        "half a tag": b"\xff",
    }.items(),
)
def test_what_parsers_could_see_differently_is_refused(what: str, more: bytes) -> None:
    """Each of them behind a sound network. The runtime keeps 32 bits of a tag: that hid a reference to a file."""
    read_model(WEIGHTS)
    with pytest.raises(BackboneError):
        read_model(WEIGHTS + more)


def test_a_hidden_reference_to_a_file_is_refused() -> None:
    """As it was done: field 14 (data_location) and 13 (external_data) of a tensor, with bit 32 of the tag set."""
    model = onnx.load_model_from_string(WEIGHTS)
    tensor = model.graph.initializer[0].SerializeToString()
    hidden = tensor + b"\xf0\x80\x80\x80\x10\x01"
    whole = WEIGHTS.replace(tensor, hidden)
    assert whole != WEIGHTS
    with pytest.raises(BackboneError):
        read_model(whole)


def test_a_file_of_nothing_but_fields_is_refused_soon() -> None:
    """Two bytes each, of which a parser makes objects: 100 MB would become 5 GB."""
    nodes = b"\x0a\x00" * 600_000
    graph = b"\x3a" + b"\x80\x9fI" + nodes  # field 7, its length, and empty nodes
    with pytest.raises(BackboneError, match="fields"):
        read_model(graph)


def test_an_operator_that_reads_a_value_twice_is_counted() -> None:
    """Found by the fuzzer: the value that ends there ended twice."""
    check_plain(network(node("Clip", "image image", "a"), node("Add", "a a")), 64)


def multiplications(*nodes: Any, **tensors: Any) -> int:
    """Of a network that gets an image of 8 x 8 pixels."""
    graph = read_model(data := network(*nodes, **tensors))["graph"][0]
    shapes, _ = onnx_shapes.inferred(data, {"image": (1, 3, 8, 8)})
    shapes |= {name: np.shape(values) for name, values in tensors.items()} | {"image": (1, 3, 8, 8)}
    return sum(onnx_safety._work(onnx_safety._node(each), shapes) for each in graph["node"])


def test_multiplications_are_counted() -> None:
    """Closed form. Attention multiplies long, thin matrices: counted by their longer side, a vision transformer took
    thirty times as much as it does."""
    heads = np.zeros((6, 1000, 64), np.float32), np.zeros((6, 64, 1000), np.float32)
    assert multiplications(node("MatMul", "q k"), q=heads[0], k=heads[1]) == 6 * 1000 * 64 * 1000
    assert multiplications(node("MatMul", "k q"), q=heads[0], k=heads[1]) == 6 * 64 * 1000 * 64
    a, b = np.zeros((20, 30), np.float32), np.zeros((30, 40), np.float32)
    assert multiplications(node("Gemm", "a b"), a=a, b=b) == 20 * 30 * 40
    assert multiplications(node("Gemm", "a b", transA=1), a=a.T, b=b) == 20 * 30 * 40
    assert multiplications(node("Gemm", "a b", transA=1, transB=1), a=a.T, b=b.T) == 20 * 30 * 40
    weight = np.zeros((5, 3, 2, 2), np.float32)
    assert multiplications(node("Conv", "image w", strides=[2, 2]), w=weight) == 4 * 4 * 5 * 12


def test_an_operator_that_lacks_its_inputs_is_refused() -> None:
    """Found by the fuzzer."""
    for broken in (node("Conv", "image", "a"), node("QLinearConv", "image", "a"), node("MatMul", "", "a")):
        with pytest.raises(BackboneError):
            check_plain(network(broken, node("Sigmoid", "a")), 64)


def test_a_tensor_that_its_values_do_not_fill_is_refused() -> None:
    """The runtime would make room for all of it."""
    model = onnx.load_model_from_string(WEIGHTS)
    model.graph.initializer[0].dims[0] = 10**9
    with pytest.raises(BackboneError, match="larger than its values"):
        read_model(model.SerializeToString())


def body() -> Any:
    values = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9))]
    more = helper.make_tensor_value_info("o", TensorProto.BOOL, [])
    return helper.make_graph([helper.make_node("Identity", ["c"], ["o"])], "b", values, [more])


LARGE = np.array([1, 1, 60_000, 60_000], np.int64)
REFUSED: dict[str, Callable[[], bytes]] = {
    "a loop": lambda: network(node("Loop", "- c", body=body()), c=np.array(True)),
    "a random number": lambda: network(node("RandomNormal", "", shape=[1, 3, 9, 9])),
    "another domain": lambda: network(node("Relu", "image", domain="com.microsoft")),
    "a file of a compiled network": lambda: network(node("EPContext", "image", domain="com.microsoft")),
    "a constant without end": lambda: network(
        node("ConstantOfShape", "s", "c"), node("Add", "image c"), s=LARGE
    ),
    "an expansion": lambda: network(node("Expand", "image s"), s=LARGE),
    "a resize": lambda: network(node("Resize", "image - s"), s=np.array([1, 1, 900, 900], np.float32)),
    "a padding": lambda: network(node("Pad", "image p"), p=np.array([0, 0, 40_000, 40_000, 0, 0, 0, 0])),
    "a tiling": lambda: network(node("Tile", "image s"), s=np.array([1, 1, 900, 900])),
    "a shape that the image decides": lambda: network(
        node("Cast", "image", "i", to=7), node("Reshape", "i m", "f"), node("Gather", "f z", "s"),
        node("ConstantOfShape", "s"), m=np.array([-1]), z=np.array([0, 0]),
    ),
    "channels without end": lambda: network(node("Conv", "image w"), w=np.zeros((200_000, 3, 1, 1), np.float32)),
    "padding of a convolution": lambda: network(
        node("Conv", "image w", pads=[30_000] * 4), w=np.zeros((3, 3, 1, 1), np.float32)
    ),
    "a pool over everything": lambda: network(node("MaxPool", "image", kernel_shape=[90_000] * 2, pads=[89_999] * 4)),
    "doublings": lambda: network(
        node("Concat", "image image", "0", axis=1),
        *(node("Concat", f"{step} {step}", str(step + 1), axis=1) for step in range(20)),
        node("Relu", "20"),
    ),
    "an enormous input": lambda: fixed(network(node("Relu", "image")), 10**6),
}  # fmt: skip


def fixed(data: bytes, side: int) -> bytes:
    model = onnx.load_model_from_string(data)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = side
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_nobody_vouches_for_are_held_to_limits(case: str, tmp_path: Path) -> None:
    """In a model file and as a backbone of the user's; the message says how to vouch for it."""
    data = REFUSED[case]()
    with pytest.raises(BackboneError, match="--trusted"):
        restore_backbone(data, FakeBackbone().info)
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(BackboneError, match="--trusted"):
        load_backbone(str(tmp_path / "x.onnx"))


def test_who_vouches_may_have_any_operator() -> None:
    """A branch is no plain operator; and the runtime takes it."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["map"], ["o"])], "b", [], [helper.make_tensor_value_info("o", 1, None)]
    )
    model = onnx.load_model_from_string(WEIGHTS)
    model.graph.node[0].output[0] = "map"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["stride8"], then_branch=branch, else_branch=branch))
    data, image = model.SerializeToString(), np.ones((1, 3, 64, 64), np.float32)
    with pytest.raises(BackboneError, match="'If'"):
        restore_backbone(data, FakeBackbone().info)
    found = restore_backbone(data, FakeBackbone().info, Runtime(trusted=True)).features(image)
    np.testing.assert_array_equal(found[0], restore_backbone(WEIGHTS, FakeBackbone().info).features(image)[0])


@pytest.mark.parametrize("side", [64, 100, 384])
def test_our_own_shapes_are_those_of_the_onnx_package(side: int) -> None:
    """The oracle for networks that our builders write, whose shapes are told without the package."""
    for data in (WEIGHTS, load_backbone("efficientnet_lite0").to_onnx()):
        graph = read_model(data)["graph"][0]
        nodes = [onnx_safety._node(each) for each in graph["node"]]
        tensors = {onnx_safety._text(each, "name"): onnx_safety._dims(each) for each in graph["initializer"]}
        image = {"image": (1, 3, side, side)}
        ours = onnx_safety._shapes(nodes, {**image, **tensors})
        theirs, _ = onnx_shapes.inferred(data, image)
        assert theirs
        assert {name: ours[name] for name in theirs} == theirs


def test_the_presets_of_the_zoo_pass_at_their_sizes() -> None:
    """Limits are far from what fits write."""
    for name in ("efficientnet_lite0", "efficientnet_lite2"):
        check_plain(load_backbone(name).to_onnx(), 1024)


def test_plain_names_are_operators() -> None:
    """A misspelt name would let nothing through, silently."""
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert onnx_safety.PLAIN - known <= {"Swish", "RMSNormalization"}  # younger than the oldest onnx that we take
    assert onnx_safety.PLAIN >= onnx_safety._GROWING
    assert onnx_safety.PLAIN >= onnx_safety._OURS


def test_onnx_runtime_leaves_nothing_in_the_home_and_users_may_let_it(tmp_path: Path) -> None:
    """ONNX Runtime 1.29 and later write a device id and a data base of events into the user's cache."""
    code = (
        "import os, sys, numpy as np\n"
        "from patchbank import Config, PatchCore\n"
        "from patchbank.backbones import load_backbone\n"
        "rng = np.random.default_rng(0)\n"
        "images = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(3)]\n"
        "PatchCore.fit(images, Config(image_size=64, calibration='none')).predict(images[0])\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    hidden = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "ORT_DISABLE_TELEMETRY")
    clean = {key: value for key, value in os.environ.items() if key not in hidden}
    for chosen in (None, "0"):
        home = tmp_path / str(chosen)
        home.mkdir()
        more = {"HOME": str(home), "USERPROFILE": str(home)} | ({"ORT_DISABLE_TELEMETRY": chosen} if chosen else {})
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | more, capture_output=True, text=True, timeout=120, cwd=tmp_path
        )
        assert done.stdout.strip() == (chosen or "1"), done.stderr
        if chosen is None:
            assert list(home.rglob("*")) == []


@pytest.mark.parametrize("strides", [[0, 2], [2, -1]])
def test_a_window_that_does_not_move_is_refused(strides):
    """Found by the fuzzer: ONNX Runtime 1.25 divides by it, and the process ends."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 2, 2], [0.0] * 48)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["out"], strides=strides)],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4, "h", "w"])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(BackboneError, match="strides"):
        check_plain(model.SerializeToString(), 64)
