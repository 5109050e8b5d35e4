"""Exports a model of timm to an ONNX file that patchbank takes as a backbone. Needs the extra `torch`."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.arrays import FloatArray
from patchbank.backbones.checkpoint import read_checkpoint
from patchbank.errors import BackboneError, CheckpointError, MissingExtraError
from patchbank.util.files import atomic_write

_TOLERANCE = 1e-3
_MIDDLE_STRIDES = (8, 16)  # neither generic nor biased to classes, as in the paper
# Sizes in positions of the deepest layer: the exporter generalises from the first; the others show that it did.
_EXAMPLE, *_CHECKED = (7, 8), (9, 7), (14, 14), (5, 20)


@dataclass(frozen=True)
class _Model:
    """A network of timm: `run` gives the maps of `layers`. side: input sides are multiples of it."""

    run: Any
    layers: tuple[str, ...]
    side: int
    metadata: Mapping[str, str]


def export(name: str, path: str | Path, pretrained: bool = True, weights: str | Path | None = None) -> Path:
    """Writes timm's model `name`, cut into its feature maps, as one ONNX file with `patchbank.*` metadata.

    Layers are the model's own feature stages, named as in timm (`layer1`, `blocks.2`); of a vision transformer, whose
    positions all have one stride, all blocks behind its last norm, of which the last is used by default. weights: a
    checkpoint of that model (.safetensors, or PyTorch's .pth, which is read without running anything) in place of
    timm's download. The file is run by ONNX Runtime and compared with PyTorch before it is written. Raises
    MissingExtraError without the extra `torch`, CheckpointError for a file that holds no weights, BackboneError where
    timm has no such model, the weights are not this model's, or it cannot be exported.
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
    state = None if weights is None else _read_weights(torch, Path(weights))
    with redirect_stdout(io.StringIO()):  # timm prints what it leaves out of a checkpoint
        model = _make(timm, torch, name, pretrained, state)
    onnx_bytes = _finish(_to_onnx(torch, model), model.metadata)
    _check(torch, model, onnx_bytes)
    with atomic_write(path) as file:
        file.write(onnx_bytes)
    return Path(path)


def _read_weights(torch: Any, path: Path) -> dict[str, Any]:
    """Tensors by name, from a file that nobody has to trust."""
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except Exception as error:  # of its own kind, or the system's
            raise CheckpointError(f"{path}: expected a safetensors file: {error}") from error
    return {name: torch.from_numpy(values.copy()) for name, values in read_checkpoint(path).items()}


def _make(timm: Any, torch: Any, name: str, pretrained: bool, state: dict[str, Any] | None) -> _Model:
    """The network with its weights: `state`, or timm's, or, without `pretrained`, random ones."""
    given: dict[str, Any] = {"pretrained": pretrained or state is not None}
    if state is not None:
        given["pretrained_cfg_overlay"] = {"state_dict": state}
    try:
        bare = timm.create_model(name, pretrained=False, features_only=True)
        strides = bare.feature_info.reduction()
        if len(strides) > 1 and len(set(strides)) == 1:  # no stages: a transformer, block after block
            whole = timm.create_model(name, **given, num_classes=0, dynamic_img_size=True)
            return _transformer(torch, whole.eval(), bare.feature_info.module_name()[0].split(".")[0], strides[0])
        model = timm.create_model(name, **given, features_only=True).eval()
    except Exception as error:  # timm raises many kinds, for unknown names, missing features and failed downloads
        raise BackboneError(f"timm cannot make a feature extractor of {name!r}: {error}") from error
    layers = tuple(str(layer) for layer in model.feature_info.module_name())
    middle = [layer for layer, stride in zip(layers, strides, strict=True) if stride in _MIDDLE_STRIDES]
    return _Model(model, layers, max(strides), {**_about(model), "patchbank.layers": ",".join(middle)})


def _transformer(torch: Any, whole: Any, blocks: str, stride: int) -> _Model:
    """A vision transformer: each block's patches behind the last norm, as DINO's own code hands them out."""
    places = list(range(len(getattr(whole, blocks))))

    class Blocks(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, image: Any) -> Any:
            return self.whole.forward_intermediates(
                image, indices=places, norm=True, output_fmt="NCHW", intermediates_only=True
            )

    layers = tuple(f"{blocks}.{place}" for place in places)
    metadata = {
        "patchbank.layers": layers[-1],
        "patchbank.embedding": "mean",
        "patchbank.normalise": "l2",
        "patchbank.patch_size": "1",
        "patchbank.side_multiple": str(stride),
    }
    return _Model(Blocks().eval(), layers, stride, {**_about(whole), **metadata})


def _about(model: Any) -> dict[str, str]:
    """Input statistics (0..1 in timm, 0..255 here) and licence."""
    about = getattr(model, "pretrained_cfg", None) or model.default_cfg
    scale = {key: ",".join(f"{255 * value:.6g}" for value in about[key]) for key in ("mean", "std")}
    return {
        "patchbank.mean": scale["mean"],
        "patchbank.std": scale["std"],
        "patchbank.licence": str(about.get("license") or "unknown"),
    }


def _to_onnx(torch: Any, model: _Model) -> Any:
    """PyTorch's exporter, with free batch, height and width."""
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    buffer = io.BytesIO()
    try:
        with _free_sizes_as_floats(torch):
            program = torch.onnx.export(
                model.run,
                (torch.randn(2, 3, *_sides(model, _EXAMPLE)),),
                input_names=["image"],
                output_names=model.layers,
                dynamic_shapes=(free,),
                dynamo=True,
                verbose=False,
            )
        program.save(buffer)
    except Exception as error:  # the exporter's errors have no common base class
        raise BackboneError(f"PyTorch cannot export this model to ONNX: {error}") from error
    import onnx

    return onnx.load_model_from_string(buffer.getvalue())


@contextmanager
def _free_sizes_as_floats(torch: Any) -> Iterator[None]:
    """While it lasts, timm's rotary position embeddings (DINOv3's) do not turn the example's size into a constant:
    Python's float() would do so with a free size, torch.sym_float() does not."""
    module: Any = importlib.import_module("timm.layers.pos_embed_sincos")
    module.float = torch.sym_float
    try:
        yield
    finally:
        del module.float


def _sides(model: _Model, positions: Sequence[int]) -> tuple[int, ...]:
    return tuple(model.side * count for count in positions)


def _finish(model: Any, metadata: Mapping[str, str]) -> bytes:
    """Replaces what the exporter says about itself (paths of this machine) by our metadata."""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _check(torch: Any, model: _Model, onnx: bytes) -> None:
    from patchbank.backbones.session import make_session
    from patchbank.config import Runtime

    session = make_session(onnx, Runtime())
    for positions in (_EXAMPLE, *_CHECKED):
        sides = _sides(model, positions)
        image: FloatArray = np.random.default_rng(0).standard_normal((1, 3, *sides), dtype=np.float32)
        with torch.no_grad():
            expected = [values.numpy() for values in model.run(torch.from_numpy(image))]
        for layer, ours, theirs in zip(
            model.layers, session.run(model.layers, {"image": image}), expected, strict=True
        ):
            if ours.shape != theirs.shape or np.abs(ours - theirs).max() > _TOLERANCE * np.abs(theirs).max():
                raise BackboneError(
                    f"layer {layer} of the exported network differs from PyTorch's on an image of "
                    f"{sides[0]}x{sides[1]} pixels; nothing was written"
                )
