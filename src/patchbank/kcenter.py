"""Greedy k-center (farthest-first traversal) that measures a point only when it could be the farthest.

A point's distance to a growing set of centres only falls, so an old value is an upper bound. Each round takes the
points with the largest bounds (the pool), measures them against the centres that they have not met, and picks among
them while the farthest is farther than every bound outside. Points and centres are grouped in cells around fixed
pivots; by the triangle inequality a point need not meet a centre whose distance to the pivot is too large.

Products of matrices find the nearest centres, to within a margin for their rounding; whatever is within the margin is
measured again by direct differences (`squared_distances`), a point's clearly nearest centre only when the point comes
near to being picked. The selections are therefore, bit for bit, those of the textbook loop that measures all points by
direct differences in float32 at every pick.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank import native
from patchbank.native.measure import measure
from patchbank.parallel import scratch, share_of_workers, spread, workers

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]
_Group = tuple[int, IndexArray]  # a cell, and points of it

_CELLS = 96  # at most
_CENTRES_PER_CELL = 84  # at least: each cell costs some overhead a round, which few centres do not repay
_POOLS = ((1024, 16384), (math.inf, 12288))  # points that a round refreshes, while there are fewer centres than ...
_CANDIDATES = 4096  # points that picks are made from, at most
_BLOCK_ROWS = 2048
_SHARE_ROWS = 2048  # points that a thread measures together
_BLOCK = 1 << 19  # numbers in a block of products
_MARGIN = 1e-3  # relative, on distances in the triangle inequality: far more than float32's rounding
_DENSE = 48  # neighbours a candidate, from which on a round measures all candidates at each pick


def squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n, D), (n, D) or (D,) -> (n,) squared Euclidean distances by direct differences: same rows, same bits."""
    difference = a - b
    result: FloatArray = np.einsum("ij,ij->i", difference, difference)
    return result


def pair_distances(a: FloatArray, b: FloatArray, i: IndexArray | None, j: npt.NDArray[np.integer]) -> FloatArray:
    """(P,) squared Euclidean distances of the pairs (a[i], b[j]), by direct differences. i = None: all of a in turn."""
    result = np.empty(len(j), np.float32)
    step = 1024  # bounds the memory, and fits the cache
    for start in range(0, len(j), step):
        some = slice(start, start + step)
        difference = take(b, j[some], "second of pairs")
        np.subtract(a[some] if i is None else take(a, i[some], "first of pairs"), difference, out=difference)
        np.einsum("ij,ij->i", difference, difference, out=result[some])
    return result


def take(rows: FloatArray, numbers: npt.NDArray[np.integer], name: str) -> FloatArray:
    """rows[numbers], (n, D), in this thread's scratch memory of that name."""
    out: FloatArray = scratch(name, (len(numbers), rows.shape[1]))
    return rows.take(numbers, axis=0, out=out, mode="clip")  # "raise", the default, would copy once more


