"""Tokens become feature maps inside the graph: nothing behind the network knows of them.

A transformer returns tokens (B, p + h w, C): p for the class and registers, then one for each patch of the image, row
by row. The graph gets a few operators more. They drop the p, arrange the others by the input's own size, and scale each
to length 1: what such networks have learned is the tokens' directions, not their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import BackboneError

MOST_PREFIX_TOKENS = 64  # that are believed where the network takes one size only
_OLDEST = 10  # version of operators: earlier ones say what to cut in another way
_TO_THE_END = np.iinfo(np.int64).max


class Tokens(NamedTuple):
    """How tokens lie on the image: `stride` pixels between neighbours, behind `prefix` tokens that are no patches."""

    stride: int
    prefix: int


def tokens_of(counts: Sequence[tuple[tuple[int, int], int]], prefix: int | None = None) -> Tokens | None:
    """The arrangement that explains how many tokens there are for images of one or two sizes; None if there is none.

    counts: ((height, width), tokens) for each size. prefix: where the file says it. Among several, the one is taken
    whose patches leave nothing of the images over, then the one of the smallest patches.
    """
    found = []
    for stride in range(1, min(min(size) for size, _ in counts) + 1):
        left = {count - (height // stride) * (width // stride) for (height, width), count in counts}
        if len(left) != 1 or min(left) < 0 or (prefix is not None and left != {prefix}):
            continue
        if len(counts) == 1 and min(left) > MOST_PREFIX_TOKENS:
            continue
        rest = any(side % stride for size, _ in counts for side in size)
        found.append((rest, stride, min(left)))
    return Tokens(*min(found)[1:]) if found else None


def to_maps(model: Any, name: str, image: str, tokens: Tokens | None, normalise: bool) -> None:
    """Changes the value `name` of an ONNX model from tokens to maps (B, C, h, w); without `tokens`, it is a map
    already. image: the network's input. normalise: scales each position's vector to length 1 (0 stays 0).

    Raises BackboneError for a file of operators that are too old.
    """
    from onnx import helper, numpy_helper

    graph, used = model.graph, _names(model.graph)
    version = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    if version < _OLDEST:
        raise BackboneError(f"tokens need operators of version {_OLDEST} or later; the file has version {version}")
    nodes: list[Any] = []

    def value(what: str) -> str:
        return _free(f"{name}.{what}", used)

    def numbers(what: str, values: Sequence[int]) -> str:
        constant = value(what)
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), constant))
        return constant

    def add(what: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        made = output or value(what.lower())
        nodes.append(helper.make_node(what, list(inputs), [made], name=value("node"), **attributes))
        return made

    x = value("tokens" if tokens else "map")
    for node in graph.node:
        _rename(node, name, x)
    if tokens and tokens.prefix:
        x = add("Slice", [x, numbers("first", [tokens.prefix]), numbers("last", [_TO_THE_END]), numbers("axis", [1])])
    if normalise:
        x = add("LpNormalization", [x], None if tokens else name, axis=-1 if tokens else 1, p=2)  # (B, h w, C)
    if tokens:
        x = add("Transpose", [x], perm=[0, 2, 1])  # (B, h w, C) -> (B, C, h w)
        sides = add("Gather", [add("Shape", [image]), numbers("sides", [2, 3])], axis=0)
        grid = add("Div", [sides, numbers("stride", [tokens.stride])])
        shape = add("Concat", [numbers("same", [0, 0]), grid], axis=0)  # 0: as it was
        add("Reshape", [x, shape], name)  # (B, C, h w) -> (B, C, h, w)
    graph.node.extend(nodes)


def _names(graph: Any) -> set[str]:
    """All names of a graph, and of the graphs in it."""
    names = {each.name for each in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                names |= _names(inner)
    return names


def _free(name: str, used: set[str]) -> str:
    """The name, or one like it that nothing has yet; it is taken from now on."""
    free, number = name, 1
    while free in used:
        number += 1
        free = f"{name}.{number}"
    used.add(free)
    return free


def _rename(node: Any, old: str, new: str) -> None:
    """Lets a node, with the graphs in it, write and read a value by another name."""
    for names in (node.input, node.output):
        for place, name in enumerate(names):
            if name == old:
                names[place] = new
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                _rename(inner, old, new)
            for output in graph.output:
                if output.name == old:
                    output.name = new


def are_tokens(values: Array) -> bool:
    """Says whether a network's output may be tokens of one image: (1, n, C) float32."""
    return values.ndim == 3 and len(values) == 1 and values.dtype == np.float32
