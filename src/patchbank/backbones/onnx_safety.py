"""What may be in an ONNX file before ONNX Runtime sees it.

`read_model` walks the file as the runtime's parser will, and takes only what two parsers cannot see differently: known
fields with their own types, numbers in their shortest form, singular fields once, no file beyond this one.
`check_plain` holds a network that nobody vouches for to plain feed-forward operators, and to what it may cost.

The walk does without the onnx package, whose import takes longer than loading a small network; only networks of other
operators than our own builders use need the package's shape inference.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patchbank.backbones.onnx_shapes import Shape, inferred
from patchbank.errors import BackboneError

# --- the file --------------------------------------------------------------------------------------------------------

# onnx.proto3, without what refers to other files: message -> {field number: (name, type, repeated)}. Checked against
# the onnx package's own description in tests/backbones/test_onnx_safety.py.
_TYPES: dict[str, str] = {
    "Model": "1 ir_version int, 8 opset_import OperatorSetId*, 2 producer_name bytes, 3 producer_version bytes, "
    "4 domain bytes, 5 model_version int, 6 doc_string bytes, 7 graph Graph, 14 metadata_props StringStringEntry*, "
    "20 training_info TrainingInfo*, 25 functions Function*, 26 configuration DeviceConfiguration*",
    "OperatorSetId": "1 domain bytes, 2 version int",
    "Graph": "1 node Node*, 2 name bytes, 5 initializer Tensor*, 15 sparse_initializer SparseTensor*, "
    "10 doc_string bytes, 11 input ValueInfo*, 12 output ValueInfo*, 13 value_info ValueInfo*, "
    "14 quantization_annotation TensorAnnotation*, 16 metadata_props StringStringEntry*",
    "Node": "1 input bytes*, 2 output bytes*, 3 name bytes, 4 op_type bytes, 7 domain bytes, 8 overload bytes, "
    "5 attribute Attribute*, 6 doc_string bytes, 9 metadata_props StringStringEntry*, "
    "10 device_configurations NodeDeviceConfiguration*",
    "Attribute": "1 name bytes, 21 ref_attr_name bytes, 13 doc_string bytes, 20 type int, 2 f float, 3 i int, "
    "4 s bytes, 5 t Tensor, 6 g Graph, 22 sparse_tensor SparseTensor, 14 tp Type, 7 floats float*, 8 ints int*, "
    "9 strings bytes*, 10 tensors Tensor*, 11 graphs Graph*, 23 sparse_tensors SparseTensor*, 15 type_protos Type*",
    "Tensor": "1 dims int*, 2 data_type int, 3 segment Segment, 4 float_data float*, 5 int32_data int*, "
    "6 string_data bytes*, 7 int64_data int*, 8 name bytes, 12 doc_string bytes, 9 raw_data bytes, "
    "13 external_data StringStringEntry*, 14 data_location int, 10 double_data double*, 11 uint64_data int*, "
    "16 metadata_props StringStringEntry*",
    "Segment": "1 begin int, 2 end int",
    "StringStringEntry": "1 key bytes, 2 value bytes",
    "SparseTensor": "1 values Tensor, 2 indices Tensor, 3 dims int*",
    "Type": "1 tensor_type TensorType, 4 sequence_type Sequence, 5 map_type Map, 9 optional_type Optional, "
    "8 sparse_tensor_type TensorType, 7 opaque_type Opaque, 6 denotation bytes",
    "TensorType": "1 elem_type int, 2 shape TensorShape",
    "TensorShape": "1 dim Dimension*",
    "Dimension": "1 dim_value int, 2 dim_param bytes, 3 denotation bytes",
    "Sequence": "1 elem_type Type",
    "Map": "1 key_type int, 2 value_type Type",
    "Optional": "1 elem_type Type",
    "Opaque": "1 domain bytes, 2 name bytes",
    "ValueInfo": "1 name bytes, 2 type Type, 3 doc_string bytes, 4 metadata_props StringStringEntry*",
    "TensorAnnotation": "1 tensor_name bytes, 2 quant_parameter_tensor_names StringStringEntry*",
    "TrainingInfo": "1 initialization Graph, 2 algorithm Graph, 3 initialization_binding StringStringEntry*, "
    "4 update_binding StringStringEntry*",
    "Function": "1 name bytes, 4 input bytes*, 5 output bytes*, 6 attribute bytes*, 11 attribute_proto Attribute*, "
    "7 node Node*, 8 doc_string bytes, 9 opset_import OperatorSetId*, 10 domain bytes, 13 overload bytes, "
    "12 value_info ValueInfo*, 14 metadata_props StringStringEntry*",
    "DeviceConfiguration": "1 name bytes, 2 num_devices int, 3 device bytes*",
    "NodeDeviceConfiguration": "1 configuration_id bytes, 2 sharding_spec ShardingSpec*, 3 pipeline_stage int",
    "ShardingSpec": "1 tensor_name bytes, 2 device int*, 3 index_to_device_group_map IntIntListEntry*, "
    "4 sharded_dim ShardedDim*",
    "IntIntListEntry": "1 key int, 2 value int*",
    "ShardedDim": "1 axis int, 2 simple_sharding SimpleShardedDim*",
    "SimpleShardedDim": "1 dim_value int, 2 dim_param bytes, 3 num_shards int",
}
_WIRES = {"int": 0, "float": 5, "double": 1, "bytes": 2}
_SIZES = {5: 4, 1: 8}
_MAX_DEPTH = 32
_MAX_FIELDS = 500_000  # of a file; a network of a thousand operators has 20 000
_MAX_PACKED = 1 << 20  # bytes of a list of whole numbers that is no tensor's contents
_LONG_NUMBER = re.compile(rb"[\x80-\xff]{10}|[\x80-\xff]\x00")  # too long, or not in its shortest form

Message = dict[str, list[Any]]  # field name -> its values: numbers, memoryviews, Messages


def _fields(described: str) -> dict[int, tuple[str, str, bool]]:
    rows = [row.split(" ") for row in described.split(", ")]
    return {int(number): (name, kind.rstrip("*"), kind.endswith("*")) for number, name, kind in rows}


FIELDS: Mapping[str, Mapping[int, tuple[str, str, bool]]] = {name: _fields(text) for name, text in _TYPES.items()}


def read_model(onnx: bytes) -> Message:
    """The file's contents. Raises BackboneError for a file that is damaged, is written in a way that parsers could
    understand differently, or keeps values in another file, which could be any of this machine."""
    if onnx[4:8] == b"ORTM":
        raise BackboneError(
            "expected an ONNX file, got ONNX Runtime's own .ort format; convert from the original .onnx"
        )
    return _message(memoryview(onnx), "Model", 0, itertools.count(1))


def operators(onnx: bytes) -> set[str]:
    """The operators that a network is made of. Raises BackboneError as `read_model` does."""
    (graph,) = read_model(onnx).get("graph", [{}])
    return {_text(node, "op_type") for node in graph.get("node", [])}


def _message(data: memoryview, kind: str, depth: int, counter: Iterator[int]) -> Message:
    """counter: of all fields of the file so far."""
    if depth > _MAX_DEPTH:
        raise BackboneError("damaged ONNX file: nested too deeply")
    fields, found, position = FIELDS[kind], Message(), 0
    while position < len(data):
        if next(counter) > _MAX_FIELDS:
            raise BackboneError(f"damaged ONNX file: it has more than {_MAX_FIELDS:,} fields")
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if tag >= 1 << 32 or number not in fields:
            raise BackboneError(
                f"expected an ONNX file, got something else or a damaged one (field {number} of {kind})"
            )
        name, type_, repeated = fields[number]
        values = found.setdefault(name, [])
        if values and not repeated:
            raise BackboneError(f"damaged ONNX file: {name} of {kind} is given twice")
        own = _WIRES.get(type_, 2)
        value: Any
        if wire == 0 and own == 0:
            value, position = _varint(data, position)
        elif wire == 2 and (own == 2 or repeated):
            length, position = _varint(data, position)
            if position + length > len(data):
                raise BackboneError("expected an ONNX file, got something else or a truncated one")
            value, position = data[position : position + length], position + length
            if own != 2:
                values += _packed(value, own, name)
                continue
            if type_ != "bytes":
                value = _message(value, type_, depth + 1, counter)
        elif wire == own and wire in _SIZES:
            value, position = data[position : position + _SIZES[wire]], position + _SIZES[wire]
            if position > len(data):
                raise BackboneError("expected an ONNX file, got something else or a truncated one")
        else:
            raise BackboneError(f"expected an ONNX file, got something else or a damaged one ({name} of {kind})")
        values.append(value)
    if kind == "Tensor":
        _check_tensor(found)
    return found


def _packed(data: memoryview, wire: int, name: str) -> list[Any]:
    """The values of a packed field. Those of tensors' contents stay together: what they are does not matter here."""
    if wire in _SIZES:
        if len(data) % _SIZES[wire]:
            raise BackboneError(f"damaged ONNX file: {name} ends within a number")
        return [data]
    if (len(data) and data[-1] >= 0x80) or _LONG_NUMBER.search(data):
        raise BackboneError(f"damaged ONNX file: {name} holds numbers that are not written as they should be")
    if name in ("int32_data", "int64_data", "uint64_data"):
        return [data]
    if len(data) > _MAX_PACKED:
        raise BackboneError(f"damaged ONNX file: {name} is longer than any list of its kind")
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _check_tensor(tensor: Message) -> None:
    """BackboneError for values in another file, and for dimensions that the values do not fill."""
    if "external_data" in tensor or tensor.get("data_location", [0]) != [0]:
        raise BackboneError(
            "the ONNX file keeps weights in another file; expected one self-contained file "
            "(onnx.save(onnx.load(path), path, save_as_external_data=False))"
        )
    contents = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")
    size = sum(len(part) if isinstance(part, memoryview) else 1 for name in contents for part in tensor.get(name, []))
    room = 8 * (size + len(tensor.get("string_data", [])))  # the smallest types take half a byte, or less some day
    if math.prod(signed(side) for side in tensor.get("dims", [])) > max(room, 1):
        raise BackboneError("damaged ONNX file: a tensor is larger than its values")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number at a position, and the position behind it; in its shortest form, of at most 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >= 1 << 64:
                break
            return value, position
    raise BackboneError("expected an ONNX file, got something else or a damaged one")