class KCenter:
    """The state of a traversal: each point's upper bound of its squared distance to the centres, and what it has met.

    points: (N, D) float32, finite, not copied. capacity: number of centres there will be at most, seeds included.
    start: (N,) squared distances to start from (inf = none). `near` is the centre (by order of addition) that each
    bound belongs to, -1 for a start value.
    """

    def __init__(self, points: FloatArray, capacity: int, start: FloatArray | None = None) -> None:
        n, d = points.shape
        self.points = points
        self.bound = np.full(n, np.inf, np.float32) if start is None else start.astype(np.float32)
        self.near = np.full(n, -1, np.int32)
        self._slack = np.zeros(n, np.float32)  # by how much a bound may exceed the squared distance to `near`
        self.centres = np.empty((capacity, d), np.float32)
        self.count = 0
        self.picked: list[int] = []
        self.picked_squared: list[float] = []
        self._met = np.zeros(n, np.int32)  # how much of its cell's list of centres each point has met
        self._rounding = np.float32(2.0**-23 * (d + 16))  # of a squared distance, as a share of the squares' sum
        self._pivots = spread_out(points, max(1, min(_CELLS, n // 64, capacity // _CENTRES_PER_CELL)))
        self._cell = np.empty(n, np.int32)
        self._to_pivot = np.empty(n, np.float32)
        spread(self._assign, range(0, n, _BLOCK_ROWS))
        self._radius = np.zeros(len(self._pivots), np.float32)
        np.maximum.at(self._radius, self._cell, self._to_pivot)
        self._lists = [_CellList() for _ in self._pivots]
        self._lengths = np.zeros(len(self._pivots), np.int32)  # of the lists, when points were last measured

    def add_centres(self, centres: FloatArray) -> None:
        """Adds centres that are no picks; no point is measured yet."""
        end = self.count + len(centres)
        self.centres[self.count : end] = centres
        reach = np.zeros(len(self._lists), np.float32)
        np.maximum.at(reach, self._cell, np.sqrt(np.maximum(self.bound, 0)))
        self._list(self.count, end, reach)
        self.count = end

    def pick(self, index: int, squared: float) -> None:
        """Takes a point whatever its bound."""
        self.add_centres(self.points[index : index + 1])
        self._note(index, squared)
        self.bound[index] = -1

    def advance(self, m: int) -> None:
        """One round; stops when m points are picked in all. At least one point is picked or measured."""
        pool, least, first_outside = self._pool()
        candidates = self._measured(pool, least)
        if len(candidates) > _CANDIDATES:
            before, tied_before = least, first_outside
            candidates, least, first_outside = self._largest(candidates, _CANDIDATES)
            if least == before:
                first_outside = min(first_outside, tied_before)
        if len(candidates) == 0:
            return
        start, reach = self.count, math.sqrt(float(self.bound[candidates].max()))
        self._pick_among(candidates, least, first_outside, m)
        if self.count > start:
            self._list(start, self.count, np.float32(reach))
            self._met[candidates] = [len(self._lists[c]) for c in self._cell[candidates]]

    def farthest(self) -> float:
        """The largest squared distance of any point to its nearest centre (or its start value)."""
        while True:
            pool, least, _ = self._pool()
            if len(pool) == 0:
                return 0.0
            candidates = self._measured(pool, least)
            if len(candidates):
                return float(self.bound[candidates].max())

    def _note(self, index: int, squared: float) -> None:
        self.picked.append(index)
        self.picked_squared.append(squared)

    def _pool(self) -> tuple[IndexArray, float, int]:
        """The points with the largest bounds, by index; the least of these bounds; the first tie of it left out."""
        n = len(self.bound)
        size = next(size for centres, size in _POOLS if self.count < centres)
        if n - len(self.picked) <= size:
            return np.flatnonzero(self.bound >= 0), 0.0, n
        some = self.bound[:: max(1, n // (8 * size))]  # any threshold is right; a sample's yields about the size wanted
        least = max(0.0, float(np.partition(some, -(len(some) * size // n) - 1)[-(len(some) * size // n) - 1]))
        pool = np.flatnonzero(self.bound >= least)
        return (pool, least, n) if len(pool) <= 2 * size else self._largest(np.flatnonzero(self.bound >= 0), size)

    def _largest(self, points: IndexArray, size: int) -> tuple[IndexArray, float, int]:
        """As `_pool`: the `size` of the points with the largest bounds, of equal ones the first."""
        bound = self.bound[points]
        least = float(np.partition(bound, len(bound) - size)[len(bound) - size])
        above, ties = points[bound > least], points[bound == least]
        room = size - len(above)
        first_outside = int(ties[room]) if len(ties) > room else len(self.bound)
        return np.sort(np.concatenate([above, ties[:room]])), least, first_outside

    # Picking: all candidates are measured, and no point outside has a bound above `least`.

    def _pick_among(self, candidates: IndexArray, least: float, first_outside: int, m: int) -> None:
        vectors = self.points[candidates]
        pairs = self._close_pairs(vectors, float(self.bound[candidates].max()))
        if pairs is None:
            self._pick_densely(candidates, vectors, least, first_outside, m)
        else:
            self._pick_sparsely(candidates, vectors, pairs, least, first_outside, m)

    def _pick_densely(
        self, candidates: IndexArray, vectors: FloatArray, least: float, first_outside: int, m: int
    ) -> None:
        bound, near = self.bound[candidates], self.near[candidates]
        while len(self.picked) < m:
            j = int(bound.argmax())
            if not _allowed(float(bound[j]), int(candidates[j]), least, first_outside):
                break
            self._note(int(candidates[j]), float(bound[j]))
            self.centres[self.count] = vectors[j]
            squared = squared_distances(vectors, vectors[j])
            near[squared < bound] = self.count
            np.minimum(bound, squared, out=bound)
            bound[j] = -1
            self.count += 1
        self.bound[candidates], self.near[candidates] = bound, near

    def _pick_sparsely(
        self,
        candidates: IndexArray,
        vectors: FloatArray,
        pairs: tuple[IndexArray, IndexArray],
        least: float,
        first_outside: int,
        m: int,
    ) -> None:
        rows, others = pairs
        squared = pair_distances(vectors, vectors, rows, others).tolist()
        starts = np.searchsorted(rows, np.arange(len(vectors) + 1)).tolist()
        neighbours, indices = others.tolist(), candidates.tolist()
        bound, near = self.bound[candidates].tolist(), self.near[candidates].tolist()
        heap = [(-b, j) for j, b in enumerate(bound)]
        heapq.heapify(heap)
        while len(self.picked) < m and heap:
            b, j = heapq.heappop(heap)
            if -b != bound[j]:
                continue  # lowered since
            if not _allowed(-b, indices[j], least, first_outside):
                break
            self._note(indices[j], -b)
            self.centres[self.count] = vectors[j]
            bound[j] = -1.0
            for at in range(starts[j], starts[j + 1]):
                other = neighbours[at]
                if squared[at] < bound[other]:
                    bound[other], near[other] = squared[at], self.count
                    heapq.heappush(heap, (-squared[at], other))
            self.count += 1
        self.bound[candidates], self.near[candidates] = bound, near

    def _close_pairs(self, vectors: FloatArray, limit: float) -> tuple[IndexArray, IndexArray] | None:
        """Pairs (i, j), i != j, sorted, that could be nearer than `limit` (squared); None if they are too many."""
        if not math.isfinite(limit):
            return None
        n = len(vectors)
        centred = vectors - vectors.mean(axis=0)
        squares = np.einsum("ij,ij->i", centred, centred)
        allowance = limit * (1 + _MARGIN) + 2 * self._rounding * squares
        step = max(64, n // (2 * workers()) + 1)

        def block(a: int) -> tuple[IndexArray, IndexArray] | None:
            product = centred[a : a + step] @ centred.T  # (rows, n)
            product *= -2
            product += (squares - 2 * self._rounding * squares)[None, :]
            close = product <= (allowance - squares)[a : a + step, None]
            if np.count_nonzero(close) > _DENSE * len(close):
                return None
            i, j = np.nonzero(close)
            apart = i + a != j
            return i[apart] + a, j[apart]

        found = [block(a) for a in range(0, n, step)]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    # Measuring: points against the centres of their cell's list that they have not met.

    def _measured(self, pool: IndexArray, least: float) -> IndexArray:
        """The points of the pool that are at least `least` from all centres; their bounds are their distances."""
        self._measure(pool)
        candidates = pool[self.bound[pool] >= least]
        self._tighten(candidates[self._slack[candidates] > 0])
        return candidates[self.bound[candidates] >= least]

    def _tighten(self, points: IndexArray) -> None:
        """Makes bounds the distances to `near`, to the bit."""
        self.bound[points] = pair_distances(self.points, self.centres, points, self.near[points])
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

    def _pairs_in_c(self, groups: list[_Group]) -> tuple[IndexArray, npt.NDArray[np.int32]] | None:
        """As `_pairs`; None if that cannot be done."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "points": self.points,
            "centres": self.centres,
            "pivots": self._pivots,
            "to_pivot": self._to_pivot,
            "met": self._met,
            "bound": self.bound,
            "slack": self._slack,
            "near": self.near,
        }
        pairs = measure(arrays, float(self._rounding), groups, self._lists, share_of_workers())
        if pairs is not None:
            for cell, group in groups:
                self._met[group] = len(self._lists[cell])
        return pairs

    def _pairs(self, groups: list[_Group]) -> tuple[IndexArray, npt.NDArray[np.int32]]:
        """Pairs (point, centre) that have to be measured; points with a clearly nearest centre get it as their bound.
        What is done for all points at once is done once: threads that do much in a call seldom wait for each other."""
        members = np.concatenate([group for _, group in groups])
        sizes = [len(group) for _, group in groups]
        vectors = take(self.points, members, "vectors")
        offsets = take(self._pivots, np.repeat([cell for cell, _ in groups], sizes), "offsets")
        np.subtract(offsets, vectors, out=offsets)  # differences to the pivot are small: so are the rounding errors
        offsets *= 2
        own = np.square(self._to_pivot[members])
        bound = self.bound[members]
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
        self.bound[point], self.near[point], self._slack[point] = upper[clear], number[clear], 2 * margin[clear]
        return members[row[~clear]], number[~clear]

    def _settle(self, point: IndexArray, number: npt.NDArray[np.int32]) -> None:
        """Measures pairs (point, centre); the nearest, if it is nearer, becomes the point's bound."""
        if len(point) == 0:
            return
        some = np.unique(point)
        self._tighten(some[self._slack[some] > 0])
        squared = pair_distances(self.points, self.centres, point, number)
        order = np.lexsort((number, squared, point))
        nearest = order[np.flatnonzero(np.diff(point[order], prepend=-1))]  # one pair for each point
        nearest = nearest[squared[nearest] < self.bound[point[nearest]]]
        self.bound[point[nearest]] = squared[nearest]
        self.near[point[nearest]] = number[nearest]

    def _could_be_nearest(
        self,
        cell: int,
        group: IndexArray,
        offsets: FloatArray,
        own: FloatArray,
        bound: FloatArray,
    ) -> Iterator[tuple[IndexArray, npt.NDArray[np.int32], FloatArray, FloatArray]]:
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
            margin = self._rounding * (own + squares.max())
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

    def _list(self, start: int, end: int, reach: FloatArray | np.float32) -> None:
        """Puts centres on the lists of the cells whose points they may be nearest to.

        reach: a bound of the distance of all points, or of each cell's points, to the centres that there were.
        """
        for a in range(start, end, _BLOCK_ROWS):
            distances = self._pivot_distances(self.centres[a : min(end, a + _BLOCK_ROWS)])
            close = distances * (1 - _MARGIN) <= self._radius + reach
            for cell in np.flatnonzero(close.any(axis=0)).tolist():
                rows = np.flatnonzero(close[:, cell])
                self._lists[cell].extend(rows + a, distances[rows, cell])

    def _pivot_distances(self, centres: FloatArray) -> FloatArray:
        """(n, cells) lower bounds of the distances of centres to pivots, short by no more than rounding."""
        middle = self._pivots.mean(axis=0)
        a, b = centres - middle, self._pivots - middle
        sizes = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
        result: FloatArray = np.sqrt(np.maximum(sizes * (1 - self._rounding) - 2 * (a @ b.T), 0))
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

    def within(self, first: int, reach: float) -> npt.NDArray[np.int32]:
        """Entries from `first` on whose distance to the pivot is at most `reach`, with a margin."""
        close = self.distances[first : self._length] * np.float32(1 - _MARGIN) <= reach
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


def _allowed(squared: float, index: int, least: float, first_outside: int) -> bool:
    """Whether no point outside can be farther, or as far with a smaller index."""
    return squared > least or (squared == least >= 0 and index < first_outside)


def spread_out(points: FloatArray, count: int) -> FloatArray:
    """(count, D) pivots: a farthest-first traversal of an evenly spaced sample."""
    sample = points[:: max(1, len(points) // 2048)]
    bound = np.full(len(sample), np.inf, np.float32)
    chosen = [0]
    for _ in range(count - 1):
        np.minimum(bound, squared_distances(sample, sample[chosen[-1]]), out=bound)
        chosen.append(int(bound.argmax()))
    return sample[chosen]
