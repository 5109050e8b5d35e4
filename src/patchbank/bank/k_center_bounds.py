"""Points' upper bounds of their distances to a growing set of centres, made exact for those that are asked for.

Points and centres are grouped in cells around fixed pivots; by the triangle inequality a point need not meet a centre
whose distance to the pivot is too large.

Products of matrices find the nearest centres, to within a margin for their rounding; whatever is within the margin is
measured again by direct differences, a point's clearly nearest centre only when the point comes near to being picked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from patchbank import native
from patchbank.arrays import FloatArray, IndexArray, IntArray
from patchbank.native.calls import measure
from patchbank.native.sums import pair_distances, squared_distances
from patchbank.search.exact import take
from patchbank.util.parallel import scratch, share_of_workers, spread

_Group = tuple[int, IndexArray]  # a cell, and points of it

_CELLS = 96  # at most
_CENTRES_PER_CELL = 84  # at least: each cell costs some overhead a round, which few centres do not repay
_BLOCK_ROWS = 2048
_SHARE_ROWS = 2048  # points that a thread measures together
_BLOCK = 1 << 19  # numbers in a block of products
MARGIN = 1e-3  # relative, on distances in the triangle inequality: far more than float32's rounding


class Bounds:
    """Of each of the points, an upper bound of its squared distance to the centres, and what it has met.

    points: (N, D) float32, finite, not copied. capacity: number of centres there will be at most. start: (N,) squared
    distances to start from (inf = none). squared: (N,) float32, the bounds; -1 for a point that is a centre itself.
    near: (N,) int32, the centre (by order of addition) that each bound belongs to, -1 for a start value. centres: the
    first `count` rows are the centres so far. rounding: of a squared distance, as a share of the squares' sum.
    """

    def __init__(self, points: FloatArray, capacity: int, start: FloatArray | None = None) -> None:
        n, d = points.shape
        self.points = points
        self.squared = np.full(n, np.inf, np.float32) if start is None else start.astype(np.float32)
        self.near = np.full(n, -1, np.int32)
        self.centres = np.empty((capacity, d), np.float32)
        self.count = 0
        self.rounding = np.float32(2.0**-23 * (d + 16))
        self._slack = np.zeros(n, np.float32)  # by how much a bound may exceed the squared distance to `near`
        self._met = np.zeros(n, np.int32)  # how much of its cell's list of centres each point has met
        self._pivots = _spread_out(points, max(1, min(_CELLS, n // 64, capacity // _CENTRES_PER_CELL)))
        self._cell = np.empty(n, np.int32)
        self._to_pivot = np.empty(n, np.float32)
        spread(self._assign, range(0, n, _BLOCK_ROWS))
        self._radius = np.zeros(len(self._pivots), np.float32)
        np.maximum.at(self._radius, self._cell, self._to_pivot)
        self._lists = [_CellList() for _ in self._pivots]
        self._lengths = np.zeros(len(self._pivots), np.int32)  # of the lists, when points were last measured

    def add_centres(self, centres: FloatArray) -> None:
        """Adds centres, (n, D); no point is measured yet."""
        reach = np.zeros(len(self._lists), np.float32)
        np.maximum.at(reach, self._cell, np.sqrt(np.maximum(self.squared, 0)))
        self._add(centres, reach)

    def add_met(self, centres: FloatArray, points: IndexArray, reach: float) -> None:
        """Adds centres that these points have met already. reach: no point is farther from the centres so far."""
        if len(centres):
            self._add(centres, np.float32(reach))
            self._met[points] = [len(self._lists[c]) for c in self._cell[points]]

    def measured(self, pool: IndexArray, least: float) -> IndexArray:
        """The points of the pool that are at least `least` from all centres; their bounds are their distances."""
        self._measure(pool)
        candidates = pool[self.squared[pool] >= least]
        self._tighten(candidates[self._slack[candidates] > 0])
        return candidates[self.squared[candidates] >= least]

    def _tighten(self, points: IndexArray) -> None:
        """Makes bounds the distances to `near`, to the bit."""
        self.squared[points] = pair_distances(self.points, self.centres, points, self.near[points])
        self._slack[points] = 0

    def _measure(self, pool: IndexArray) -> None:
        """Makes the bounds of the pool their distances to all centres, but for `_slack`."""
        cell = self._cell[pool]
        lengths = np.array([len(entries) for entries in self._lists], np.int32)
        met = self._met[pool]
        behind = met < lengths[cell]
        pool, cell, met = pool[behind], cell[behind], met[behind]
        if len(pool) == 0:
            return
        # who was there last time has only the last round's picks to meet; 16 bits, because these are sorted at once
        key = (2 * cell + (met >= self._lengths[cell])).astype(np.uint16)
        self._lengths = lengths
        order = np.argsort(key, kind="stable")
        pool, cell, key = pool[order], cell[order], key[order]
        cuts = np.flatnonzero(np.diff(key)) + 1
        edges = np.concatenate([[0], cuts, [len(pool)]]).tolist()
        cells = cell[edges[:-1]].tolist()
        groups = [
            (c, pool[first : min(first + _SHARE_ROWS, end)])
            for c, start, end in zip(cells, edges[:-1], edges[1:], strict=True)
            for first in range(start, end, _SHARE_ROWS)
        ]
        pairs = self._pairs_in_c(groups) if native.available() else None
        if pairs is None:
            spread(lambda share: self._settle(*self._pairs(share)), _shares(groups))
        else:
            self._settle(*pairs)

    def _pairs_in_c(self, groups: list[_Group]) -> tuple[IndexArray, IntArray] | None:
        """As `_pairs`; None if that cannot be done."""
        state = {
            "dim": self.points.shape[1],
            "cells": len(self._pivots),
            "capacity": len(self.centres),
            "count": len(self.points),
            "rounding": self.rounding,
            "points": self.points,
            "centres": self.centres,
            "pivots": self._pivots,
            "to_pivot": self._to_pivot,
            "met": self._met,
            "bound": self.squared,
            "slack": self._slack,
            "near": self.near,
        }
        pairs = measure(state, groups, self._lists, share_of_workers())
        if pairs is not None:
            for cell, group in groups:
                self._met[group] = len(self._lists[cell])
        return pairs

    def _pairs(self, groups: list[_Group]) -> tuple[IndexArray, IntArray]:
        """Pairs (point, centre) that have to be measured; points with a clearly nearest centre get it as their bound.
        What is done for all points at once is done once: threads that do much in a call seldom wait for each other."""
        members = np.concatenate([group for _, group in groups])
        sizes = [len(group) for _, group in groups]
        vectors = take(self.points, members, "vectors")
        offsets = take(self._pivots, np.repeat([cell for cell, _ in groups], sizes), "offsets")
        np.subtract(offsets, vectors, out=offsets)  # differences to the pivot are small: so are the rounding errors
        offsets *= 2
        own = np.square(self._to_pivot[members])
        bound = self.squared[members]
        pairs = []
        start = 0
        for (cell, group), size in zip(groups, sizes, strict=True):
            rows = slice(start, start + size)
            for row, *pair in self._could_be_nearest(cell, group, offsets[rows], own[rows], bound[rows]):
                pairs.append((row + start, *pair))
            start += size
        if not pairs:
            return np.empty(0, np.int64), np.empty(0, np.int32)
        row, number, product, margin = (np.concatenate(part) for part in zip(*pairs, strict=True))
        # a row's only pair, and clearly nearer than what it met before: the distance can wait until it matters
        upper = product + own[row] + margin
        clear = (upper < bound[row] - self._slack[members[row]]) & (np.bincount(row, minlength=len(members))[row] == 1)
        point = members[row[clear]]
        self.squared[point], self.near[point], self._slack[point] = upper[clear], number[clear], 2 * margin[clear]
        return members[row[~clear]], number[~clear]

    def _settle(self, point: IndexArray, number: IntArray) -> None:
        """Measures pairs (point, centre); the nearest, if it is nearer, becomes the point's bound."""
        if len(point) == 0:
            return
        some = np.unique(point)
        self._tighten(some[self._slack[some] > 0])
        squared = pair_distances(self.points, self.centres, point, number)
        order = np.lexsort((number, squared, point))
        nearest = order[np.flatnonzero(np.diff(point[order], prepend=-1))]  # one pair for each point
        nearest = nearest[squared[nearest] < self.squared[point[nearest]]]
        self.squared[point[nearest]] = squared[nearest]
        self.near[point[nearest]] = number[nearest]

    def _could_be_nearest(
        self,
        cell: int,
        group: IndexArray,
        offsets: FloatArray,
        own: FloatArray,
        bound: FloatArray,
    ) -> Iterator[tuple[IndexArray, IntArray, FloatArray, FloatArray]]:
        """Pairs (row, centre) that may be a row's nearest, and nearer than its bound, for all that rounding hides;
        their squared distances less `own`, and the largest error of these.

        offsets: (n, D) -2 x the difference to the pivot, whose square is `own`.
        """
        entries = self._lists[cell]
        first = int(self._met[group].min())
        self._met[group] = len(entries)
        reach = math.sqrt(float(own.max())) + math.sqrt(float(bound.max()))
        found = entries.within(first, reach)
        step = _BLOCK // len(group)
        for a in range(0, len(found), step):
            numbers = found[a : a + step]
            relative = take(self.centres, numbers, "relative")
            relative -= self._pivots[cell]
            squares = np.einsum("ij,ij->i", relative, relative)
            shape = (len(group), len(numbers))
            products = np.matmul(offsets, relative.T, out=scratch("products", shape))
            products += squares  # and with `own` added, these are the squared distances, but for rounding
            margin = self.rounding * (own + squares.max())
            bar = np.minimum(products.min(axis=1) + margin, bound - own) + margin
            close = np.less_equal(products, bar[:, None], out=scratch("close", shape, np.bool_))
            found_at = np.flatnonzero(close)
            row, column = np.divmod(found_at, len(numbers))
            yield row, numbers[column], products.ravel()[found_at], margin[row]

    def _assign(self, start: int) -> None:
        """The nearest pivot of a block of points, but for rounding, and the distance to it."""
        block = self.points[start : start + _BLOCK_ROWS]
        products = block @ (-2 * self._pivots).T  # (rows, cells)
        products += np.einsum("ij,ij->i", self._pivots, self._pivots)
        cell = products.argmin(axis=1)
        self._cell[start : start + len(block)] = cell
        self._to_pivot[start : start + len(block)] = np.sqrt(squared_distances(block, self._pivots[cell]))

    def _add(self, centres: FloatArray, reach: FloatArray | np.float32) -> None:
        """Puts centres on the lists of the cells whose points they may be nearest to.

        reach: a bound of the distance of all points, or of each cell's points, to the centres that there were.
        """
        start, end = self.count, self.count + len(centres)
        self.centres[start:end], self.count = centres, end
        for a in range(start, end, _BLOCK_ROWS):
            distances = self._pivot_distances(self.centres[a : min(end, a + _BLOCK_ROWS)])
            close = distances * (1 - MARGIN) <= self._radius + reach
            for cell in np.flatnonzero(close.any(axis=0)).tolist():
                rows = np.flatnonzero(close[:, cell])
                self._lists[cell].extend(rows + a, distances[rows, cell])

    def _pivot_distances(self, centres: FloatArray) -> FloatArray:
        """(n, cells) lower bounds of the distances of centres to pivots, short by no more than rounding."""
        middle = self._pivots.mean(axis=0)
        a, b = centres - middle, self._pivots - middle
        sizes = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
        result: FloatArray = np.sqrt(np.maximum(sizes * (1 - self.rounding) - 2 * (a @ b.T), 0))
        return result