def signed(value: int) -> int:
    """A protobuf int64 as the number that it means."""
    return value - (1 << 64) if value >= 1 << 63 else value


# --- the network -----------------------------------------------------------------------------------------------------

MAX_NODES = 20_000
MAX_BYTES = 640 << 20  # of values that are held at once: the process stays under 1 GB
MAX_WORK = 1 << 39  # multiplications
# Feed-forward arithmetic that gives the same numbers each time, and whose cost can be told from its shapes. No loops
# and branches (Loop, If, Scan, SequenceMap), no random numbers, no texts, nothing that reads files (EPContext).
_PLAIN = (
    "Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat",
    "Constant ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf",
    "Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater",
    "GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LRN",
    "LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool Mean",
    "MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear",
    "RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin",
    "ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Size Slice Softmax",
    "Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose",
    "Trilu Unsqueeze Upsample Where Xor",
)
PLAIN = frozenset(name for line in _PLAIN for name in line.split(" "))
_DOMAINS = (b"", b"ai.onnx")
_SAME = {"Relu", "Clip"}  # of the shape of their first input, and computed in place
_BYTES = {"QuantizeLinear", "DequantizeLinear"}  # of that shape, too
_OURS = {"Conv", "MaxPool", "Add", *_SAME, *_BYTES}  # what our builders write


