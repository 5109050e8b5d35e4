"""Exact nearest neighbours, most of them ruled out unseen.                                        (Q, D) -> (Q, k)

Three inequalities leave few vectors to be measured:

- *Projections* (PCA). A vector's projection is its coordinates along the bank's leading principal axes, and the length
  of the rest. Projections are never farther apart than their vectors (the reverse triangle inequality, on the rests).
- *Upper bounds.* The bank is in cells, by nearest pivot. A query's nearest by projection in its own cell, measured,
  bounds its distance to the bank.
- *Pruning planes.* All vectors b of cell j lie at b . (p_j - p_i) >= T_ij, p being pivots. What is within U of a query
  q has b . (p_j - p_i) <= q . (p_j - p_i) + U |p_j - p_i|. Where that is less than T_ij, q need not see cell j.

Products of matrices then compare projections; what is under the bound, but for the rounding of all this, is measured by
direct differences in float32. So the answers are those of brute force, bit for bit.

The single nearest, which all scores but one need, is found by the same scheme in C (`native`), where that was compiled;
there, codes of projections are compared, of one byte a coordinate.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from patchbank import native
from patchbank.arrays import BoolArray, FloatArray, IndexArray
from patchbank.errors import ConfigError
from patchbank.native.calls import NativeBank, coded, in_panels, panels, wider
from patchbank.native.sums import pair_distances
from patchbank.search.projections import ROUNDING, TINY, Projections, in_cells, squares_of
from patchbank.util.parallel import one_blas_thread, scratch, share_of_workers, spread

Neighbours = tuple[FloatArray, IndexArray]
Pairs = tuple[IndexArray, IndexArray, FloatArray]  # queries, bank vectors, squared distances
Block = tuple[
    int, int, IndexArray
]  # bank vectors start:end, in cell order, and the queries that they are compared with

_QUERIES = 4096  # queries that are searched together
_FEW = 16  # queries up to which cells are not worth their overhead
_THREADS = 2  # of searches with NumPy: with 16 they wait for Python's lock most of the time (docs/adr/0012)
_ROWS = 512  # queries that are prepared together: they fit the cache
_BLOCK = 1 << 18  # numbers in a block of products: half of a core's cache, where that is 2 MB
_CROWD = 64  # candidates a neighbour, from which on a block is thinned at once
_LARGEST = 1e15  # squares of larger values, summed, leave float32's range


class ExactSearcher:
    """Finds the k nearest of the (M, D) float32 vectors that it was built from; ties go to the smallest index."""

    def __init__(self, vectors: FloatArray) -> None:
        self.vectors = checked("bank vectors", vectors)
        with one_blas_thread():
            self._build()

    def _build(self) -> None:
        self._shadows = Projections(self.vectors)
        projections, errors = self._shadows.of(self.vectors)  # (M, S), (M,)
        pivots, cell = in_cells(projections)
        self._order = np.argsort(cell, kind="stable")  # (M,) the bank's vectors, cell by cell
        projections, errors, cell = projections[self._order], errors[self._order], cell[self._order]
        self._starts = np.searchsorted(cell, np.arange(len(pivots) + 1))
        self._rounding = ROUNDING * (projections.shape[1] + 18)  # of a product of projections, as a share of its terms
        squares = squares_of(projections)
        largest, error = (np.maximum.reduceat(values, self._starts[:-1]) for values in (squares, errors))  # (cells,)
        # columns [b, |b|^2 - allowance, 1]: with rows [-2q, 1, |q|^2 - bar], products are 0 or less for candidates
        allowance = 1002 * np.square(error) + self._rounding * largest
        self._columns = np.empty((projections.shape[1] + 2, len(cell)), np.float32)
        self._columns[:-2] = projections.T
        self._columns[-2] = squares - allowance[cell]
        self._columns[-1] = 1
        self._slabs(projections, cell, pivots, largest, error)
        self._native = self._native_bank(projections, errors) if native.available() else None

    def _slabs(
        self, projections: FloatArray, cell: IndexArray, pivots: FloatArray, largest: FloatArray, error: FloatArray
    ) -> None:
        """Sets `_between`, the distances of pivots i, j, and `_least`, T_ij, each on its safe side of rounding.

        Sides are measured as b . p_j - |p_j|^2 / 2: the largest is that of the nearest pivot.
        """
        squares = squares_of(pivots)
        self._pivots = np.vstack([-pivots.T / 2, -squares / 2])  # (S + 1, cells): rows [-2q, 1] yield sides
        sides = projections @ pivots.T - squares / 2  # (M, cells)
        own = sides[np.arange(len(cell)), cell]
        squared = squares[:, None] + squares - 2 * (pivots @ pivots.T)
        self._between = np.sqrt(np.maximum(squared, 0) + self._rounding * (squares[:, None] + squares))
        self._farthest = np.sqrt(squares.max())
        self._least = np.minimum.reduceat(own[:, None] - sides, self._starts[:-1], axis=0).T.copy()
        self._least -= self._between * error + self._side_error(np.sqrt(largest))

    def _native_bank(self, projections: FloatArray, errors: FloatArray) -> NativeBank:
        """The same for native.c, of projections in the order of cells, and their errors."""
        dim = self.vectors.shape[1]
        axes = np.empty((dim, 0), np.float32) if self._shadows.axes is None else self._shadows.axes
        first, slots = in_panels(self._starts)
        places, width = int(first[-1]) * native.PANEL, -(-dim // native.WIDEST) * native.WIDEST
        numbers, vectors = np.full(places, -1, np.int32), np.zeros((places, width), np.float32)
        numbers[slots], vectors[slots, :dim] = self._order, self.vectors[self._order]
        codes, starts, step, wrong = coded(projections, slots, places)
        fields = {
            "dim": dim,
            "width": width,
            "axes": axes.shape[1],
            "dims": projections.shape[1],
            "cells": len(first) - 1,
            "panels": int(first[-1]),
            "groups": codes.shape[1],
            "middle": self._shadows.middle,
            "directions": panels(axes),
            "pivots": panels((-2 * self._pivots[:-1]).astype(np.float32)),
            "halves": -self._pivots[-1],
            "codes": codes,
            "wrong": np.maximum.reduceat(wrong + errors, self._starts[:-1]),
            "first": first,
            "numbers": numbers,
            "vectors": vectors,
            "between": wider(self._between, 0),
            "least": wider(self._least, np.inf),
            "step": step,
            "half_step": 0.5 / step,
            "rest": float(self._shadows.rest),
            "shadow_rounding": float(self._shadows.rounding),
            "rounding": float(self._rounding),
            "farthest": float(self._farthest),
            "measure_rounding": float(ROUNDING) * (dim + 16),
        }
        return NativeBank(fields, starts)

    def _side_error(self, lengths: FloatArray) -> FloatArray:
        """Rounding of the difference of two sides of projections of these lengths."""
        error: FloatArray = 2 * self._rounding * (lengths + self._farthest) * self._farthest
        return error

    def search(self, queries: FloatArray, k: int, *, exclude: BoolArray | None = None) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64.

        exclude: (M,) bool, bank vectors that do not count.
        """
        allowed = len(self.vectors) if exclude is None else int(np.count_nonzero(~exclude))
        queries = checked_queries(queries, self.vectors.shape[1], k, allowed)
        if len(queries) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        if k == 1 and self._native and native.available():
            return self._nearest(np.ascontiguousarray(queries), self._native, exclude)
        return self._search(queries, k, exclude)

    def _search(self, queries: FloatArray, k: int, exclude: BoolArray | None) -> Neighbours:
        hidden = None if exclude is None else exclude[self._order]
        with one_blas_thread():
            parts = [
                _Search(self, queries[a : a + _QUERIES], k, hidden).run() for a in range(0, len(queries), _QUERIES)
            ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _nearest(self, queries: FloatArray, bank: NativeBank, exclude: BoolArray | None) -> Neighbours:
        """The nearest one, ruled out in C and measured here."""
        found = bank.candidates(queries, bank.starts_without(exclude), share_of_workers())
        if found[:, 0].min() >= 0 and found[:, 1].max() < 0:  # one for each, as nearly always
            numbers = found[:, 0].astype(np.int64)
            squared = pair_distances(queries, self.vectors, None, numbers)
            return np.sqrt(squared)[:, None], numbers[:, None]
        over = np.flatnonzero(found[:, 0] < 0)  # more than there was room for: as near as rounding can tell
        found[over, 0] = 0
        row, slot = np.nonzero(found >= 0)
        numbers = found[row, slot].astype(np.int64)
        squared = pair_distances(queries, self.vectors, row, numbers)
        distances, indices = k_smallest(row, numbers, squared, len(queries), 1)
        if len(over):
            distances[over], indices[over] = self._search(queries[over], 1, exclude)
        return distances, indices


class _Search:
    """One search under way."""

    def __init__(self, bank: ExactSearcher, queries: FloatArray, k: int, hidden: BoolArray | None) -> None:
        self.bank, self.queries, self.k, self.hidden = bank, queries, k, hidden
        cells, count = bank._pivots.shape[1], len(queries)
        self.rows = np.empty((count, len(bank._columns)), np.float32)  # [-2q, 1, |q|^2 - bar]
        self.errors, self.own = np.empty(count, np.float32), np.empty(count, np.float32)  # of projections; |q|^2
        self.sides = np.empty((count, cells), np.float32)
        self.cell = np.empty(count, np.int16)
        self.limit = np.empty(count, np.float32)  # squared distance: at least the k-th nearest's
        self.needed = np.empty((count, cells), np.bool_)

    def run(self) -> Neighbours:
        """Distances and indices, (Q, k)."""
        spread(self._prepare, range(0, len(self.queries), _ROWS), _THREADS)
        spread(self._bound, self._own_cells(), _THREADS)
        found = spread(self._candidates, _shares(self._blocks()), _THREADS)
        rows, numbers, squared = (np.concatenate(part) for part in zip(*found, strict=True))
        return k_smallest(rows, numbers, squared, len(self.queries), self.k)

    def _prepare(self, a: int) -> None:
        """Projections, sides and own cells of a block of queries."""
        block = slice(a, a + _ROWS)
        projections, self.errors[block] = self.bank._shadows.of(self.queries[block])
        rows = self.rows[block]
        self.own[block] = squares_of(projections)
        np.multiply(projections, -2, out=rows[:, :-2])
        rows[:, -2], rows[:, -1] = 1, 0
        np.matmul(rows[:, :-1], self.bank._pivots, out=self.sides[block])
        self.cell[block] = self.sides[block].argmax(axis=1)

    def _own_cells(self) -> list[list[Block]]:
        """Blocks of queries and vectors of the same cell; the whole bank, where a cell has fewer than k vectors."""
        starts = self.bank._starts
        counts = np.diff(starts)
        if self.hidden is not None:
            counts = np.add.reduceat(~self.hidden, starts[:-1], dtype=np.int64)
        order = np.argsort(self.cell, kind="stable")
        cuts = np.searchsorted(self.cell[order], np.arange(len(starts)))
        blocks: list[Block] = []
        for cell in np.flatnonzero(np.diff(cuts)).tolist():
            start, end = (starts[cell], starts[cell + 1]) if counts[cell] >= self.k else (0, starts[-1])
            blocks += _blocks(int(start), int(end), order[cuts[cell] : cuts[cell + 1]])
        return _shares(blocks)

    def _bound(self, blocks: list[Block]) -> None:
        """Sets `limit` for the blocks' queries, and which cells they need."""
        bank, k = self.bank, self.k
        numbers = []
        for start, end, rows in blocks:
            products = self._products(start, end, rows)
            if self.hidden is not None:
                products[:, self.hidden[start:end]] = np.inf
            nearest = products.argmin(axis=1)[:, None] if k == 1 else np.argpartition(products, k - 1, axis=1)[:, :k]
            numbers.append(bank._order[start + nearest])
        rows = np.concatenate([block[2] for block in blocks])
        measured = self._measure(np.repeat(rows, k), np.concatenate(numbers).ravel())
        self.limit[rows] = measured.reshape(-1, k).max(axis=1)
        reach = np.sqrt(self.limit[rows]) * (1 + ROUNDING * (self.queries.shape[1] + 16)) + self.errors[rows] + TINY
        own = self.own[rows]
        self.rows[rows, -1] = own * (1 - bank._rounding) - np.float32(1.002) * np.square(reach)
        cell, sides = self.cell[rows], self.sides[rows]
        beyond = bank._between[cell]  # (rows, cells)
        beyond *= reach[:, None]
        beyond += sides
        beyond -= bank._least[cell]
        self.needed[rows] = beyond >= (sides[np.arange(len(rows)), cell] - bank._side_error(np.sqrt(own)))[:, None]

    def _blocks(self) -> list[Block]:
        """Blocks of queries and the vectors of cells that they need."""
        starts, count = self.bank._starts.tolist(), len(self.queries)
        if count <= _FEW:
            return [(0, starts[-1], np.arange(count))]
        found = np.flatnonzero(self.needed.T)  # cell by cell
        cuts = np.searchsorted(found, np.arange(len(starts)) * count)
        blocks: list[Block] = []
        for cell, (start, end) in enumerate(itertools.pairwise(starts)):
            blocks += _blocks(start, end, found[cuts[cell] : cuts[cell + 1]] - cell * count)
        return blocks

    def _candidates(self, blocks: list[Block]) -> Pairs:
        """The pairs of queries and vectors within the limits, measured."""
        found = [self._under_bar(*block) for block in blocks]
        rows, numbers = (np.concatenate(part) for part in zip(*found, strict=True))
        squared = self._measure(rows, numbers)
        near = np.flatnonzero(squared <= self.limit[rows])
        return rows[near], numbers[near], squared[near]

    def _under_bar(self, start: int, end: int, rows: IndexArray) -> tuple[IndexArray, IndexArray]:
        products = self._products(start, end, rows)
        found = np.flatnonzero(np.less_equal(products, 0, out=scratch("close", products.shape, np.bool_)))
        row, column = np.divmod(found, end - start)
        if self.hidden is not None:
            seen = ~self.hidden[start + column]
            row, column = row[seen], column[seen]
        numbers = self.bank._order[start + column]
        if len(row) > _CROWD * self.k * len(rows):  # as near as rounding can tell: they must not pile up
            squared = self._measure(rows[row], numbers)
            order = np.lexsort((numbers, squared, row))
            rank = np.arange(len(row)) - np.searchsorted(row[order], row[order])
            kept = order[rank < self.k]
            row, numbers = row[kept], numbers[kept]
        return rows[row], numbers

    def _products(self, start: int, end: int, rows: IndexArray) -> FloatArray:
        """Squared distances of projections, less the rows' bars: (rows, end - start), in this thread's scratch."""
        columns = self.bank._columns[:, start:end]
        return np.matmul(take(self.rows, rows, "rows"), columns, out=scratch("products", (len(rows), end - start)))

    def _measure(self, rows: IndexArray, numbers: IndexArray) -> FloatArray:
        return pair_distances(self.queries, self.bank.vectors, rows, numbers)


def _blocks(start: int, end: int, rows: IndexArray) -> list[Block]:
    """Blocks whose products fit the cache."""
    step = max(32, _BLOCK // (end - start))
    return [(start, end, rows[a : a + step]) for a in range(0, len(rows), step)]


def _shares(blocks: list[Block]) -> list[list[Block]]:
    """Lists of blocks, about equal work in each: four for each thread, so that a slow one holds up little."""
    blocks = sorted(blocks, key=lambda block: -len(block[2]) * (block[1] - block[0]))
    count = 4 * _THREADS
    return [blocks[share::count] for share in range(min(count, len(blocks)))]


def k_smallest(q: IndexArray, numbers: IndexArray, squared: FloatArray, count: int, k: int) -> Neighbours:
    """The k nearest of each of `count` queries, among measured pairs."""
    key = squared.view(np.uint32).astype(np.uint64) << np.uint64(32) | numbers.astype(np.uint64)  # ties: smaller index
    order = np.argsort(q, kind="stable") if k == 1 else np.lexsort((key, q))
    key, first = key[order], np.searchsorted(q[order], np.arange(count))
    best = np.minimum.reduceat(key, first)[:, None] if k == 1 else key[first[:, None] + np.arange(k)]  # (Q, k)
    distances = np.sqrt((best >> np.uint64(32)).astype(np.uint32).view(np.float32))
    return distances, (best & np.uint64(0xFFFFFFFF)).astype(np.int64)


def checked(name: str, array: FloatArray) -> FloatArray:
    """The (m, d) array as contiguous float32. Raises ConfigError where it is empty, or its values are out of range."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise ConfigError(f"{name}: expected an array of shape (m, d) with at least one row, got shape {array.shape}")
    if not _in_range(array):
        raise ConfigError(f"{name}: expected finite numbers, got NaN, infinity or values beyond 1e15")
    return array


def checked_queries(queries: FloatArray, dim: int, k: int, allowed: int) -> FloatArray:
    """The queries as float32. Raises ConfigError where their shape, their values or k are impossible."""
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


def take(rows: FloatArray, numbers: npt.NDArray[np.integer], name: str) -> FloatArray:
    """rows[numbers], (n, D), in this thread's scratch memory of that name."""
    out: FloatArray = scratch(name, (len(numbers), rows.shape[1]))
    return rows.take(numbers, axis=0, out=out, mode="clip")  # "raise", the default, would copy once more
