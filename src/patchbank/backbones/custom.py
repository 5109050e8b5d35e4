"""Any network in an ONNX file: its layers are its outputs, or any other values inside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.backbones import metadata
from patchbank.backbones.base import LARGEST_SIDE_MULTIPLE, SIDE_MULTIPLE, BackboneInfo, Layer
from patchbank.backbones.metadata import Stated
from patchbank.backbones.onnx_safety import check_plain, read_model
from patchbank.backbones.session import check_input, make_session, names_as_text, read_onnx
from patchbank.backbones.tokens import Tokens, are_tokens, to_maps, tokens_of
from patchbank.config import Runtime
from patchbank.errors import BackboneError

# The reference embedding averages wide vectors down to 1024 numbers; a layer set this narrow needs no such thing.
MEAN_EMBEDDING_CHANNELS = 512
# Multiples of 7, 8, 14, 16 and 32, so that patch embeddings take them too; and others for networks of one size.
_PROBE_SIZES = (224, 448)
_OTHER_SIZES = (384, 256, 336, 512, 518)
_NAMES_SHOWN = 30

_Size = tuple[int, int]
_Measured = tuple[_Size, list[Array]]  # an image's size, and what came out


def prepare(path: str | Path, layers: tuple[str, ...], *, trusted: bool = False) -> tuple[bytes, BackboneInfo]:
    """The ONNX file, cut down to the wanted layers, and its description.

    layers: names of outputs or of values inside the graph; empty = those that the file's metadata names, or all outputs
    that are feature maps, or the last that are tokens (B, p + h w, C), which become maps in the graph (`tokens`).
    Channels and strides are found by running the network on probe images. What the file's metadata (`metadata_props`)
    may say is in `docs/operate/backbones.md`. trusted: the network may have any operators, and cost what it wants.
    Raises BackboneError.
    """
    onnx = read_onnx(path)
    try:
        read_model(onnx)
        model = _parse(onnx)
        stated = metadata.read(model)
        found = _find(model, layers or stated.layers, stated, trusted)
        if not layers and not stated.layers and any(each.tokens for each in found.layers):
            found = replace(found, layers=found.layers[-1:])
        return _serialised(model, found, stated), _info(Path(path).stem, stated, found)
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from error


def list_layers(path: str | Path, *, trusted: bool = False) -> tuple[Layer, ...]:
    """Those of a file's outputs that are feature maps or tokens, shallow to deep. trusted: as in `prepare`. Raises
    BackboneError."""
    onnx = read_onnx(path)
    try:
        read_model(onnx)
        model = _parse(onnx)
        return tuple(each.layer for each in _find(model, (), metadata.read(model), trusted).layers)
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Output:
    """A layer, and how its tokens lie; None where it is a map already."""

    layer: Layer
    tokens: Tokens | None = None


@dataclass(frozen=True)
class _Found:
    """Holds what was learned of a network by running it: its layers, shallow to deep, its input's name, and the sides
    that it fixes. one_size: the only size that it takes, though its file leaves the sides free. reasons:
    why other outputs are no layers."""

    layers: tuple[_Output, ...] = ()
    image: str = ""
    fixed: tuple[int, ...] = ()
    one_size: _Size | None = None
    reasons: tuple[str, ...] = ()


_NOTHING = _Found()


def _find(model: Any, layers: tuple[str, ...], stated: Stated, trusted: bool) -> _Found:
    """These layers (none = the outputs that are feature maps or tokens)."""
    values = {value: i for i, node in enumerate(model.graph.node) for value in node.output if value}
    outputs = tuple(output.name for output in model.graph.output)
    for layer in layers:
        if layer not in values:
            raise BackboneError(f"no layer {layer!r}; outputs: {_shown(outputs)}; inside: {_shown(tuple(values))}")
        if layers.count(layer) > 1:
            raise BackboneError(f"layer {layer!r} is given {layers.count(layer)} times; give each layer once")
    names = layers or tuple(name for name in outputs if name in values)
    cut = _vouched(_bytes(_cut(model, names)), trusted) if names else b""
    found = _probe(cut, names, stated, skip_others=not layers, trusted=trusted) if names else _NOTHING
    if not found.layers:
        raise BackboneError(
            f"none of the outputs ({_shown(outputs)}) is a feature map (B, C, H, W), or tokens (B, p + h w, C)"
            f"{''.join(f'; {reason}' for reason in found.reasons[:1])}; name layers inside: {_shown(tuple(values))}"
        )
    ordered = sorted(found.layers, key=lambda each: (each.layer.stride, values[each.layer.name]))
    return replace(found, layers=tuple(ordered))


def _serialised(model: Any, found: _Found, stated: Stated) -> bytes:
    """The ONNX file of the found layers, each of which is a map (B, C, h, w)."""
    smaller = _cut(model, tuple(each.layer.name for each in found.layers))
    for each in found.layers:
        normalise = each.tokens is not None if stated.normalise is None else stated.normalise
        if each.tokens or normalise:
            to_maps(smaller, each.layer.name, found.image, each.tokens, normalise)
    if found.one_size:  # from now on the file says it
        (entry,) = (entry for entry in smaller.graph.input if entry.name == found.image)
        for dim, side in zip(entry.type.tensor_type.shape.dim[2:], found.one_size, strict=True):
            dim.dim_value = side
    return _bytes(smaller)


def _vouched(onnx: bytes, trusted: bool, side: int = max(_PROBE_SIZES)) -> bytes:
    if not trusted:
        check_plain(onnx, side)
    return onnx


def _parse(onnx: bytes) -> Any:
    import onnx as onnx_package

    try:
        return onnx_package.load_model_from_string(onnx)
    except Exception as error:  # protobuf's DecodeError, from a package without type information
        raise BackboneError("expected an ONNX file, got something else or a damaged one") from error


def _cut(model: Any, names: tuple[str, ...]) -> Any:
    """The ONNX model of what is needed for these values, which become the outputs."""
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
    return smaller


def _bytes(model: Any) -> bytes:
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _inputs(node: Any) -> set[str]:
    """Returns what a node reads, its subgraphs (If, Loop, Scan) included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            names |= {name for inner in graph.node for name in _inputs(inner)}
            names |= {output.name for output in graph.output}
    return names