@dataclass(frozen=True)
class Node:
    """An operator. ints: its attributes that are whole numbers, as lists."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: Mapping[str, Sequence[int]]
    texts: Mapping[str, bytes] = field(default_factory=dict)


def check_plain(onnx: bytes, side: int) -> None:
    """Holds a network that nobody vouches for to operators in PLAIN, and to MAX_BYTES and MAX_WORK for one image of
    `side` x `side` pixels. Raises BackboneError."""
    model = read_model(onnx)
    graph = _only(model, "graph")
    if "training_info" in model or "functions" in model or "sparse_initializer" in graph:
        raise _refused("it holds functions, sparse tensors or what is for training")
    if len(graph.get("node", [])) > MAX_NODES:
        raise _refused(f"it has {len(graph['node'])} operators, more than {MAX_NODES}")
    nodes = [_node(each) for each in graph.get("node", [])]
    for node in nodes:
        for name in ("strides", "dilations", "kernel_shape", "group"):
            if any(value < 1 for value in node.ints.get(name, [])):  # older runtimes divide by it
                raise BackboneError(
                    f"damaged ONNX file: {node.op} with {name} {list(node.ints[name])}, expected over 0"
                )
    tensors = {_text(each, "name"): _dims(each) for each in graph.get("initializer", [])}
    types = {_text(each, "name"): each.get("data_type", [0])[0] for each in graph.get("initializer", [])}
    entries = {_text(each, "name"): _entry(each, side) for each in graph.get("input", [])}
    sizes = {name: shape for name, shape in entries.items() if name not in tensors}
    if any(node.op not in _OURS for node in nodes):
        shapes, wide = inferred(onnx, sizes)
    else:
        shapes, wide = _shapes(nodes, {**sizes, **tensors}), frozenset()
    shapes = {**shapes, **tensors}
    outputs = {_text(each, "name") for each in graph.get("output", [])}
    try:
        sides = dict.fromkeys(wide, 8) | fused(nodes, tensors, types, outputs)
        _check_cost(nodes, sizes, shapes, sides, outputs)
    except IndexError as error:  # an operator without the inputs that it needs
        raise BackboneError("damaged ONNX file: an operator lacks inputs") from error


def _refused(why: str) -> BackboneError:
    return BackboneError(
        f"a network that patchbank does not run unless somebody vouches for it: {why}; if you know where the file "
        "comes from, load it with trusted=True (--trusted)"
    )


def _node(message: Message) -> Node:
    op = _text(message, "op_type")
    if bytes(message.get("domain", [b""])[0]) not in _DOMAINS or op not in PLAIN:
        domain = bytes(message.get("domain", [b""])[0]).decode(errors="replace")
        raise _refused(f"it has the operator {f'{domain}.' if domain else ''}{op!r:.60}")
    ints, texts = {}, {}
    for attribute in message.get("attribute", []):
        if {"g", "graphs", "sparse_tensor", "sparse_tensors", "ref_attr_name"} & attribute.keys():
            raise _refused(f"its operator {op} holds another network, or sparse tensors")
        ints[_text(attribute, "name")] = [signed(i) for i in attribute.get("ints", attribute.get("i", []))]
        texts[_text(attribute, "name")] = bytes(attribute.get("s", [b""])[0])
    inputs, outputs = (
        tuple(bytes(name).decode(errors="replace") for name in message.get(key, [])) for key in ("input", "output")
    )
    return Node(op, inputs, outputs, ints, texts)


def _only(message: Message, name: str) -> Message:
    if len(message.get(name, [])) != 1:
        raise BackboneError(f"expected an ONNX file, got something else or a damaged one (no {name})")
    found: Message = message[name][0]
    return found


def _text(message: Message, name: str) -> str:
    return bytes(message.get(name, [b""])[0]).decode(errors="replace")


def _dims(tensor: Message) -> Shape:
    return tuple(signed(side) for side in tensor.get("dims", []))


def _entry(value: Message, side: int) -> Shape:
    """The shape of a network's input: what it fixes, else one image of `side` x `side`."""
    try:
        shape = value["type"][0]["tensor_type"][0]["shape"][0]
    except KeyError:
        raise BackboneError("expected a network with one float32 input (batch, 3, height, width)") from None
    free = (1, 3, side, side)
    dims = [signed(dim.get("dim_value", [0])[0]) for dim in shape.get("dim", [])]
    return tuple(
        dim if dim > 0 else default for dim, default in itertools.zip_longest(dims, free[: len(dims)], fillvalue=1)
    )


