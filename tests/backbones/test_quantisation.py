"""Networks in 8 bits: what is quantised, how well, and that no processor can compute them differently."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from patchbank.backbones import BackboneInfo, Layer, load_backbone, onnx_safety, precision_of
from patchbank.backbones.onnx_safety import check_plain
from patchbank.backbones.quantisation import Meter, network_of, quantised, ranges_of
from patchbank.backbones.quantisation.scales import Stored, stored_values
from patchbank.backbones.quantisation.units import Unit, constants
from patchbank.backbones.quantisation.weights import weights_of
from patchbank.backbones.session import OnnxBackbone, import_onnxruntime
from patchbank.errors import BackboneError

Array = np.ndarray[Any, Any]


def pictures(count: int, rng: np.random.Generator, side: int = 64) -> list[Array]:
    """Smooth pictures of whole numbers, normalised as for EfficientNet-Lite: (1, 3, side, side)."""
    coarse = rng.integers(0, 256, (count, 3, side // 8, side // 8)).repeat(8, 2).repeat(8, 3)
    return list(((coarse - 127) / 128).astype(np.float32)[:, None])


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def network(*nodes: Any, outputs: tuple[Layer, ...], opset: int = 13, **tensors: Any) -> OnnxBackbone:
    """A network of these nodes, from `image` to `outputs`."""
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, "h", "w"])
    out = [helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, None) for layer in outputs]
    weights = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()]
    graph = helper.make_graph(list(nodes), "g", [entry], out, weights)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    info = BackboneInfo("small", outputs, (127.0,) * 3, (128.0,) * 3, "none", "mean")
    return OnnxBackbone(model.SerializeToString(), info)


def residual(rng: np.random.Generator, between: str = "Relu", opset: int = 13) -> OnnxBackbone:
    """All that is quantised: convolutions with and without bias, ReLU, ReLU6, a depthwise one, pooling, a sum."""

    def weight(*shape: int) -> Array:
        return rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)

    return network(
        node("Conv", "image w0 b0", "stem", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node(between, "stem", "stem.act"),
        node("MaxPool", "stem.act", "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", "pool w1", "wide", kernel_shape=[1, 1]),
        node("Clip", "wide zero six", "wide.act"),
        node("Conv", "wide.act w2 b2", "deep", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=24),
        node("Clip", "deep zero six", "deep.act"),
        node("Conv", "deep.act w3 b3", "narrow", kernel_shape=[1, 1]),
        node("Add", "narrow pool", "sum"),
        node("Relu", "sum", "early"),
        node("Conv", "early w4 b0", "late", kernel_shape=[2, 2], strides=[2, 2]),
        outputs=(Layer("early", 8, 4), Layer("late", 8, 8)),
        opset=opset,
        w0=weight(8, 3, 3, 3),
        b0=rng.normal(0, 0.2, 8),
        w1=weight(24, 8, 1, 1),
        w2=weight(24, 1, 3, 3) * rng.uniform(0.1, 3, (24, 1, 1, 1)),
        b2=rng.normal(0, 0.2, 24),
        w3=weight(8, 24, 1, 1),
        b3=rng.normal(0, 0.2, 8),
        w4=weight(8, 8, 2, 2),
        zero=0.0,
        six=6.0,
    )


def in_bytes(backbone: OnnxBackbone, seen: list[Array]) -> OnnxBackbone:
    parts = network_of(onnx.load_model_from_string(backbone.to_onnx()))
    meter = Meter(backbone, parts)
    for image in seen:
        meter.features(image)
    return OnnxBackbone(quantised(parts, meter.measured, backbone.info), backbone.info)


def error(backbone: OnnxBackbone, other: OnnxBackbone, seen: list[Array]) -> list[float]:
    """Of each layer: the size of the difference, over the size of what varies in the layer."""
    found = []
    for layer in range(len(backbone.info.layers)):
        a, b = (np.concatenate([each.features(image)[layer] for image in seen]) for each in (backbone, other))
        found.append(float(np.linalg.norm(a - b) / np.linalg.norm(a - a.mean(axis=(0, 2, 3), keepdims=True))))
    return found


def test_a_network_in_bytes_gives_nearly_the_same_features(rng: np.random.Generator) -> None:
    """On images that it was not measured on; both are real networks' sizes of errors."""
    for backbone, most in ((residual(rng), 0.06), (load_backbone("efficientnet_lite0"), 0.2)):
        assert isinstance(backbone, OnnxBackbone)
        smaller = in_bytes(backbone, pictures(12, rng))
        assert max(error(backbone, smaller, pictures(4, rng))) < most
        assert len(smaller.to_onnx()) < 0.75 * len(backbone.to_onnx()) or len(backbone.to_onnx()) < 20_000
        assert (precision_of(backbone), precision_of(smaller)) == ("float32", "int8")


