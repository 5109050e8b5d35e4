"""Writes the golden arrays that the tests compare with, from PyTorch, timm and torchvision. Everyday tests need none of them.

    python -m venv golden && golden/bin/pip install torch timm torchvision
    golden/bin/python tools/make_golden_features.py [reference|features|checkpoints ...]

Weights and inputs come from NumPy generators seeded by name (`seeded_state` here; the tests repeat it), so that only small samples of
the results are stored:

- tests/golden/reference_embedding.npz: the `reference` embedding of seeded feature maps
- tests/backbones/golden/features.npz: layers of timm's and torchvision's networks
- tests/backbones/golden/*.pth: tiny checkpoints in both of torch's formats, and their values in checkpoints.npz
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

ROOT = Path(__file__).parents[1]
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


if __name__ == "__main__":
    torch.manual_seed(0)
    makers = {"reference": make_reference}
    for part in sys.argv[1:] or makers:
        makers[part]()