def _shapes(nodes: Sequence[Node], known: Mapping[str, Shape]) -> dict[str, Shape]:
    """Of all values of a network of our own operators. Raises BackboneError where they do not fit."""
    shapes = dict(known)
    try:
        for node in nodes:
            shapes[node.outputs[0]] = _shape(node, [shapes[name] for name in node.inputs if name])
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise BackboneError(f"expected a network whose shapes can be told; its {node.op} is damaged") from error
    return shapes


def _shape(node: Node, inputs: Sequence[Shape]) -> Shape:
    if node.op == "Add":
        return tuple(map(max, zip(*_padded(inputs[:2]), strict=True)))
    if node.op in _SAME or node.op in _BYTES:
        return inputs[0]
    channels = inputs[1][0] if node.op == "Conv" else inputs[0][1]
    return (inputs[0][0], channels, *_windows(node, inputs))


def _padded(shapes: Sequence[Shape]) -> list[Shape]:
    longest = max(map(len, shapes))
    return [(1,) * (longest - len(shape)) + shape for shape in shapes]


def _windows(node: Node, inputs: Sequence[Shape]) -> list[int]:
    """Returns how often a kernel fits into each side."""
    sides, n = inputs[0][2:], len(inputs[0]) - 2
    kernel = inputs[1][2:] if node.op == "Conv" else node.ints["kernel_shape"]
    strides, dilations = (node.ints.get(name, [1] * n) for name in ("strides", "dilations"))
    pads = node.ints.get("pads", [0] * 2 * n)
    if node.texts.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return [-(-side // stride) for side, stride in zip(sides, strides, strict=True)]
    room = 1 if node.ints.get("ceil_mode", [0]) != [0] else 0
    each = zip(sides, kernel, strides, dilations, pads[:n], pads[n:], strict=True)
    return [max((side + a + b - d * (k - 1) - 1) // s + 1 + room, 0) for side, k, s, d, a, b in each]


# Operators whose outputs can be larger than what their inputs explain: a shape that cannot be told is refused.
_GROWING = {
    "ConstantOfShape", "ConvTranspose", "Conv", "QLinearConv", "Expand", "Gather", "GatherElements", "GatherND", "Gemm",
    "MatMul", "QLinearMatMul", "MaxPool", "AveragePool", "Pad", "Range", "Resize", "Tile", "Upsample",
}  # fmt: skip


def _check_cost(
    nodes: Sequence[Node],
    entries: Mapping[str, Shape],
    shapes: Mapping[str, Shape],
    sides: Mapping[str, int],
    outputs: set[str],
) -> None:
    """Walks through the network as the runtime does: what is held at once, and how much is multiplied. sides: bytes of
    a value's elements, where they are not 4."""
    last = {name: place for place, node in enumerate(nodes) for name in node.inputs}
    held = {name: 4 * math.prod(shape) for name, shape in entries.items()}
    total, work = sum(held.values()), 0
    _check_limits(total, work)
    for place, node in enumerate(nodes):
        ending = [name for name in node.inputs if last[name] == place and name not in outputs and name in held]
        for name in (name for name in node.outputs if name):
            if name in shapes:
                held[name] = math.prod(shapes[name]) * sides.get(name, 4)
            elif node.op in _GROWING:
                raise _refused(f"how large what its {node.op} makes will be cannot be told")
            else:
                known = [held.get(each, 4 * math.prod(shapes.get(each, ()))) for each in node.inputs if each]
                held[name] = 2 * sum(known)
            total += held[name]
        if node.op in _SAME and ending:  # in place
            total -= held.pop(ending.pop(0))
        work += _work(node, shapes)
        _check_limits(total, work)
        total -= sum(held.pop(name, 0) for name in ending)


_UINT8, _INT8, _INT32 = 2, 3, 6  # of tensors


def fused(
    nodes: Sequence[Node], tensors: Mapping[str, Shape], types: Mapping[str, int], outputs: set[str]
) -> dict[str, int]:
    """Bytes an element, of the values of a quantised network: 1 for bytes, and 0 for the floats between them, which
    the runtime never makes, because it fuses operators between DequantizeLinear and QuantizeLinear. Only what it
    fuses for certain counts: convolutions, additions and max pooling of unsigned bytes, with constants for scales and
    zero points, whose floats nobody else reads. tensors, types: the constants' shapes and types."""
    makers = {name: node for node in nodes for name in node.outputs if name}
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def one_scale(node: Node, kind: int) -> bool:
        constants = node.inputs[1:]
        return (
            len(constants) == 2
            and all(name in tensors and math.prod(tensors[name]) == 1 for name in constants)
            and types[constants[1]] == kind
        )

    def is_bytes(name: str) -> bool:
        node = makers.get(name)
        return node is not None and node.op == "QuantizeLinear" and one_scale(node, _UINT8)

    def floats_of_bytes(name: str) -> bool:
        node = makers.get(name)
        known = node is not None and node.op == "DequantizeLinear" and one_scale(node, _UINT8)
        return known and name not in outputs and is_bytes(makers[name].inputs[0])

    def constant(name: str, kind: int) -> bool:
        node = makers.get(name)
        return node is not None and node.op == "DequantizeLinear" and types.get(node.inputs[0]) == kind

    def is_fused(node: Node) -> bool:
        activations = node.inputs[: 2 if node.op == "Add" else 1]
        weights = zip(node.inputs[1:], (_INT8, _INT32), strict=False) if node.op == "Conv" else ()
        out = readers.get(node.outputs[0], [])
        return (
            node.op in ("Conv", "Add", "MaxPool")
            and len(out) == len(node.outputs) == 1
            and node.outputs[0] not in outputs
            and is_bytes(out[0].outputs[0])
            and all(floats_of_bytes(name) for name in activations)
            and all(constant(name, kind) for name, kind in weights)
        )

    whole = {id(node) for node in nodes if node.inputs and node.outputs and is_fused(node)}
    sides = {node.outputs[0]: 1 for node in nodes if node.outputs and is_bytes(node.outputs[0])}
    for node in nodes:
        if id(node) in whole:
            sides[node.outputs[0]] = 0
        elif node.op == "DequantizeLinear" and all(id(each) in whole for each in readers.get(node.outputs[0], [])):
            sides[node.outputs[0]] = 4 if node.outputs[0] in outputs else 0
    return sides


def _check_limits(total: int, work: int) -> None:
    if total > MAX_BYTES or work > MAX_WORK:
        what = f"{total / 1e9:.1f} GB at once" if total > MAX_BYTES else f"{work:.1g} multiplications"
        raise _refused(f"it takes {what} for an image")


def _work(node: Node, shapes: Mapping[str, Shape]) -> int:
    """Multiplications of an operator, about."""
    size = sum(math.prod(shapes.get(name, ())) for name in node.outputs)
    inputs = [shapes.get(name, ()) for name in node.inputs]
    if node.op in ("Conv", "ConvTranspose", "QLinearConv"):
        weight = inputs[3 if node.op == "QLinearConv" else 1]
        if node.op == "ConvTranspose":
            return math.prod(inputs[0]) * math.prod(weight[1:])
        return size * math.prod(weight[1:])
    if node.op in ("MatMul", "QLinearMatMul", "Gemm") and inputs[0]:
        return size * inputs[0][0 if node.op == "Gemm" and node.ints.get("transA", [0]) != [0] else -1]
    if node.op in ("MaxPool", "AveragePool"):
        return size * math.prod(max(side, 1) for side in node.ints.get("kernel_shape", []))
    if node.op == "LRN":
        return size * max(node.ints.get("size", [1])[0], 1)
    return size