def test_operators_that_are_no_units_stay_in_float32(rng: np.random.Generator) -> None:
    """A sigmoid between, as other networks have it; and axes as an input, as reductions take them from opset 18 on."""
    backbone = residual(rng, between="Sigmoid", opset=18)
    smaller = in_bytes(backbone, pictures(12, rng))
    assert "Sigmoid" in onnx_safety.operators(smaller.to_onnx())
    assert max(error(backbone, smaller, pictures(4, rng))) < 0.06


def test_the_same_measurements_give_the_same_bytes(rng: np.random.Generator) -> None:
    """Same seed, same machine, same model file."""
    backbone, seen = residual(rng), pictures(3, rng)
    assert in_bytes(backbone, seen).to_onnx() == in_bytes(backbone, seen).to_onnx()


# --- the same numbers everywhere -------------------------------------------------------------------------------------


def oracle(smaller: OnnxBackbone, image: Array) -> dict[str, Array]:
    """The quantised network in NumPy: whole numbers, one product and one rounding for each number that leaves an
    operator. Whatever agrees with it to the bit computes what every other processor computes."""
    model = onnx.load_model_from_string(smaller.to_onnx())
    fixed, whole, real = constants(model.graph), {}, {"image": image}
    back = {}  # floats -> (bytes, scale, zero)
    for each in model.graph.node:
        inputs, out = list(each.input), each.output[0]
        attributes = {a.name: helper.get_attribute_value(a) for a in each.attribute}
        if each.op_type == "DequantizeLinear":
            scale, zero = fixed[inputs[1]], fixed[inputs[2]]
            values = whole.get(inputs[0], fixed.get(inputs[0]))
            back[out] = (values, scale, zero)
            side = [1, -1, 1, 1] if scale.ndim and inputs[0] in whole else [-1] + [1] * (values.ndim - 1)
            real[out] = (values.astype(np.int32) - zero.reshape(side)).astype(np.float32) * scale.reshape(side)
        elif out in whole:
            continue
        elif each.op_type == "QuantizeLinear":
            scale, zero = fixed[inputs[1]], fixed[inputs[2]]
            if inputs[0] in whole:  # a sum of products that was made for this scale
                made, step = whole.pop(inputs[0])
                exact = np.rint((made.astype(np.float32) * (step / scale)).astype(np.float32))
            else:
                exact = np.rint(real[inputs[0]] / scale)
            whole[out] = np.clip(exact + zero, 0, 255).astype(np.uint8)
        elif each.op_type == "Conv":
            values, scale, zero = back[inputs[0]]
            (weight, steps, _), (bias, _, _) = back[inputs[1]], back[inputs[2]]
            made = convolved(values.astype(np.int64) - int(zero), weight.astype(np.int64), attributes)
            whole[out] = (made + bias.reshape(1, -1, 1, 1), (scale * steps).reshape(1, -1, 1, 1))
        elif each.op_type == "MaxPool":
            values, scale, zero = back[inputs[0]]
            padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
            real[out] = (windows.max(axis=(4, 5)).astype(np.int32) - zero).astype(np.float32) * scale
        else:
            assert each.op_type == "Add"
            (a, scale_a, zero_a), (b, scale_b, zero_b) = (back[name] for name in inputs)
            exact = (a.astype(float) - zero_a) * float(scale_a) + (b.astype(float) - zero_b) * float(scale_b)
            (after,) = (n for n in model.graph.node if out in n.input)
            steps = exact / float(fixed[after.input[1]])
            assert np.abs(steps - np.floor(steps) - 0.5).min() > 0.0078  # nobody's way to round can matter
            whole[after.output[0]] = np.clip(np.rint(steps) + fixed[after.input[2]], 0, 255).astype(np.uint8)
    return real