def _probe(onnx: bytes, names: tuple[str, ...], stated: Stated, *, skip_others: bool, trusted: bool) -> _Found:
    """Runs the network on noise of two sizes and tells channels and strides from the shapes."""
    session = make_session(onnx, Runtime())
    with names_as_text():
        check_input(session)
        entry = session.get_inputs()[0]
    fixed = [side if isinstance(side, int) else None for side in entry.shape[2:]]

    def run(side: int) -> _Measured:
        size = fixed[0] or side, fixed[1] or side
        return size, _run(session, entry.name, size, names)

    measured, one_size = _measured(run, onnx, trusted, free=None in fixed)
    layers, reasons = list[_Output](), list[str]()
    for place, name in enumerate(names):
        try:
            layers.append(_output(name, [(size, values[place]) for size, values in measured], stated))
        except BackboneError as error:
            if not skip_others:
                raise
            reasons.append(str(error))
    known = tuple(side for side in one_size or fixed if side)
    return _Found(tuple(layers), entry.name, known, one_size, tuple(reasons))


def _measured(
    run: Callable[[int], _Measured], onnx: bytes, trusted: bool, *, free: bool
) -> tuple[list[_Measured], _Size | None]:
    """One run, or two of different sizes; and the size of a network that takes one only, without saying so. free: the
    file leaves a side free."""
    measured, first_error = list[_Measured](), None
    for side in _PROBE_SIZES[: 2 if free else 1]:
        try:
            measured.append(run(side))
        except BackboneError as error:
            first_error = first_error or error
    if not free or len(measured) == 2:
        if first_error:
            raise first_error
        return measured, None
    for side in _OTHER_SIZES:
        try:
            _vouched(onnx, trusted, side)
            other = run(side)
        except BackboneError:
            continue
        if measured:  # it takes several sizes, if not all
            return measured, None
        measured.append(other)
    if not measured:
        raise first_error or BackboneError("takes no image")
    return measured, measured[0][0]


