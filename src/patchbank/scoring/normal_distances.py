"""Normal distances: how far normal patches are from the bank, overall and by place. One patch's distance is compared
with them.

The distances are those of left-out images (the bank does not know the patch's own image), so a new good image's are
like them. What is kept is small whatever the number of images: quantiles, overall and in each cell of a coarse grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from patchbank.arrays import BoolArray, FloatArray, IndexArray, IntArray
from patchbank.util.wording import brief

MOST_CELLS = 16  # along an axis
# The shares of the distances that are at most the stored ones: dense where it matters, near the largest.
LEVELS = (
    0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98,
    0.99, 0.995, 0.998, 0.999, 0.9995, 1.0,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Distribution:
    """Normal patches' distances to the bank, by quantiles.

    count: how many distances. levels, quantiles: (L,) float32, ascending; a share `levels[i]` of the distances is at
    most `quantiles[i]`; the first is the smallest distance, the last the largest.
    """

    count: int
    levels: FloatArray
    quantiles: FloatArray

    __repr__ = brief

    def share_at_most(self, distance: float) -> float:
        """Share (0..1) of the distances that are at most `distance`, interpolated between the stored quantiles."""
        after = int(np.searchsorted(self.quantiles, np.float32(distance), side="right"))
        if after == 0 or after == len(self.levels):
            return float(after > 0)
        low, high = self.quantiles[after - 1 : after + 1].astype(np.float64)
        below, above = self.levels[after - 1 : after + 1].astype(np.float64)
        return float(below + (above - below) * (np.float64(distance) - low) / (high - low))

    def quantile(self, level: float) -> float:
        """The distance that a share `level` (0..1) of the distances does not exceed, interpolated."""
        return float(np.interp(np.float32(level), self.levels, self.quantiles))

    @property
    def median(self) -> float:
        """Half of the distances are at most this."""
        return self.quantile(0.5)

    @property
    def largest(self) -> float:
        """No normal patch was farther from the bank."""
        return float(self.quantiles[-1])


@dataclass(frozen=True, eq=False)
class NormalDistances:
    """Distances of left-out normal patches, overall and by place.

    images: how many images they come from. levels: (L,) float32. overall: (L,) float32. cells: (R, C, L) float32, the
    quantiles in each cell of a grid that is laid over images of any size. counts: (R, C) int32, distances in each cell;
    the quantiles of an empty one are 0.
    """

    images: int
    levels: FloatArray
    overall: FloatArray
    cells: FloatArray
    counts: IntArray

    __repr__ = brief

    def __post_init__(self) -> None:
        levels, shape = len(self.levels), self.counts.shape
        if levels < 2 or self.overall.shape != (levels,) or self.cells.shape != (*shape, levels) or 0 in shape:
            got = f"{self.levels.shape}, {self.overall.shape}, {self.cells.shape}, {shape}"
            raise ValueError(f"expected levels (L,), overall (L,), cells (R, C, L), counts (R, C); got {got}")
        if max(shape) > MOST_CELLS or self.counts.min() < 0 or not self.counts.any() or self.images < 1:
            raise ValueError(f"expected at most {MOST_CELLS} x {MOST_CELLS} cells, not all empty, and 1 image or more")
        if self.levels[0] != 0 or self.levels[-1] != 1 or not (np.diff(self.levels) > 0).all():
            raise ValueError("levels: expected ascending shares from 0 to 1")
        for quantiles in (self.overall, self.cells):
            if not (np.isfinite(quantiles).all() and quantiles.min() >= 0 and (np.diff(quantiles) >= 0).all()):
                raise ValueError("expected finite, ascending distances of at least 0")

    def everywhere(self) -> Distribution:
        """The distances of all patches."""
        return Distribution(int(self.counts.sum(dtype=np.int64)), self.levels, self.overall)

    def at(self, x: float, y: float) -> Distribution | None:
        """The distances around a place, x and y in shares (0..1) of the image's width and height; None where no normal
        patch counted."""
        rows, columns = self.counts.shape
        cell = min(max(int(y * rows), 0), rows - 1), min(max(int(x * columns), 0), columns - 1)
        count = int(self.counts[cell])
        return Distribution(count, self.levels, self.cells[cell]) if count else None

    @classmethod
    def of(cls, images: Iterable[tuple[FloatArray, BoolArray | None]]) -> NormalDistances:
        """From each left-out image's patch scores, (h, w) float32, and which of them count, (h, w) or None = all.

        Raises ValueError if there are none.
        """
        maps = list(images)
        if not maps:
            raise ValueError("expected the patch scores of at least one image")
        rows = min(MOST_CELLS, *(scores.shape[0] for scores, _ in maps))
        columns = min(MOST_CELLS, *(scores.shape[1] for scores, _ in maps))
        values, cells = [], []
        for scores, counted in maps:
            (h, w), inside = scores.shape, slice(None) if counted is None else counted.ravel()
            row, column = (2 * np.arange(h) + 1) * rows // (2 * h), (2 * np.arange(w) + 1) * columns // (2 * w)
            cells.append((row[:, None] * columns + column).ravel()[inside])  # (h, w) -> (P,)
            values.append(scores.ravel()[inside])
        return cls._of_values(len(maps), np.concatenate(values), np.concatenate(cells), (rows, columns))

    @classmethod
    def _of_values(cls, images: int, values: FloatArray, cells: IndexArray, shape: tuple[int, int]) -> NormalDistances:
        levels = np.array(LEVELS, np.float32)
        order = np.lexsort((values, cells))  # cell by cell, ascending in each
        counts = np.bincount(cells, minlength=shape[0] * shape[1])
        starts = np.cumsum(counts) - counts
        quantiles = np.zeros((len(counts), len(levels)), np.float32)
        for cell in np.flatnonzero(counts):
            quantiles[cell] = values[order[starts[cell] + _ranks(counts[cell])]]
        overall = np.sort(values)[_ranks(len(values))]
        return cls(images, levels, overall, quantiles.reshape(*shape, -1), counts.reshape(shape).astype(np.int32))


def _ranks(count: int) -> IndexArray:
    """(L,) where the quantiles are among so many ascending values: the smallest that a share of the level does not
    exceed (the inverse of the empirical distribution function)."""
    ranks = np.ceil(np.array(LEVELS) * count - 1e-9).astype(np.int64) - 1  # 1e-9: 0.3 x 10 must not become 4
    return np.clip(ranks, 0, count - 1)
