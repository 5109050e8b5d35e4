"""Networks: the zoo's, built here from their checkpoints; anyone's, as ONNX files; and their session.

Nothing heavy is imported before a network is loaded.
"""

from __future__ import annotations

from patchbank.backbones.base import Backbone, BackboneInfo, Layer
from patchbank.backbones.zoo import ZooRow, zoo
from patchbank.config import Runtime

__all__ = ["Backbone", "BackboneInfo", "Layer", "ZooRow", "load_backbone", "precision_of", "restore_backbone", "zoo"]


def load_backbone(name_or_path: str, layers: tuple[str, ...] = (), runtime: Runtime | None = None) -> Backbone:
    """A network ready to run: a zoo network by name, or an ONNX file by path (a name that ends in .onnx).

    layers: which features to return, in any order (they come shallow to deep); empty = the network's own choice.
    runtime: device and threads; `runtime.weights` is the path of a zoo network's checkpoint where it is not installed
    or cached; without `runtime.trusted`, an ONNX file is held to `onnx_safety.check_plain`. Raises BackboneError
    (unknown name or layer, unusable device), WeightsNotFoundError, CheckpointError.
    """
    from patchbank.backbones import build, custom
    from patchbank.backbones.session import OnnxBackbone

    runtime = runtime or Runtime()
    if name_or_path.lower().endswith(".onnx"):
        onnx, info = custom.prepare(name_or_path, layers, trusted=runtime.trusted)
    else:
        onnx, info = build.prepare(name_or_path, layers, runtime.weights)
    return OnnxBackbone(onnx, info, runtime)


def restore_backbone(onnx: bytes, info: BackboneInfo, runtime: Runtime | None = None, *, side: int = 384) -> Backbone:
    """A network from a model file: its ONNX bytes, which are not trusted, and what the manifest says about it.

    Without `runtime.trusted`, it is held to `onnx_safety.check_plain` for images of `side` x `side` pixels. Raises
    BackboneError where it is not held to that, or where the bytes are no ONNX file, need other files, or have other
    inputs or outputs than `info` says.
    """
    from patchbank.backbones.onnx_safety import check_plain
    from patchbank.backbones.session import OnnxBackbone

    runtime = runtime or Runtime()
    if not runtime.trusted:
        check_plain(onnx, side)
    return OnnxBackbone(onnx, info, runtime)


def precision_of(backbone: Backbone) -> str:
    """ "int8" for a network in ONNX Runtime that has operators of quantised networks, else "float32"."""
    from patchbank.backbones.onnx_safety import operators
    from patchbank.backbones.session import OnnxBackbone

    if not isinstance(backbone, OnnxBackbone):
        return "float32"
    return "int8" if operators(backbone.to_onnx()) & {"QuantizeLinear", "QLinearConv"} else "float32"
