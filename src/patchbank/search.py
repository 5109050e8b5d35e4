"""Nearest neighbours of patches in the memory bank.                                            (Q, D) -> (Q, k)

All distances are Euclidean, not squared. The neighbours that are returned are measured by direct differences, so a
vector that is in the bank is at distance 0 exactly. Ties go to the smallest index. Exact results do not depend on the
number of threads, nor on which other queries are searched at the same time.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from patchbank.config import Config
from patchbank.errors import ConfigError, MissingExtraError
from patchbank.kcenter import pair_distances, take
from patchbank.parallel import one_blas_thread, scratch, spread, workers

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Neighbours = tuple[FloatArray, IndexArray]
Pairs = tuple[IndexArray, IndexArray]  # queries, bank vectors
Task = tuple[int, IndexArray]  # a cell, and the queries that are compared with it

_ONE_CELL = 2048  # banks up to this size are searched as one cell: a plain product
_PER_CELL = 150  # bank vectors in a cell, about
_MOST_CELLS = 160
_SAMPLE = 4096  # bank vectors that the cells are made from
_QUERIES = 4096  # rows that are searched together
_BLOCK = 1 << 19  # numbers in a block of products
_LARGEST = 1e15  # squares of larger values, summed, leave float32's range
_HUGE = np.float32(3e38)  # finite: excluded vectors are at infinity
_CROWD = 64  # candidates a neighbour, from which on a block is thinned at once
_MARGIN = 1e-3  # relative, on distances in the triangle inequality: far more than float32's rounding


class Searcher(Protocol):
    """Finds the k nearest of the vectors it was built from."""

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64."""
        ...


def build_searcher(vectors: FloatArray, config: Config) -> Searcher:
    """The searcher that `config.search` names, over vectors, (M, D) float32."""
    if config.search == "exact":
        return ExactSearcher(vectors)
    return FaissSearcher(vectors, config.search, config.seed)


