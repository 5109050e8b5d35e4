"""Any network in an ONNX file: its layers are its outputs, or any other values inside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.backbones.base import LARGEST_STATISTIC, SMALLEST_STD, BackboneInfo, Layer
from patchbank.backbones.onnx_safety import check_plain, read_model
from patchbank.backbones.session import check_input, make_session, names_as_text, read_onnx
from patchbank.backbones.zoo import IMAGENET_MEAN, IMAGENET_STD, Triple
from patchbank.config import Runtime
from patchbank.errors import BackboneError

METADATA_PREFIX = "patchbank."
# The reference embedding averages wide vectors down to 1024 numbers; a layer set this narrow needs no such thing.
MEAN_EMBEDDING_CHANNELS = 512
# Multiples of 7, 8, 14, 16 and 32, so that patch embeddings take them too.
_PROBE_SIZES = (224, 448)
_NAMES_SHOWN = 30
_LONGEST_LICENCE = 10_000  # characters


def prepare(path: str | Path, layers: tuple[str, ...], *, trusted: bool = False) -> tuple[bytes, BackboneInfo]:
    """The ONNX file, cut down to the wanted layers, and its description.

    layers: names of outputs or of values inside the graph; empty = those that the file's metadata names, or all outputs
    that are feature maps. Channels and strides are found by running the network on probe images. The file's metadata
    (`metadata_props`) may say `patchbank.mean` and `patchbank.std` (three comma-separated numbers, RGB on the 0..255
    scale; ImageNet's by default), `patchbank.layers` (comma-separated), `patchbank.licence`, `patchbank.embedding`
    ("mean" or "reference"). trusted: the network may have any operators, and cost what it wants. Raises BackboneError.
    """
    onnx = read_onnx(path)
    try:
        read_model(onnx)
        model = _parse(onnx)
        stated = _metadata(model)
        wanted = layers or tuple(name.strip() for name in stated.get("layers", "").split(",") if name.strip())
        cut, found = _take(model, wanted, trusted)
        return cut, _info(Path(path).stem, stated, found)
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from error


def list_layers(path: str | Path, *, trusted: bool = False) -> tuple[Layer, ...]:
    """Those of a file's outputs that are feature maps, shallow to deep. trusted: as in `prepare`. Raises
    BackboneError."""
    onnx = read_onnx(path)
    try:
        read_model(onnx)
        return _take(_parse(onnx), (), trusted)[1]
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from error


def _take(model: Any, layers: tuple[str, ...], trusted: bool) -> tuple[bytes, tuple[Layer, ...]]:
    """The graph cut down to these layers (none = the outputs that are feature maps), and their description."""
    values = {value: i for i, node in enumerate(model.graph.node) for value in node.output if value}
    outputs = tuple(output.name for output in model.graph.output)
    for layer in layers:
        if layer not in values:
            raise BackboneError(f"no layer {layer!r}; outputs: {_shown(outputs)}; inside: {_shown(tuple(values))}")
        if layers.count(layer) > 1:
            raise BackboneError(f"layer {layer!r} is given {layers.count(layer)} times; give each layer once")
    names = layers or tuple(name for name in outputs if name in values)
    found = _probe(_vouched(_cut(model, names), trusted), names, skip_others=not layers) if names else []
    if not found:
        raise BackboneError(
            f"none of the outputs ({_shown(outputs)}) is a feature map (B, C, H, W); "
            f"name layers inside: {_shown(tuple(values))}"
        )
    found.sort(key=lambda layer: (layer.stride, values[layer.name]))
    return _cut(model, tuple(layer.name for layer in found)), tuple(found)


def _vouched(onnx: bytes, trusted: bool) -> bytes:
    if not trusted:
        check_plain(onnx, max(_PROBE_SIZES))
    return onnx


def _parse(onnx: bytes) -> Any:
    import onnx as onnx_package

    try:
        return onnx_package.load_model_from_string(onnx)
    except Exception as error:  # protobuf's DecodeError, from a package without type information
        raise BackboneError("expected an ONNX file, got something else or a damaged one") from error


def _cut(model: Any, names: tuple[str, ...]) -> bytes:
    """The ONNX file of what is needed for these values, which become the outputs."""
    import onnx

    needed, nodes = set(names), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= _inputs(node)
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    graph = smaller.graph
    for field in ("node", "initializer", "sparse_initializer", "output", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(i for i in model.graph.initializer if i.name in needed)
    graph.sparse_initializer.extend(i for i in model.graph.sparse_initializer if i.values.name in needed)
    float32 = onnx.TensorProto.FLOAT
    graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, None) for name in names)
    serialized: bytes = smaller.SerializeToString(deterministic=True)
    return serialized


def _inputs(node: Any) -> set[str]:
    """Returns what a node reads, its subgraphs (If, Loop, Scan) included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            names |= {name for inner in graph.node for name in _inputs(inner)}
            names |= {output.name for output in graph.output}
    return names


def _probe(onnx: bytes, names: tuple[str, ...], skip_others: bool) -> list[Layer]:
    """Runs the network on noise of two sizes and tells channels and strides from the shapes."""
    session = make_session(onnx, Runtime())
    with names_as_text():
        check_input(session)
        entry = session.get_inputs()[0]
    fixed = [side if isinstance(side, int) else None for side in entry.shape[2:]]
    small, large = [[side or size for side in fixed] for size in _PROBE_SIZES]
    first = _run(session, entry.name, small, names)
    try:
        second = first if small == large else _run(session, entry.name, large, names)
    except BackboneError:  # a network may take one size only without saying so
        large, second = small, first
    layers = []
    for name, a, b in zip(names, first, second, strict=True):
        try:
            layers.append(Layer(name, int(a.shape[1]), _stride(name, small, a, large, b)))
        except BackboneError:
            if not skip_others:
                raise
    return layers


def _run(session: Any, name: str, sides: Sequence[int], outputs: tuple[str, ...]) -> list[Array]:
    image = np.random.default_rng(0).standard_normal((1, 3, *sides), dtype=np.float32)
    try:
        values: list[Array] = session.run(list(outputs), {name: image})
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise BackboneError(f"fails on an image of {sides[0]}x{sides[1]} pixels: {error}") from error
    return values


def _stride(name: str, small: Sequence[int], a: Array, large: Sequence[int], b: Array) -> int:
    """Input pixels between positions: growth of the image over growth of the map, or their ratio if neither grew."""
    if a.ndim != 4 or a.dtype != np.float32:
        raise BackboneError(f"layer {name!r}: expected a float32 map (B, C, H, W), got {a.dtype} {a.shape}")
    if a.shape[1] != b.shape[1]:
        raise BackboneError(f"layer {name!r}: expected (B, C, H, W), got {a.shape} and {b.shape}: channels last?")
    strides: list[int] = []
    for i in (0, 1):
        pixels, positions = large[i] - small[i], b.shape[2 + i] - a.shape[2 + i]
        if pixels == 0:
            pixels, positions = small[i], a.shape[2 + i]
        if positions <= 0 or a.shape[2:] == (1, 1):
            raise BackboneError(f"layer {name!r} is no feature map: it does not grow with the image, {a.shape}")
        strides.append(round(pixels / positions))
    if strides[0] != strides[1] or strides[0] < 1:
        raise BackboneError(f"layer {name!r}: expected rows and columns of one stride, got {strides}")
    return strides[0]


def _metadata(model: Any) -> dict[str, str]:
    properties = {p.key: p.value for p in model.metadata_props if p.key.startswith(METADATA_PREFIX)}
    return {key.removeprefix(METADATA_PREFIX): value for key, value in properties.items()}


def _info(name: str, stated: dict[str, str], layers: tuple[Layer, ...]) -> BackboneInfo:
    mean = _triple("mean", stated["mean"]) if "mean" in stated else IMAGENET_MEAN
    std = _triple("std", stated["std"]) if "std" in stated else IMAGENET_STD
    if min(std) < SMALLEST_STD:
        raise BackboneError(f"metadata patchbank.std: expected three positive numbers, got {stated['std']!r}")
    wide = sum(layer.channels for layer in layers) > MEAN_EMBEDDING_CHANNELS
    embedding = stated.get("embedding", "reference" if wide else "mean")
    if embedding not in ("mean", "reference"):
        raise BackboneError(f"metadata patchbank.embedding: expected mean or reference, got {embedding!r}")
    return BackboneInfo(name, layers, mean, std, stated.get("licence", "unknown")[:_LONGEST_LICENCE], embedding)


def _triple(key: str, text: str) -> Triple:
    try:
        r, g, b = (float(part) for part in text.split(","))
    except ValueError:
        r = g = b = math.nan
    if not all(abs(value) <= LARGEST_STATISTIC for value in (r, g, b)):  # False for NaN
        raise BackboneError(f"metadata patchbank.{key}: expected three comma-separated numbers, got {text!r}")
    return r, g, b


def _shown(names: tuple[str, ...]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
