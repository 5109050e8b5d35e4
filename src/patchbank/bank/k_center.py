"""Greedy k-center (farthest-first traversal) that measures a point only when it could be the farthest.

A point's distance to a growing set of centres only falls, so an old value is an upper bound. Each round takes the
points with the largest bounds (the pool), measures them against the centres that they have not met
(`bank/k_center_bounds.py`), and picks among them while the farthest is farther than every bound outside. What decides
is measured by direct differences. The selections are therefore, bit for bit, those of the textbook loop that measures
all points by direct differences in float32 at every pick.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from patchbank.arrays import FloatArray, IndexArray
from patchbank.bank.k_center_bounds import MARGIN, Bounds
from patchbank.native.sums import pair_distances, squared_distances
from patchbank.util.parallel import workers

_POOLS = ((1024, 16384), (math.inf, 12288))  # points that a round refreshes, while there are fewer centres than ...
_CANDIDATES = 4096  # points that picks are made from, at most
_DENSE = 48  # neighbours a candidate, from which on a round measures all candidates at each pick


class KCenter:
    """The state of a traversal: the picks so far, and each point's bound of its squared distance to them.

    points: (N, D) float32, finite, not copied. capacity: number of centres there will be at most, seeds included.
    start: (N,) squared distances to start from (inf = none).
    """

    def __init__(self, points: FloatArray, capacity: int, start: FloatArray | None = None) -> None:
        self.points = points
        self.bounds = Bounds(points, capacity, start)
        self.picked: list[int] = []
        self.picked_squared: list[float] = []

    def pick(self, index: int, squared: float) -> None:
        """Takes a point whatever its bound."""
        self.bounds.add_centres(self.points[index : index + 1])
        self._note(index, squared)
        self.bounds.squared[index] = -1

    def advance(self, m: int) -> None:
        """One round; stops when m points are picked in all. At least one point is picked or measured."""
        pool, least, first_outside = self._pool()
        candidates = self.bounds.measured(pool, least)
        if len(candidates) > _CANDIDATES:
            before, tied_before = least, first_outside
            candidates, least, first_outside = self._largest(candidates, _CANDIDATES)
            if least == before:
                first_outside = min(first_outside, tied_before)
        if len(candidates) == 0:
            return
        reach = math.sqrt(float(self.bounds.squared[candidates].max()))
        picked = self._pick_among(candidates, least, first_outside, m)
        self.bounds.add_met(self.points[candidates[picked]], candidates, reach)

    def farthest(self) -> float:
        """The largest squared distance of any point to its nearest centre (or its start value)."""
        while True:
            pool, least, _ = self._pool()
            if len(pool) == 0:
                return 0.0
            candidates = self.bounds.measured(pool, least)
            if len(candidates):
                return float(self.bounds.squared[candidates].max())

    def _note(self, index: int, squared: float) -> None:
        self.picked.append(index)
        self.picked_squared.append(squared)

    def _pool(self) -> tuple[IndexArray, float, int]:
        """The points with the largest bounds, by index; the least of these bounds; the first tie of it left out."""
        squared = self.bounds.squared
        n, size = len(squared), next(size for centres, size in _POOLS if self.bounds.count < centres)
        if n - len(self.picked) <= size:
            return np.flatnonzero(squared >= 0), 0.0, n
        some = squared[:: max(1, n // (8 * size))]  # any threshold is right; a sample's yields about the size wanted
        least = max(0.0, float(np.partition(some, -(len(some) * size // n) - 1)[-(len(some) * size // n) - 1]))
        pool = np.flatnonzero(squared >= least)
        return (pool, least, n) if len(pool) <= 2 * size else self._largest(np.flatnonzero(squared >= 0), size)

    def _largest(self, points: IndexArray, size: int) -> tuple[IndexArray, float, int]:
        """As `_pool`: the `size` of the points with the largest bounds, of equal ones the first."""
        bound = self.bounds.squared[points]
        least = float(np.partition(bound, len(bound) - size)[len(bound) - size])
        above, ties = points[bound > least], points[bound == least]
        room = size - len(above)
        first_outside = int(ties[room]) if len(ties) > room else len(self.bounds.squared)
        return np.sort(np.concatenate([above, ties[:room]])), least, first_outside

    # Picking: all candidates are measured, and no point outside has a bound above `least`. What comes back is which
    # candidates were picked, in order; their bounds are -1 then, and the others have met them.

    def _pick_among(self, candidates: IndexArray, least: float, first_outside: int, m: int) -> list[int]:
        vectors = self.points[candidates]
        pairs = self._close_pairs(vectors, float(self.bounds.squared[candidates].max()))
        if pairs is None:
            return self._pick_densely(candidates, vectors, least, first_outside, m)
        return self._pick_sparsely(candidates, vectors, pairs, least, first_outside, m)

    def _pick_densely(
        self, candidates: IndexArray, vectors: FloatArray, least: float, first_outside: int, m: int
    ) -> list[int]:
        bound, near = self.bounds.squared[candidates], self.bounds.near[candidates]
        picked: list[int] = []
        while len(self.picked) < m:
            j = int(bound.argmax())
            if not _allowed(float(bound[j]), int(candidates[j]), least, first_outside):
                break
            self._note(int(candidates[j]), float(bound[j]))
            squared = squared_distances(vectors, vectors[j])
            near[squared < bound] = self.bounds.count + len(picked)
            np.minimum(bound, squared, out=bound)
            bound[j] = -1
            picked.append(j)
        self.bounds.squared[candidates], self.bounds.near[candidates] = bound, near
        return picked

    def _pick_sparsely(
        self,
        candidates: IndexArray,
        vectors: FloatArray,
        pairs: tuple[IndexArray, IndexArray],
        least: float,
        first_outside: int,
        m: int,
    ) -> list[int]:
        rows, others = pairs
        squared = pair_distances(vectors, vectors, rows, others).tolist()
        starts = np.searchsorted(rows, np.arange(len(vectors) + 1)).tolist()
        neighbours, indices = others.tolist(), candidates.tolist()
        bound, near = self.bounds.squared[candidates].tolist(), self.bounds.near[candidates].tolist()
        heap = [(-b, j) for j, b in enumerate(bound)]
        heapq.heapify(heap)
        picked: list[int] = []
        while len(self.picked) < m and heap:
            b, j = heapq.heappop(heap)
            if -b != bound[j]:
                continue  # lowered since
            if not _allowed(-b, indices[j], least, first_outside):
                break
            self._note(indices[j], -b)
            number = self.bounds.count + len(picked)
            bound[j] = -1.0
            for at in range(starts[j], starts[j + 1]):
                other = neighbours[at]
                if squared[at] < bound[other]:
                    bound[other], near[other] = squared[at], number
                    heapq.heappush(heap, (-squared[at], other))
            picked.append(j)
        self.bounds.squared[candidates], self.bounds.near[candidates] = bound, near
        return picked

    def _close_pairs(self, vectors: FloatArray, limit: float) -> tuple[IndexArray, IndexArray] | None:
        """Pairs (i, j), i != j, sorted, that could be nearer than `limit` (squared); None if they are too many."""
        if not math.isfinite(limit):
            return None
        n = len(vectors)
        centred = vectors - vectors.mean(axis=0)
        squares = np.einsum("ij,ij->i", centred, centred)
        allowance = limit * (1 + MARGIN) + 2 * self.bounds.rounding * squares
        step = max(64, n // (2 * workers()) + 1)

        def block(a: int) -> tuple[IndexArray, IndexArray] | None:
            product = centred[a : a + step] @ centred.T  # (rows, n)
            product *= -2
            product += (squares - 2 * self.bounds.rounding * squares)[None, :]
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


def _allowed(squared: float, index: int, least: float, first_outside: int) -> bool:
    """True if no point outside can be farther, or as far with a smaller index."""
    return squared > least or (squared == least >= 0 and index < first_outside)