class ExactSearcher:
    """Exact search through cells of nearby bank vectors.

    A query's nearest cell yields an upper bound; by the triangle inequality most other cells cannot beat it; the rest
    are measured by products of matrices, and what is within the products' rounding of the best, by direct differences.
    """

    def __init__(self, vectors: FloatArray) -> None:
        self.vectors = _checked("bank vectors", vectors)
        m, d = self.vectors.shape
        pivots, cell = _cells(self.vectors)
        self._order = np.argsort(cell, kind="stable")  # (M,) the bank's vectors, cell by cell
        self._starts = np.searchsorted(cell[self._order], np.arange(len(pivots) + 1))
        self._sizes = np.diff(self._starts)
        self._middle = self.vectors.mean(axis=0)  # centred numbers are smaller, and so are products' rounding errors
        self._rounding = np.float32(2.0**-23 * (d + 16))  # of a squared distance, as a share of the squares' sum
        self._pivots = pivots - self._middle
        self._bank = np.empty((m, d + 1), np.float32)  # [b, |b|^2], so that [-2q, 1] . [b, |b|^2] = |q - b|^2 - |q|^2
        np.subtract(self.vectors[self._order], self._middle, out=self._bank[:, :d])
        self._bank[:, d] = np.einsum("ij,ij->i", self._bank[:, :d], self._bank[:, :d])
        self._errors = self._rounding * np.maximum.reduceat(self._bank[:, d], self._starts[:-1])  # (cells,)
        offsets = self.vectors[self._order] - pivots[cell[self._order]]
        squared = np.einsum("ij,ij->i", offsets, offsets)
        self._radii = np.sqrt(np.maximum.reduceat(squared, self._starts[:-1])) * np.float32(1 + _MARGIN)

    def search(self, queries: FloatArray, k: int, *, exclude: BoolArray | None = None) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64.

        exclude: (M,) bool, bank vectors that do not count.
        """
        allowed = len(self.vectors) if exclude is None else int(np.count_nonzero(~exclude))
        queries = _checked_queries(queries, self.vectors.shape[1], k, allowed)
        hidden = None if exclude is None else exclude[self._order]
        with one_blas_thread():
            parts = [self._search(queries[a : a + _QUERIES], k, hidden) for a in range(0, len(queries), _QUERIES)]
        if not parts:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _search(self, queries: FloatArray, k: int, hidden: BoolArray | None) -> Neighbours:
        scan = _Scan(self, queries, k, hidden)
        cells = len(self._pivots)
        if cells == 1:
            pairs = scan.run([(0, np.arange(len(queries)))])
        else:
            lower, upper = self._pivot_distances(scan.centred)  # (Q, cells)
            nearest = lower.argmin(axis=1)
            order = np.argsort(nearest, kind="stable")
            cuts = np.searchsorted(nearest[order], np.arange(1, cells))
            pairs = scan.run(list(enumerate(np.split(order, cuts))))
            self._bound_unbounded(scan, upper)
            reach = np.sqrt(np.maximum(scan.bar + scan.own, 0)) * np.float32(1 + _MARGIN)
            needed = reach + self._radii[:, None] >= lower.T  # (cells, Q)
            needed[nearest, np.arange(len(queries))] = False
            pairs += scan.run([(cell, np.flatnonzero(rows)) for cell, rows in enumerate(needed)])
        rows, found = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return _k_smallest(queries, self.vectors, rows, self._order[found], k)

    def _pivot_distances(self, centred: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds, (Q, cells), of the distances of queries to pivots: apart by rounding."""
        sizes = _squares(centred)[:, None] + _squares(self._pivots)
        squared = centred @ (-2 * self._pivots).T
        squared += sizes
        sizes *= self._rounding
        return np.sqrt(np.maximum(squared - sizes, 0)), np.sqrt(np.maximum(squared + sizes, 0))

    def _bound_unbounded(self, scan: _Scan, upper: FloatArray) -> None:
        """Bars for queries whose nearest cell holds fewer than k vectors: cells' far ends, until they hold k."""
        rows = np.flatnonzero(np.isinf(scan.bar))
        if len(rows) == 0:
            return
        counts = self._sizes
        if scan.hidden is not None:
            counts = np.add.reduceat(~scan.hidden, self._starts[:-1], dtype=np.int64)
        far_ends = upper[rows] + self._radii
        order = np.argsort(far_ends, axis=1)
        enough = (np.cumsum(counts[order], axis=1) >= scan.k).argmax(axis=1)
        limit = far_ends[np.arange(len(rows)), order[np.arange(len(rows)), enough]]
        scan.bar[rows] = np.square(limit) * np.float32(1 + _MARGIN) - scan.own[rows] + scan.errors[rows]