def _output(name: str, measured: list[tuple[_Size, Array]], stated: Stated) -> _Output:
    """The layer that these values are. Raises BackboneError where they are none."""
    (size, a), (larger, b) = measured[0], measured[-1]
    if not (are_tokens(a) and are_tokens(b)):
        return _Output(_map(name, size, a, larger, b))
    counts = [(size, values.shape[1]) for size, values in measured]
    tokens = tokens_of(counts, stated.prefix_tokens)
    if tokens is None or a.shape[2] != b.shape[2]:
        found = " and ".join(f"{values.shape} for {size[0]}x{size[1]} pixels" for size, values in measured)
        prefix = "p" if stated.prefix_tokens is None else str(stated.prefix_tokens)
        raise BackboneError(
            f"layer {name!r}: expected a map (B, C, H, W), or tokens (B, {prefix} + h w, C) of a grid of patches; "
            f"got {found}"
        )
    return _Output(Layer(name, int(a.shape[2]), tokens.stride), tokens)


def _run(session: Any, name: str, sides: Sequence[int], outputs: tuple[str, ...]) -> list[Array]:
    image = np.random.default_rng(0).standard_normal((1, 3, *sides), dtype=np.float32)
    try:
        values: list[Array] = session.run(list(outputs), {name: image})
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise BackboneError(f"fails on an image of {sides[0]}x{sides[1]} pixels: {error}") from error
    return values


def _map(name: str, small: _Size, a: Array, large: _Size, b: Array) -> Layer:
    """A layer of maps. Its stride, input pixels between positions, is the growth of the image over that of the map, or
    their ratio if neither grew."""
    if a.ndim != 4 or a.dtype != np.float32:
        raise BackboneError(
            f"layer {name!r}: expected a float32 map (B, C, H, W) or tokens (B, p + h w, C), got {a.dtype} {a.shape}"
        )
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
    return Layer(name, int(a.shape[1]), strides[0])


def _info(name: str, stated: Stated, found: _Found) -> BackboneInfo:
    layers = tuple(each.layer for each in found.layers)
    tokens = [each.tokens is not None for each in found.layers]
    wide = sum(layer.channels for layer in layers) > MEAN_EMBEDDING_CHANNELS and not any(tokens)
    return BackboneInfo(
        name,
        layers,
        stated.mean,
        stated.std,
        stated.licence,
        stated.embedding or ("reference" if wide else "mean"),
        stated.patch_size or (1 if all(tokens) else BackboneInfo.patch_size),
        stated.side_multiple or _side_multiple(found, any(tokens)),
    )


def _side_multiple(found: _Found, tokens: bool) -> int:
    """Returns what the input's sides must be multiples of: patches of tokens must not leave anything over, nor strides
    that the usual step does not fit."""
    multiple = math.lcm(*(each.layer.stride for each in found.layers))
    if not tokens and SIDE_MULTIPLE % multiple == 0:
        return 1
    if any(side % multiple for side in found.fixed):  # the network knows better
        return 1
    if multiple > LARGEST_SIDE_MULTIPLE:
        raise BackboneError(
            f"its layers have strides {[each.layer.stride for each in found.layers]}: images' sides would have to be "
            f"multiples of {multiple}; expected at most {LARGEST_SIDE_MULTIPLE}: choose fewer layers"
        )
    return multiple


def _shown(names: tuple[str, ...]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
