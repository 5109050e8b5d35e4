"""From patch features to distances, scores and the anomaly map, as operators of a graph. What `search/` and
`scoring/scores.py` do with NumPy."""

from __future__ import annotations

import numpy as np

from patchbank.arrays import BoolArray, FloatArray, IntArray
from patchbank.config import Config
from patchbank.export.graph import Graph
from patchbank.export.preprocessing import linear_matrix
from patchbank.scoring.scores import ExpectedDistance, spreading
from patchbank.search.searcher import Searcher

_GROUP = 128  # vectors among which the nearest is looked for at a time
_NEVER = np.float32(1e30)  # a squared distance that nothing is nearer than: features are less than 1e15
_PRODUCTS = 1 << 21  # of patches and vectors at a time: they stay in the cache


class Bank:
    """A memory bank among a graph's constants, taken from its vectors' mean: distances stay what they are, and products
    of matrices round less. It is filled up to a multiple of _GROUP, with vectors that are never near."""

    def __init__(self, g: Graph, vectors: FloatArray) -> None:
        self.size, self.original = len(vectors), vectors
        self.centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        more = -len(vectors) % _GROUP
        self.vectors = np.pad(vectors - self.centre, ((0, more), (0, 0)))
        self.squares = np.einsum("md,md->m", self.vectors, self.vectors, dtype=np.float32)
        self.squares[self.size :] = _NEVER
        self.name = g.constant(self.vectors)

    def queries(self, g: Graph, features: str) -> str:
        """(n, D) features, taken from the mean too."""
        return g.node("Sub", features, self.centre)


