"""Exports a model of timm to an ONNX file that patchbank takes as a backbone. Needs the extra `torch`."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.arrays import FloatArray
from patchbank.errors import BackboneError, MissingExtraError
from patchbank.util.files import atomic_write

# The exporter generalises from the first; the others show that it did.
_EXAMPLE = (2, 3, 224, 256)
_CHECKED_SIZES = ((224, 256), (288, 224))
_TOLERANCE = 1e-3
_MIDDLE_STRIDES = (8, 16)  # neither generic nor biased to classes, as in the paper


def export(name: str, path: str | Path, pretrained: bool = True) -> Path:
    """Writes timm's model `name`, cut into its feature maps, as one ONNX file with `patchbank.*` metadata.

    Layers are the model's own feature stages, named as in timm (`layer1`, `blocks.2`). The file is run by ONNX Runtime
    and compared with PyTorch before it is written. Raises MissingExtraError without the extra `torch`, BackboneError
    where timm has no such model or it cannot be exported.
    """
    try:
        import timm
        import torch

        importlib.import_module("onnxscript")  # torch's exporter imports it by itself, but late
    except ImportError as error:
        raise MissingExtraError(
            f"exporting needs PyTorch and timm, which are not installed ({error.name}); "
            "run: pip install 'patchbank[torch]'"
        ) from error
    try:
        model = timm.create_model(name, pretrained=pretrained, features_only=True).eval()
    except Exception as error:  # timm raises many kinds, for unknown names, missing features and failed downloads
        raise BackboneError(f"timm cannot make a feature extractor of {name!r}: {error}") from error
    layers = [str(layer) for layer in model.feature_info.module_name()]
    onnx_bytes = _finish(_to_onnx(torch, model, layers), _metadata(model))
    _check(torch, model, onnx_bytes, layers)
    with atomic_write(path) as file:
        file.write(onnx_bytes)
    return Path(path)


def _to_onnx(torch: Any, model: Any, layers: list[str]) -> Any:
    """PyTorch's exporter, with free batch, height and width."""
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    buffer = io.BytesIO()
    try:
        program = torch.onnx.export(
            model,
            (torch.randn(_EXAMPLE),),
            input_names=["image"],
            output_names=layers,
            dynamic_shapes=(free,),
            dynamo=True,
            verbose=False,
        )
        program.save(buffer)
    except Exception as error:  # the exporter's errors have no common base class
        raise BackboneError(f"PyTorch cannot export this model to ONNX: {error}") from error
    import onnx

    return onnx.load_model_from_string(buffer.getvalue())


def _metadata(model: Any) -> dict[str, str]:
    """Input statistics (0..1 in timm, 0..255 here), licence, and the layers used by default."""
    about = getattr(model, "pretrained_cfg", None) or model.default_cfg
    scale = {key: ",".join(f"{255 * value:.6g}" for value in about[key]) for key in ("mean", "std")}
    stages = zip(model.feature_info.module_name(), model.feature_info.reduction(), strict=True)
    return {
        "patchbank.mean": scale["mean"],
        "patchbank.std": scale["std"],
        "patchbank.licence": str(about.get("license") or "unknown"),
        "patchbank.layers": ",".join(layer for layer, stride in stages if stride in _MIDDLE_STRIDES),
    }


def _finish(model: Any, metadata: dict[str, str]) -> bytes:
    """Replaces what the exporter says about itself (paths of this machine) by our metadata."""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _check(torch: Any, model: Any, onnx: bytes, layers: list[str]) -> None:
    from patchbank.backbones.session import make_session
    from patchbank.config import Runtime

    session = make_session(onnx, Runtime())
    for height, width in _CHECKED_SIZES:
        image: FloatArray = np.random.default_rng(0).standard_normal((1, 3, height, width), dtype=np.float32)
        with torch.no_grad():
            expected = [values.numpy() for values in model(torch.from_numpy(image))]
        for layer, ours, theirs in zip(layers, session.run(layers, {"image": image}), expected, strict=True):
            if ours.shape != theirs.shape or np.abs(ours - theirs).max() > _TOLERANCE * np.abs(theirs).max():
                raise BackboneError(
                    f"layer {layer} of the exported network differs from PyTorch's; nothing was written"
                )