def convolved(values: Array, weight: Array, attributes: dict[str, Any]) -> Array:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    step, groups, sides = attributes.get("strides", [1, 1])[0], attributes.get("group", 1), weight.shape[2:]
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, sides, (2, 3))[:, :, ::step, ::step]
    parts = zip(np.split(windows, groups, 1), np.split(weight, groups, 0), strict=True)
    return np.concatenate([np.einsum("bchwij,ocij->bohw", part, own) for part, own in parts], axis=1)


def test_features_are_those_of_whole_numbers_to_the_bit(rng: np.random.Generator) -> None:
    """The oracle has no vector instructions, no fused products, and one order of all sums."""
    for seed in range(3):
        backbone = residual(np.random.default_rng(seed))
        smaller = in_bytes(backbone, pictures(6, rng))
        for image in pictures(3, rng):
            exact = oracle(smaller, image)
            for layer, values in zip(smaller.info.layers, smaller.features(image), strict=True):
                np.testing.assert_array_equal(values, exact[layer.name])


def test_the_runtime_computes_nothing_in_float32(tmp_path: Path, rng: np.random.Generator) -> None:
    """All operators between the image and its features are those on whole numbers, which the runtime fuses."""
    for backbone in (residual(rng), load_backbone("efficientnet_lite0")):
        assert isinstance(backbone, OnnxBackbone)
        smaller = in_bytes(backbone, pictures(2, rng))
        onnxruntime = import_onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(smaller.to_onnx(), settings, providers=["CPUExecutionProvider"])
        found = {each.op_type for each in onnx.load(tmp_path / "optimised.onnx").graph.node}
        allowed = {"QuantizeLinear", "DequantizeLinear", "Transpose", "QLinearConv", "QLinearAdd", "MaxPool"}
        assert "QLinearConv" in found
        assert found - {"NhwcMaxPool"} <= allowed


@given(st.integers(0, 2**32 - 1), st.sampled_from([(4, 3, 3, 3), (5, 8, 1, 1), (2, 7, 2, 2), (6, 1, 3, 3)]))
def test_no_pair_of_products_saturates(seed: int, shape: tuple[int, int, int, int]) -> None:
    """AVX2 without VNNI adds two products of bytes in 16 bits. A depthwise convolution may use all of its byte."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(2, shape).astype(np.float32)
    depthwise = shape[1] == 1
    convolution = node("Conv", "x w", "y", group=shape[0] if depthwise else 1)
    unit = Unit(convolution, ("x",), "y", None, weight, np.zeros(shape[0], np.float32))
    count = shape[0] if depthwise else shape[1]
    taken, made = (Stored(rng.uniform(1, 30, n), np.float32(0.1), 0) for n in (count, shape[0]))
    found = weights_of(unit, taken, made, np.zeros(count)).weight.astype(np.int64)
    row = np.abs(found).transpose(0, 2, 3, 1).reshape(shape[0], -1)
    assert row.max() <= 127
    if depthwise:
        assert (row.max(axis=1) == 127).all()
    else:
        assert (255 * (row[:, 1:] + row[:, :-1])).max() < 2**15


@given(st.integers(0, 2**32 - 1))
def test_no_sum_comes_close_to_a_half(seed: int) -> None:
    """Each summand's scale over the sum's is a whole number of 63rds. Processors round halves differently, and fuse
    products and sums or do not."""
    rng = np.random.default_rng(seed)
    parts = network_of(onnx.load_model_from_string(residual(rng).to_onnx()))
    size = rng.uniform(0.01, 100, len(parts.measured))
    sides = {name: (8 if name not in ("wide.act", "deep.act") else 24) for name in parts.measured} | {"image": 3}
    measured = [[v for n, name in enumerate(parts.measured) for v in _made(sides[name], size[n], rng)]]
    stored = stored_values(parts, ranges_of(parts, measured), residual(rng).info)
    for summand in ("narrow", "pool"):
        ratio = 63 * float(stored[summand].scale / stored["early"].scale)
        assert abs(ratio - round(ratio)) < 1e-6 * ratio
        assert round(ratio) >= 1
    assert stored["pool"].scale == stored["stem.act"].scale
    assert stored["pool"].zero == stored["stem.act"].zero
    np.testing.assert_array_equal(stored["pool"].factor, stored["narrow"].factor)


def _made(channels: int, size: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    low, high = -size * rng.uniform(0, 1, channels), size * rng.uniform(0, 1, channels)
    return low, high, (low + high) / 2


def test_pixels_are_stored_as_they_are(rng: np.random.Generator) -> None:
    """(x - 127) / 128 of whole numbers 0..255 loses nothing."""
    smaller = onnx.load_model_from_string(in_bytes(residual(rng), pictures(1, rng)).to_onnx())
    values, first = constants(smaller.graph), smaller.graph.node[0]
    assert first.op_type == "QuantizeLinear"
    assert first.input[0] == "image"
    assert (float(values[first.input[1]]), int(values[first.input[2]])) == (1 / 128, 127)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_networks_that_bytes_do_not_suit_are_refused(rng: np.random.Generator) -> None:
    """A transformer's matrix products; a network that is quantised already; files without a scale for each channel."""
    backbone = residual(rng)
    transformer = network(
        node("Conv", "image w", "y", kernel_shape=[8, 8], strides=[8, 8]),
        node("MatMul", "y m", "z"),
        node("MatMul", "z m", "out"),
        outputs=(Layer("out", 4, 8),),
        w=rng.normal(size=(4, 3, 8, 8)),
        m=rng.normal(size=(8, 8)),
    )
    for onnx_file, why in (
        (transformer.to_onnx(), "convolutions"),
        (in_bytes(backbone, pictures(1, rng)).to_onnx(), "already"),
        (residual(rng, opset=12).to_onnx(), "opset 13"),
    ):
        with pytest.raises(BackboneError, match=f"{why}.*use precision = 'float32'"):
            network_of(onnx.load_model_from_string(onnx_file))


