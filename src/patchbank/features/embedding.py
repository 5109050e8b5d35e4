"""From a backbone's feature maps to one vector a patch.

Both embeddings are linear, and everything they do along the height is independent of what they do along the width.
`mean` therefore is, for each layer, two small matrices around the map: neighbourhood mean and bilinear alignment
multiplied out beforehand. `reference` follows the reference implementation step by step, but pools before it aligns
(both are linear and act on different axes, so the order does not matter), which moves fewer numbers.

The first layer's patch grid is the grid of the result; every deeper layer is aligned to it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from patchbank.arrays import BoolArray, DoubleArray, FloatArray, IndexArray, IntArray
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.native.sums import Band, weighted
from patchbank.util.parallel import spread
from patchbank.util.wording import brief

_ROWS = 24  # rows of patches that a thread embeds together
_Scalar = TypeVar("_Scalar", bound=np.generic)


class ImageStatistics(NamedTuple):
    """brightness: median grey level, 0..255. sharpness: mean gradient over that of the image reduced four times (1/4
    for a smooth ramp or an empty image, 4 for white noise). height, width: pixels of the original image."""

    brightness: float
    sharpness: float
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Patches:
    """One image's patches that count: all of its grid's, but for those outside the region of interest.

    features: (n, D) float32. place: (n,) int32, ascending, row * w + column in the grid. grid: (h, w). input_size: (H',
    W') of the resized image. look: the whole image's brightness, sharpness and size.
    """

    features: FloatArray
    place: IntArray
    grid: tuple[int, int]
    input_size: tuple[int, int]
    look: ImageStatistics

    __repr__ = brief

    def on_grid(self, values: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """(n,) values of the patches -> (h, w), zeros where no patch counts."""
        full = np.zeros(self.grid[0] * self.grid[1], values.dtype)
        full[self.place] = values
        return full.reshape(self.grid)  # (P,) -> (h, w)

    @property
    def counted(self) -> BoolArray | None:
        """(h, w) bool, where a patch counts; None where all do."""
        if len(self.place) == self.grid[0] * self.grid[1]:
            return None
        return self.on_grid(np.ones(len(self.place), np.bool_))


@dataclass(eq=False)
class CalibrationPatches:
    """One training image's patches, kept to score it later. image: its number."""

    image: int
    patches: Patches


def embed(maps: Sequence[FloatArray], config: Config) -> FloatArray:
    """Feature maps, one (B, C_l, H_l, W_l) float32 for each layer -> patch features (B, h, w, D) float32.

    D is the sum of the layers' channels for the `mean` embedding, and `target_embed_dim` for `reference`.
    (h, w) is the first layer's patch grid: H_0 x W_0 for odd patch sizes and stride 1.
    """
    if not config.patch_size:
        raise ConfigError("patch_size: expected at least 1 (resolve 0 with the backbone first); got 0")
    if config.embedding == "mean":
        return mean_embedding(maps, config.patch_size, config.patch_stride)
    if config.embedding == "reference":
        return reference_embedding(
            maps, config.patch_size, config.patch_stride, config.pretrain_embed_dim, config.target_embed_dim
        )
    raise ConfigError(
        f"embedding: expected 'mean' or 'reference' (resolve 'auto' with the backbone first); got {config.embedding!r}"
    )


def mean_embedding(maps: Sequence[FloatArray], patch_size: int, patch_stride: int) -> FloatArray:
    """Locally averaged features of each layer, aligned and concatenated (paper's Eq. 1-3, f_agg = mean).

    Positions beyond the border count as zeros, as in the reference implementation. Shapes as in `embed`.
    """
    grid = patch_grid(maps[0].shape[2:], patch_size, patch_stride)
    features = np.empty((len(maps[0]), *grid, sum(m.shape[1] for m in maps)), np.float32)

    def embed_rows(block: tuple[int, int]) -> None:
        image, start = block
        first = 0
        for m in maps:
            channels, width = m.shape[1], m.shape[3]
            down, used = mean_and_align(m.shape[2], patch_size, patch_stride, grid[0]).rows(start, start + _ROWS)
            across = mean_and_align(width, patch_size, patch_stride, grid[1])
            last = np.ascontiguousarray(m[image, :, used].transpose(1, 2, 0))  # (C, b, W) -> (b, W, C)
            tall = weighted(down, last.reshape(1, len(last), -1))  # (r, b) . (b, W*C) -> (r, W*C)
            tall = tall.reshape(len(down), width, channels)
            weighted(across, tall, features[image, start : start + _ROWS], first)  # (w, W) . (r, W, C) -> (r, w, C)
            first += channels

    spread(embed_rows, [(image, start) for image in range(len(features)) for start in range(0, grid[0], _ROWS)])
    return features


def reference_embedding(
    maps: Sequence[FloatArray], patch_size: int, patch_stride: int, pretrain_embed_dim: int, target_embed_dim: int
) -> FloatArray:
    """The reference implementation's embedding (PatchMaker, Preprocessing, Aggregator). Shapes as in `embed`.

    Each neighbourhood, zero-padded and flattened as (C, p, p), is adaptively average-pooled to `pretrain_embed_dim`;
    deeper layers are aligned bilinearly; the layers' vectors, stacked, are adaptively average-pooled to
    `target_embed_dim`.
    """
    grid = patch_grid(maps[0].shape[2:], patch_size, patch_stride)
    pooled = []
    for m in maps:
        patches = unfold(m, patch_size, patch_stride)  # (B, h_l, w_l, C*p*p)
        layer = adaptive_average_pool(patches, pretrain_embed_dim)  # (B, h_l, w_l, E)
        pooled.append(_align(layer, grid))  # (B, h, w, E)
    return adaptive_average_pool(np.concatenate(pooled, axis=-1), target_embed_dim)  # (B, h, w, L*E) -> (B, h, w, D)


def patch_grid(size: Sequence[int], patch_size: int, patch_stride: int) -> tuple[int, int]:
    """Rows and columns of patches on a feature map of `size` (H, W), padded by (patch_size - 1) // 2 on every side.

    Raises ConfigError if not even one patch fits.
    """
    padding = (patch_size - 1) // 2
    rows, columns = ((side + 2 * padding - patch_size) // patch_stride + 1 for side in size)
    if rows < 1 or columns < 1:
        raise ConfigError(
            f"patch_size {patch_size} does not fit a feature map of {size[0]}x{size[1]}; "
            "use larger images or smaller patches"
        )
    return rows, columns


def unfold(m: FloatArray, patch_size: int, patch_stride: int) -> FloatArray:
    """(B, C, H, W) -> (B, h, w, C*p*p): each position's zero-padded neighbourhood, flattened in the order (C, p, p)."""
    batch, channels, height, width = m.shape
    rows, columns = patch_grid((height, width), patch_size, patch_stride)
    padding = (patch_size - 1) // 2
    padded = np.pad(m, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (patch_size, patch_size), axis=(2, 3)
    )  # (B, C, ., ., p, p)
    windows = windows[:, :, ::patch_stride, ::patch_stride][:, :, :rows, :columns]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch, rows, columns, channels * patch_size**2)


def adaptive_average_pool(x: FloatArray, size: int) -> FloatArray:
    """(..., n) -> (..., size): output j averages x[floor(j n / size) : ceil((j + 1) n / size)], as torch's
    adaptive_avg_pool1d."""
    n = x.shape[-1]
    if n % size == 0:
        return x.reshape(*x.shape[:-1], size, n // size).mean(axis=-1)  # (..., n) -> (..., size, n/size)
    start, stop = pool_windows(n, size)
    pooled: FloatArray = np.zeros((*x.shape[:-1], size), np.float32)
    width = stop - start
    for offset in range(int(width.max())):
        inside = offset < width
        pooled += np.take(x, np.minimum(start + offset, n - 1), axis=-1) * inside.astype(np.float32)
    pooled /= width.astype(np.float32)
    return pooled


@functools.lru_cache(maxsize=64)
def adaptive_averages(n: int, size: int) -> Band:
    """(size, n): `adaptive_average_pool` along one axis."""
    start, stop = pool_windows(n, size)
    places = np.arange(n)
    inside = (places >= start[:, None]) & (places < stop[:, None])
    return Band.of(inside / (stop - start)[:, None])


def bilinear_matrix(size: int, target: int) -> FloatArray:
    """(target, size): bilinear interpolation along one axis, half-pixel centres, no corner alignment, no
    antialiasing."""
    return interpolated(np.eye(size), target).astype(np.float32)


def interpolated(matrix: DoubleArray, target: int) -> DoubleArray:
    """(size, n) -> (target, n): a matrix along one axis, then bilinear interpolation, as `bilinear_matrix` does it."""
    size = len(matrix)
    position = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    left = np.floor(position).astype(np.int64)
    share = (position - left)[:, None]
    result: DoubleArray = (1 - share) * matrix[left] + share * matrix[np.minimum(left + 1, size - 1)]
    return result


def neighbourhood_mean_matrix(size: int, patch_size: int, patch_stride: int) -> DoubleArray:
    """(patches, size): the mean of each patch's neighbourhood along one axis; positions beyond the border count as
    zeros."""
    padding = (patch_size - 1) // 2
    patches = (size + 2 * padding - patch_size) // patch_stride + 1
    matrix = np.zeros((patches, size))
    for patch in range(patches):
        first = patch * patch_stride - padding
        matrix[patch, max(first, 0) : first + patch_size] = 1 / patch_size
    return matrix


@functools.lru_cache(maxsize=64)
def mean_and_align(size: int, patch_size: int, patch_stride: int, target: int) -> Band:
    return Band.of(interpolated(neighbourhood_mean_matrix(size, patch_size, patch_stride), target))


@functools.lru_cache(maxsize=64)
def _interpolation(size: int, target: int) -> Band:
    return Band.of(bilinear_matrix(size, target))


@functools.lru_cache(maxsize=64)
def pool_windows(n: int, size: int) -> tuple[IndexArray, IndexArray]:
    j = np.arange(size, dtype=np.int64)
    return j * n // size, -((-(j + 1) * n) // size)


def _align(layer: FloatArray, grid: tuple[int, int]) -> FloatArray:
    """(B, h_l, w_l, E) -> (B, h, w, E), bilinearly."""
    batch, height, width, dims = layer.shape
    if (height, width) == grid:
        return layer
    down, across = _interpolation(height, grid[0]), _interpolation(width, grid[1])
    tall = weighted(down, layer.reshape(batch, height, width * dims))  # (B, h, w_l*E)
    aligned = weighted(across, tall.reshape(batch * grid[0], width, dims))  # (B*h, w, E)
    return aligned.reshape(batch, *grid, dims)