class _CellList:
    """The centres that matter to a cell's points, in order of addition, with their distances to the cell's pivot."""

    def __init__(self) -> None:
        self.numbers = np.empty(64, np.int32)
        self.distances = np.empty(64, np.float32)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, numbers: IndexArray, distances: FloatArray) -> None:
        end = self._length + len(numbers)
        if end > len(self.numbers):
            size = max(end, 2 * len(self.numbers))
            self.numbers, self.distances = np.resize(self.numbers, size), np.resize(self.distances, size)
        self.numbers[self._length : end] = numbers
        self.distances[self._length : end] = distances
        self._length = end

    def within(self, first: int, reach: float) -> IntArray:
        """Entries from `first` on whose distance to the pivot is at most `reach`, with a margin."""
        close = self.distances[first : self._length] * np.float32(1 - MARGIN) <= reach
        return self.numbers[first : self._length][close]


def _shares(groups: list[_Group]) -> list[list[_Group]]:
    """The groups, in lists of about `_SHARE_ROWS` points."""
    shares: list[list[_Group]] = [[]]
    held = 0
    for group in groups:
        if held >= _SHARE_ROWS:
            shares.append([])
            held = 0
        shares[-1].append(group)
        held += len(group[1])
    return shares


def _spread_out(points: FloatArray, count: int) -> FloatArray:
    """(count, D) pivots: a farthest-first traversal of an evenly spaced sample."""
    sample = points[:: max(1, len(points) // 2048)]
    bound = np.full(len(sample), np.inf, np.float32)
    chosen = [0]
    for _ in range(count - 1):
        np.minimum(bound, squared_distances(sample, sample[chosen[-1]]), out=bound)
        chosen.append(int(bound.argmax()))
    return sample[chosen]