def nearest(g: Graph, queries: str, count: int, bank: Bank, k: int) -> tuple[str, str]:
    """(n, D) queries -> distances to the k nearest vectors of the bank, and the vectors' indices: (n, k) each.

    Products of matrices say who is nearest, and round. Differences say how far it is, and round a thousandth of that.
    """
    twice = g.node("Mul", g.node("Transpose", bank.name, perm=[1, 0]), -2.0)  # (D, M); made once, when it is loaded
    step = max(16, _PRODUCTS // len(bank.vectors))
    found = []
    for start in range(0, count, step):
        block = g.part(queries, 0, start, min(start + step, count)) if count > step else queries
        squared = g.node("Add", g.node("MatMul", block, twice), bank.squares)  # less the query's own square
        found.append(_smallest(g, squared, len(bank.vectors)) if k == 1 else g.top(squared, k, largest=False)[1])
    indices = g.node("Concat", *found, axis=0) if len(found) > 1 else found[0]  # (n, k)
    apart = g.node("Sub", g.node("Gather", bank.name, indices, axis=0), g.shaped(queries, count, 1, -1))  # (n, k, D)
    return _lengths(g, apart, 2), indices


def _smallest(g: Graph, values: str, size: int) -> str:
    """(n, size) values -> (n, 1), where the smallest of each row stands: first in which group, then where in that. A
    runtime's minimum takes a tenth of the time of its ArgMin."""
    groups = g.shaped(values, -1, size // _GROUP, _GROUP)
    group = g.node("ArgMin", g.reduced("ReduceMin", groups, [2], keepdims=False), axis=1, keepdims=1)  # (n, 1)
    place = g.node("ArgMin", g.node("GatherND", groups, group, batch_dims=1), axis=1, keepdims=1)  # of (n, _GROUP)
    return g.node("Add", g.node("Mul", group, np.array(_GROUP, np.int64)), place)


def _lengths(g: Graph, vectors: str, axis: int) -> str:
    return g.node("Sqrt", g.reduced("ReduceSum", g.node("Mul", vectors, vectors), [axis], keepdims=False))


def scaled(g: Graph, plain: str, features: str, expected: ExpectedDistance | None) -> str:
    """(n,) mean distances of (n, D) patches -> (n,) scores, as `ExpectedDistance.scaled`."""
    if expected is None:
        return plain
    slope = expected.slope.astype(np.float32)[:, None]
    predicted = g.node("Add", g.shaped(g.node("MatMul", features, slope), -1), float(expected.level))
    clipped = g.node("Clip", predicted, float(expected.low), float(expected.high))
    return g.node("Mul", plain, g.node("Exp", g.node("Mul", clipped, -float(expected.power))))


class OnGrid:
    """Where an image's patches that count lie on the grid. place: (n,), as in `Patches`; None = all do."""

    def __init__(self, grid: tuple[int, int], place: IntArray | None) -> None:
        self.grid, self.place = grid, place

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1] if self.place is None else len(self.place)

    @property
    def counted(self) -> BoolArray | None:
        """(h, w) bool; None = all."""
        if self.place is None:
            return None
        full = np.zeros(self.grid[0] * self.grid[1], np.bool_)
        full[self.place] = True
        return full.reshape(self.grid)

    def laid(self, g: Graph, values: str) -> str:
        """(n,) values -> (h, w), zeros where no patch counts."""
        if self.place is None:
            return g.shaped(values, *self.grid)
        number = np.full(self.grid[0] * self.grid[1], len(self.place), np.int32)
        number[self.place] = np.arange(len(self.place), dtype=np.int32)
        padded = g.node("Concat", values, np.zeros(1, np.float32), axis=0)
        return g.node("Gather", padded, number.reshape(self.grid), axis=0)

    def taken(self, g: Graph, values: str) -> str:
        """(h, w) values -> (n,), those of the patches that count."""
        flat = g.shaped(values, -1)
        return flat if self.place is None else g.node("Gather", flat, self.place, axis=0)


def image_score(g: Graph, scores: str, on_grid: OnGrid, config: Config) -> str:
    """(n,) patch scores -> the image's score, a scalar: the largest, or the mean of the top fraction, as
    `scoring.image_score`."""
    if config.image_score != "top_fraction":
        return g.reduced("ReduceMax", scores, keepdims=False)
    smooth = scores
    if config.score_smoothing:
        heat = smoothed(g, on_grid.laid(g, scores), on_grid, on_grid.grid, on_grid.grid, config.score_smoothing)
        smooth = on_grid.taken(g, heat)
    most = g.top(smooth, max(1, round(config.top_fraction * len(on_grid))), largest=True)[0]
    return g.reduced("ReduceMean", most, keepdims=False)


def reweighted(
    g: Graph, scores: str, queries: str, indices: str, bank: Bank, searcher: Searcher, neighbours: int
) -> str:
    """The score of the paper's Eq. 7, a scalar, as `scoring.reweighted`. indices: (n, k), of `nearest`.

    Which vectors are around each vector of the bank is a constant: (M, b + 1), the vector itself first; where it is
    among its own neighbours, as it nearly always is, it has no weight there.
    """
    own = np.arange(bank.size)[:, None]
    found = searcher.search(bank.original, min(neighbours, bank.size))[1]
    members = np.concatenate([own, found], axis=1).astype(np.int32)
    weights = np.concatenate([np.ones(own.shape), found != own], axis=1).astype(np.float32)
    worst = g.node("ArgMax", scores, axis=0, keepdims=1)  # (1,)
    number = g.shaped(g.part(g.node("Gather", indices, worst, axis=0), 1, 0, 1), 1)  # (1, k) -> (1,)
    around, weight = (g.shaped(g.node("Gather", table, number, axis=0), -1) for table in (members, weights))
    patch = g.node("Gather", queries, worst, axis=0)  # (1, D)
    distances = _lengths(g, g.node("Sub", g.node("Gather", bank.name, around, axis=0), patch), 1)  # (b + 1,)
    farther = g.node("Exp", g.node("Sub", distances, g.part(distances, 0, 0, 1)))
    total = g.reduced("ReduceSum", g.node("Mul", farther, weight), [0], keepdims=False)
    share = g.node("Sub", 1.0, g.node("Div", 1.0, total))
    return g.node("Mul", g.reduced("ReduceMax", scores, keepdims=False), share)


def smoothed(
    g: Graph, values: str, on_grid: OnGrid, input_size: tuple[int, int], size: tuple[int, int], sigma: float
) -> str:
    """(h, w) -> (H, W) as `scoring.anomaly_map`: for each axis, interpolation, smoothing and interpolation to an image
    of `size` are one matrix."""
    rows, columns = (_spreading(*sides, sigma) for sides in zip(on_grid.grid, input_size, size, strict=True))
    heat = _spread(g, rows, values, columns)
    counted = on_grid.counted
    if counted is not None:
        weight = rows @ counted.astype(np.float32) @ columns.T
        enough = weight > np.float32(1e-3)
        heat = g.node("Where", enough, g.node("Div", heat, np.where(enough, weight, np.float32(1))), 0.0)
    return g.node("Min", heat, g.reduced("ReduceMax", values, keepdims=False))  # rounding


def _spread(g: Graph, rows: FloatArray, values: str, columns: FloatArray) -> str:
    return g.node("MatMul", g.node("MatMul", rows, values), columns.T)  # (H, h) @ (h, w) @ (w, W)


def _spreading(side: int, input_side: int, target: int, sigma: float) -> FloatArray:
    """(target, side): what happens along one axis of the map."""
    matrix = spreading(side, input_side, input_side, sigma).dense()
    return matrix if target == input_side else linear_matrix(input_side, target) @ matrix
