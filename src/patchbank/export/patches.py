"""From feature maps to one vector a patch, as operators of a graph. What `features/embedding.py` does with NumPy; its
matrices are constants here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patchbank.arrays import IntArray
from patchbank.config import Config
from patchbank.export.graph import Graph
from patchbank.features.embedding import bilinear_matrix, mean_and_align, patch_grid, pool_windows

Shape = tuple[int, int, int]  # of a map: channels, rows, columns


def embedded(g: Graph, maps: Sequence[str], shapes: Sequence[Shape], config: Config) -> tuple[str, tuple[int, int]]:
    """Feature maps, one (1, C_l, H_l, W_l) a layer, -> (P, D) patch features of the whole grid, and the grid."""
    grid = patch_grid(shapes[0][1:], config.patch_size, config.patch_stride)
    embedding = _mean if config.embedding == "mean" else _reference
    vectors = embedding(g, maps, shapes, grid, config)  # (D, P)
    return g.node("Transpose", vectors, perm=[1, 0]), grid


def _mean(g: Graph, maps: Sequence[str], shapes: Sequence[Shape], grid: tuple[int, int], config: Config) -> str:
    layers = []
    for m, (channels, *sides) in zip(maps, shapes, strict=True):
        rows, columns = (
            mean_and_align(side, config.patch_size, config.patch_stride, wanted).dense()
            for side, wanted in zip(sides, grid, strict=True)
        )
        wide = g.node("MatMul", g.shaped(m, channels, *sides), columns.T)  # (C, H, W) @ (W, w)
        tall = g.node("MatMul", rows, wide)  # (h, H) @ (C, H, w) -> (C, h, w)
        layers.append(g.shaped(tall, channels, grid[0] * grid[1]))
    return g.node("Concat", *layers, axis=0)


def _reference(g: Graph, maps: Sequence[str], shapes: Sequence[Shape], grid: tuple[int, int], config: Config) -> str:
    layers = []
    for m, (channels, *sides) in zip(maps, shapes, strict=True):
        own = patch_grid(sides, config.patch_size, config.patch_stride)
        patches = _unfolded(g, m, channels, config.patch_size, config.patch_stride)  # (1, C p p, h_l, w_l)
        flat = g.shaped(patches, channels * config.patch_size**2, own[0] * own[1])
        layer = _pooled(g, flat, channels * config.patch_size**2, config.pretrain_embed_dim)  # (E, h_l w_l)
        layers.append(_aligned(g, layer, config.pretrain_embed_dim, own, grid))  # (E, P)
    together = g.node("Concat", *layers, axis=0)
    return _pooled(g, together, len(layers) * config.pretrain_embed_dim, config.target_embed_dim)


def _unfolded(g: Graph, m: str, channels: int, patch_size: int, patch_stride: int) -> str:
    """Each position's zero-padded neighbourhood, as channels: a convolution of each channel with p p kernels that hold
    a single 1."""
    if patch_size == patch_stride == 1:
        return m
    one_each = np.eye(patch_size**2, dtype=np.float32).reshape(-1, 1, patch_size, patch_size)
    padding = (patch_size - 1) // 2
    return g.node(
        "Conv",
        m,
        np.tile(one_each, (channels, 1, 1, 1)),
        kernel_shape=[patch_size, patch_size],
        strides=[patch_stride, patch_stride],
        pads=[padding] * 4,
        group=channels,
    )


def _pooled(g: Graph, x: str, n: int, size: int) -> str:
    """(n, N) -> (size, N): `adaptive_average_pool` along the first axis."""
    if n == size:
        return x
    if n % size == 0:
        return g.reduced("ReduceMean", g.shaped(x, size, n // size, -1), [1], keepdims=False)
    start, stop = pool_windows(n, size)
    width = stop - start
    total = ""
    for offset in range(int(width.max())):
        places: IntArray = np.minimum(start + offset, n - 1).astype(np.int32)
        taken = g.node("Gather", x, places, axis=0)
        inside = (offset < width).astype(np.float32)[:, None]
        taken = taken if inside.all() else g.node("Mul", taken, inside)
        total = g.node("Add", total, taken) if total else taken
    return g.node("Div", total, width.astype(np.float32)[:, None])


def _aligned(g: Graph, x: str, dims: int, own: tuple[int, int], grid: tuple[int, int]) -> str:
    """(E, h_l w_l) -> (E, h w), bilinearly."""
    if own != grid:
        wide = g.node("MatMul", g.shaped(x, dims, *own), bilinear_matrix(own[1], grid[1]).T)
        x = g.node("MatMul", bilinear_matrix(own[0], grid[0]), wide)
    return g.shaped(x, dims, grid[0] * grid[1])
