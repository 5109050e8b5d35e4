"""From a zoo row to an ONNX graph."""

from __future__ import annotations

from typing import cast

from patchbank.backbones.base import BackboneInfo, Layer
from patchbank.backbones.graph import Weights
from patchbank.backbones.zoo import MBStage, ResStage, ZooRow, choose_layers, find


def prepare(name: str, layers: tuple[str, ...], weights: str | None) -> tuple[bytes, BackboneInfo]:
    """The ONNX file and description of a zoo network; `weights`: its checkpoint's path, None = where it is expected."""
    from patchbank.backbones.checkpoint import read_checkpoint
    from patchbank.backbones.weights import locate

    row = find(name)
    chosen = choose_layers(name, row.layers, layers or row.default_layers)
    onnx = build_graph(row, chosen, read_checkpoint(locate(row, weights)))
    return onnx, describe(row, chosen)


def build_graph(row: ZooRow, layers: tuple[Layer, ...], weights: Weights) -> bytes:
    """The ONNX file of a row's network, cut at the deepest of `layers` (same weights, same bytes)."""
    from patchbank.backbones import efficientnet, resnet

    if row.family == "efficientnet_lite":
        return efficientnet.build(row.name, cast("tuple[MBStage, ...]", row.stages), layers, weights)
    return resnet.build(row.name, cast("tuple[ResStage, ...]", row.stages), layers, weights)


def describe(row: ZooRow, layers: tuple[Layer, ...]) -> BackboneInfo:
    """What a model is told about a zoo network of which it uses `layers`."""
    return BackboneInfo(row.name, layers, row.mean, row.std, row.licence, row.embedding)