class _Scan:
    """One search under way.

    `bar` + `own` is an upper bound of each query's k-th squared distance; vectors above it are out.
    """

    def __init__(self, searcher: ExactSearcher, queries: FloatArray, k: int, hidden: BoolArray | None) -> None:
        self.searcher, self.queries, self.k, self.hidden = searcher, queries, k, hidden
        self.centred = queries - searcher._middle
        self.own = _squares(self.centred)
        self.errors = searcher._rounding * self.own
        self.bar = np.full(len(queries), np.inf, np.float32)
        self._rows = np.ones((len(queries), queries.shape[1] + 1), np.float32)  # [-2q, 1]
        np.multiply(self.centred, -2, out=self._rows[:, :-1])

    def run(self, tasks: list[Task]) -> list[Pairs]:
        """Compares queries with cells, in blocks that fit the cache, over the workers."""
        blocks: list[Task] = []
        for cell, rows in tasks:
            step = max(32, min(_BLOCK // int(self.searcher._sizes[cell]), -(-len(self.queries) // workers())))
            blocks += [(cell, rows[a : a + step]) for a in range(0, len(rows), step)]
        shares = [share for w in range(workers()) if (share := blocks[w :: workers()])]
        return [pairs for found in spread(self._share, shares) for pairs in found]

    def _share(self, blocks: list[Task]) -> list[Pairs]:
        return [self._block(cell, rows) for cell, rows in blocks]

    def _block(self, cell: int, rows: IndexArray) -> Pairs:
        """The pairs (row, bank vector in cell order) under the rows' bars, which are first lowered to the k-th found.

        Threads that lower the same bar may overwrite each other's value; either is a valid upper bound.
        """
        searcher, k = self.searcher, self.k
        start, end = int(searcher._starts[cell]), int(searcher._starts[cell + 1])
        shape = (len(rows), end - start)
        queries = take(self._rows, rows, "queries")
        products = np.matmul(queries, searcher._bank[start:end].T, out=scratch("products", shape))
        errors = self.errors[rows] + searcher._errors[cell]
        if self.hidden is not None:
            products[:, self.hidden[start:end]] = np.inf
        bar = self.bar[rows]
        if k == 1:
            bar = np.minimum(bar, products.min(axis=1) + errors)
        elif k <= end - start and np.isinf(bar).any():
            bar = np.minimum(bar, np.partition(products, k - 1, axis=1)[:, k - 1] + errors)
        self.bar[rows] = bar
        bar = np.minimum(bar + errors, _HUGE)[:, None]
        close = np.less_equal(products, bar, out=scratch("close", shape, np.bool_))
        found = np.flatnonzero(close)
        if len(found) > _CROWD * k * len(rows):
            return self._nearest_of_crowd(rows, found, start, end)
        row, column = np.divmod(found, end - start)
        return rows[row], column + start

    def _nearest_of_crowd(self, rows: IndexArray, found: IndexArray, start: int, end: int) -> Pairs:
        """The k nearest of each row's pairs: where very many are as near as rounding can tell, they are not kept."""
        row, column = np.divmod(found, end - start)
        numbers = self.searcher._order[start + column]
        squared = pair_distances(self.queries, self.searcher.vectors, rows[row], numbers)
        order = np.lexsort((numbers, squared, row))
        rank = np.arange(len(row)) - np.searchsorted(row[order], row[order])
        kept = order[rank < self.k]
        return rows[row[kept]], column[kept] + start


class FaissSearcher:
    """Approximate search by a faiss index: 'ivf' (inverted lists) or 'hnsw' (a graph)."""

    def __init__(self, vectors: FloatArray, kind: str, seed: int = 0) -> None:
        self.vectors = _checked("bank vectors", vectors)
        self._index = _faiss_index(self.vectors, kind, seed)

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64."""
        queries = _checked_queries(queries, self.vectors.shape[1], k, len(self.vectors))
        if len(queries) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        _, found = self._index.search(np.ascontiguousarray(queries), k)
        short = np.flatnonzero((found < 0).any(axis=1))  # fewer than k entries were visited: these are searched exactly
        if len(short):
            found[short] = ExactSearcher(self.vectors).search(queries[short], k)[1]
        q = np.repeat(np.arange(len(queries)), k)
        return _k_smallest(queries, self.vectors, q, found.ravel(), k)


def measured_recall(searcher: Searcher, vectors: FloatArray, queries: FloatArray, k: int) -> float:
    """Share (0..1) of the true k nearest of vectors, (M, D), that the searcher finds for queries, (Q, D)."""
    if len(queries) == 0:
        raise ConfigError("measured_recall: expected at least one query, got none")
    true = ExactSearcher(vectors).search(queries, k)[0]
    found = searcher.search(queries, k)[0]
    return float((found <= true[:, -1:]).mean())  # by distance: a tie's other end is as good


def search_excluding(
    searcher: Searcher, vectors: FloatArray, groups: IndexArray, queries: FloatArray, group: int, k: int
) -> Neighbours:
    """The k nearest of the searcher's vectors whose group is another than `group` (leave-one-image-out).

    vectors: (M, D), those of the searcher. groups: (M,) int64, the group (training image) of each vector. An
    approximate searcher's answer stands where it holds no vector of `group`; the other queries are searched exactly.
    """
    own = np.asarray(groups) == group
    if isinstance(searcher, ExactSearcher):
        return searcher.search(queries, k, exclude=own)
    distances, indices = searcher.search(queries, k)
    again = np.flatnonzero(own[indices].any(axis=1))
    if len(again):
        distances[again], indices[again] = ExactSearcher(vectors).search(queries[again], k, exclude=own)
    return distances, indices


def _cells(vectors: FloatArray) -> tuple[FloatArray, IndexArray]:
    """(cells, D) pivots and (M,) the cell of each vector; no cell is empty."""
    m = len(vectors)
    if m <= _ONE_CELL:
        return vectors.mean(axis=0, keepdims=True), np.zeros(m, np.int64)
    count = min(_MOST_CELLS, m // _PER_CELL)
    sample = vectors[:: -(-m // _SAMPLE)]
    pivots = sample[:: len(sample) // count][:count]
    for _ in range(4):  # Lloyd's iterations (k-means)
        cell = _nearest_pivot(sample, pivots)
        used, cell = np.unique(cell, return_inverse=True)
        order = np.argsort(cell, kind="stable")
        starts = np.searchsorted(cell[order], np.arange(len(used)))
        sums = np.add.reduceat(sample[order].astype(np.float64), starts, axis=0)
        pivots = (sums / np.bincount(cell)[:, None]).astype(np.float32)
    used, cell = np.unique(_nearest_pivot(vectors, pivots), return_inverse=True)
    return pivots[used], cell


def _nearest_pivot(vectors: FloatArray, pivots: FloatArray) -> IndexArray:
    """(M,) the nearest pivot, but for rounding."""
    middle = pivots.mean(axis=0)
    centred = pivots - middle
    squares = _squares(centred)

    def block(a: int) -> IndexArray:
        products = (vectors[a : a + 1024] - middle) @ (-2 * centred).T  # (rows, cells)
        products += squares
        nearest: IndexArray = products.argmin(axis=1)
        return nearest

    return np.concatenate(spread(block, range(0, len(vectors), 1024)))


def _k_smallest(queries: FloatArray, vectors: FloatArray, q: IndexArray, b: IndexArray, k: int) -> Neighbours:
    """The k nearest among candidate pairs (query q, vector b), measured by direct differences."""
    squared = pair_distances(queries, vectors, q, b)
    order = np.lexsort((b, squared, q))
    first = np.searchsorted(q[order], np.arange(len(queries)))
    chosen = order[first[:, None] + np.arange(k)]  # (Q, k)
    return np.sqrt(squared[chosen]), b[chosen].astype(np.int64)


def _squares(rows: FloatArray) -> FloatArray:
    """(n, D) -> (n,) squared norms."""
    result: FloatArray = np.einsum("ij,ij->i", rows, rows)
    return result


def _faiss_index(vectors: FloatArray, kind: str, seed: int) -> Any:
    try:
        faiss: Any = importlib.import_module("faiss")  # here, because it takes a third of a second
    except ImportError as error:
        raise MissingExtraError(f"search = {kind!r} needs faiss; run: pip install 'patchbank[ann]'") from error
    m, d = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, 32)
        index.hnsw.efConstruction = 80
        index.hnsw.efSearch = 64
        index.hnsw.rng = faiss.RandomGenerator(seed)
    elif kind == "ivf":
        lists = max(1, min(int(4 * m**0.5), m // 39))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, lists)
        index.cp.seed = seed
        index.nprobe = max(1, lists // 16)
    else:
        raise ConfigError(f"faiss index: expected 'ivf' or 'hnsw', got {kind!r}")
    index.train(vectors)
    index.add(vectors)
    return index


def _checked(name: str, array: FloatArray) -> FloatArray:
    array = np.ascontiguousarray(array, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise ConfigError(f"{name}: expected an array of shape (m, d) with at least one row, got shape {array.shape}")
    if not _in_range(array):
        raise ConfigError(f"{name}: expected finite numbers, got NaN, infinity or values beyond 1e15")
    return array


def _checked_queries(queries: FloatArray, dim: int, k: int, allowed: int) -> FloatArray:
    queries = np.asarray(queries, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ConfigError(f"queries: expected an array of shape (q, {dim}), got shape {queries.shape}")
    if not 1 <= k <= allowed:
        raise ConfigError(f"k: expected 1 to {allowed} (the bank's vectors), got {k}; lower k or enlarge the bank")
    if not _in_range(queries):
        raise ConfigError("queries: expected finite numbers, got NaN, infinity or values beyond 1e15; check the image")
    return queries


def _in_range(array: FloatArray) -> bool:
    return array.size == 0 or bool(float(array.min()) > -_LARGEST and float(array.max()) < _LARGEST)  # False for NaN