def test_values_that_are_not_finite_are_refused(rng: np.random.Generator) -> None:
    """A network that overflows on the training images has no ranges."""
    backbone = residual(rng)
    parts = network_of(onnx.load_model_from_string(backbone.to_onnx()))
    meter = Meter(backbone, parts)
    meter.features(np.full((1, 3, 32, 32), np.inf, np.float32))
    with pytest.raises(BackboneError, match="finite"):
        ranges_of(parts, meter.measured)


def test_a_network_in_bytes_costs_no_more_than_in_floats(rng: np.random.Generator) -> None:
    """The limits for files that nobody vouches for hold what the runtime holds: bytes, not the floats between them."""
    backbone = load_backbone("efficientnet_lite2")
    assert isinstance(backbone, OnnxBackbone)
    smaller = in_bytes(backbone, pictures(1, rng))
    for network_file in (backbone.to_onnx(), smaller.to_onnx()):
        check_plain(network_file, 2048)
    with pytest.raises(BackboneError, match="GB"):
        check_plain(smaller.to_onnx(), 6000)


def test_floats_that_the_runtime_does_make_are_counted(rng: np.random.Generator) -> None:
    """A file whose bytes the runtime cannot keep as bytes, because a scale is no constant of one number, a reader wants
    floats, or the types differ, is held to what its floats take."""
    model = onnx.load_model_from_string(in_bytes(load_backbone("efficientnet_lite2"), pictures(1, rng)).to_onnx())  # type: ignore[arg-type]
    check_plain(model.SerializeToString(), 2048)
    stem = next(each for each in model.graph.node if each.op_type == "Conv")
    (after,) = (each for each in model.graph.node if stem.output[0] in each.input)
    zero = next(each for each in model.graph.initializer if each.name == after.input[2])

    def per_channel(changed: Any) -> None:
        for tensor in changed.graph.initializer:
            if tensor.name in after.input[1:]:
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(np.full(32, values), tensor.name))

    def signed(changed: Any) -> None:
        for tensor in changed.graph.initializer:
            if tensor.name == zero.name:
                tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.int8), tensor.name))

    def read_elsewhere(changed: Any) -> None:
        changed.graph.output.append(helper.make_tensor_value_info(stem.output[0], TensorProto.FLOAT, None))

    for change in (per_channel, signed, read_elsewhere):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        change(changed)
        before, now = (_sides(each)[stem.output[0]] for each in (model, changed))
        assert (before, now) == (0, 4), change.__name__


def _sides(model: Any) -> dict[str, int]:
    message = onnx_safety.read_model(model.SerializeToString())["graph"][0]
    nodes = [onnx_safety._node(each) for each in message["node"]]
    tensors = {each.name: tuple(each.dims) for each in model.graph.initializer}
    types = {each.name: each.data_type for each in model.graph.initializer}
    found = onnx_safety.fused(nodes, tensors, types, {each.name for each in model.graph.output})
    return {name: found.get(name, 4) for each in nodes for name in each.outputs}
