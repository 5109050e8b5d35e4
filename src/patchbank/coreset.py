"""Samplers: which of the training patches the memory bank keeps.                                  (N, D) -> (M,)

Greedy k-center (Gonzalez 1985; PatchCore, Roth et al. 2022, Algorithm 1) takes the point farthest from those taken so
far, again and again. The textbook loop passes over all N points for each pick. Here a point's distance is refreshed
only when it could be the farthest: a distance to a growing set only falls, so an old value is an upper bound
(`docs/adr/0003-coreset-by-blocks.md`). The selections are those of the textbook loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.progress import Progress, silent

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

_TIE = 1e-9  # squared distances that differ by less than this share are ties: the smallest index wins
_POOL = 1024  # points kept fresh, from which picks are made
_BLOCK_BYTES = 16 << 20  # a block of a distance matrix


@dataclass(frozen=True)
class Coreset:
    """What a sampler chose.

    indices: (M,) int64, in order of selection, no index twice.
    distances: (M,) float32, Euclidean distance of each pick to the coreset when it was picked, in the space where the
        sampler works (projected for `approx_greedy_coreset`); inf for a first pick that had nothing to be far from,
        NaN where the sampler measures no distances (`identity`, `random`).
    covering_radius: largest Euclidean distance of any of the N points to its nearest pick, in the space of the
    features.
    """

    indices: IndexArray
    distances: FloatArray
    covering_radius: float


def coreset_size(n: int, config: Config) -> int:
    """How many of n points the coreset keeps."""
    if config.coreset_size is not None:
        return min(n, config.coreset_size)
    return max(1, int(n * config.coreset_ratio))


def sample(features: FloatArray, config: Config, progress: Progress = silent) -> Coreset:
    """Thins features, (N, D) float32, by `config.sampler`. Same features and config, same result.

    Reports ("coreset", picks done, picks in all). Raises ConfigError for features that are empty or not finite.
    """
    points = _checked(features)
    m = coreset_size(len(points), config)
    rng = np.random.default_rng(config.seed)
    if config.sampler == "identity":
        return identity(points)
    if config.sampler == "random":
        return random_sample(points, m, rng)
    if config.sampler == "greedy_coreset":
        return greedy_kcenter(points, m, progress=progress)
    projected = project(points, config.projection_dim, rng)
    picks = greedy_kcenter(projected, m, start_bounds=mean_distance(projected, rng), progress=progress)
    radius = picks.covering_radius
    if projected is not points:
        radius = covering_radius(points, points[picks.indices])
    return Coreset(picks.indices, picks.distances, radius)


def identity(features: FloatArray) -> Coreset:
    """Keeps every point."""
    n = len(features)
    return Coreset(np.arange(n, dtype=np.int64), np.full(n, np.nan, np.float32), 0.0)


def random_sample(features: FloatArray, m: int, rng: np.random.Generator) -> Coreset:
    """Keeps m points chosen at random, without replacement."""
    indices = rng.permutation(len(features))[:m].astype(np.int64)
    return Coreset(indices, np.full(m, np.nan, np.float32), covering_radius(features, features[indices]))


def project(features: FloatArray, dim: int, rng: np.random.Generator) -> FloatArray:
    """(N, D) -> (N, dim) by a random linear map that keeps distances on average; the features themselves if D ==
    dim."""
    d = features.shape[1]
    if d == dim:
        return features
    matrix = (rng.standard_normal((d, dim)) / math.sqrt(dim)).astype(np.float32)
    return features @ matrix


def mean_distance(features: FloatArray, rng: np.random.Generator, anchors: int = 10) -> DoubleArray:
    """(N,) mean Euclidean distance of each point to a few points chosen at random."""
    n = len(features)
    chosen = features[rng.choice(n, size=min(n, anchors), replace=False)].astype(np.float64)
    total = np.zeros(n)
    for start, block in _blocks(features, 2 * features.shape[1] * 8):
        for anchor in chosen:
            total[start : start + len(block)] += np.sqrt(np.square(block - anchor).sum(axis=1))
    return total / len(chosen)


def greedy_kcenter(
    points: FloatArray,
    m: int,
    *,
    start_bounds: npt.NDArray[np.floating] | None = None,
    seeds: FloatArray | None = None,
    progress: Progress = silent,
) -> Coreset:
    """Takes m of the points, each the farthest from `seeds` and the points taken before it; ties go to the smallest
    index.

    points: (N, D) float32. start_bounds: (N,) distances that count as each point's distance until a pick is nearer.
    seeds: (S, D) float32, centres that are chosen already (they are not among the result's indices).
    With neither, the first pick is the point with the largest norm of its row of the distance matrix.
    The covering radius counts the picks and the seeds, not the start bounds.
    """
    points = _checked(points)
    n = len(points)
    if not 1 <= m <= n:
        raise ConfigError(f"coreset size: expected 1 to {n} (the number of points), got {m}")
    state = _State(points, start_bounds, seeds, m)
    progress("coreset", 0, m)
    pool = _POOL
    while state.count < m:
        before = state.count
        state.pick_from_pool(m, pool)
        pool = _POOL if state.count > before else 2 * pool  # ties that fill the pool need a larger one
        progress("coreset", state.count, m)
    radius = covering_radius(points, state.all_centres())
    return Coreset(state.indices, np.sqrt(state.squared).astype(np.float32), radius)


class _State:
    """Squared upper bounds of all points, and how many centres each of them has been compared with."""

    def __init__(
        self, points: FloatArray, start: npt.NDArray[np.floating] | None, seeds: FloatArray | None, m: int
    ) -> None:
        self.points = points
        self.mean = points.mean(axis=0, dtype=np.float64)
        self.offset = 0 if seeds is None else len(seeds)
        self.centres = np.empty((self.offset + m, points.shape[1]))
        self.squares = np.empty(self.offset + m)
        self.count = 0
        self.indices = np.empty(m, dtype=np.int64)
        self.squared = np.empty(m)
        self.bound = np.full(len(points), np.inf)
        self.seen = np.zeros(len(points), dtype=np.int64)
        if seeds is not None:
            self.centres[: self.offset] = seeds - self.mean
            self.squares[: self.offset] = np.square(self.centres[: self.offset]).sum(axis=1)
        if start is not None:
            self.bound = np.square(np.asarray(start, dtype=np.float64))
        elif seeds is None:
            self._take(_largest_row_norm(points), np.inf)
        scale = float(np.square(points - self.mean).sum(axis=1).max()) if len(points) else 0.0
        self.zero = 1e-12 * scale

    def all_centres(self) -> FloatArray:
        """(S + count, D): the seeds and the picks, as they were given."""
        return (self.centres[: self.offset + self.count] + self.mean).astype(np.float32)

    def _take(self, index: int, squared: float) -> None:
        row = self.offset + self.count
        self.centres[row] = self.points[index] - self.mean
        self.squares[row] = np.square(self.centres[row]).sum()
        self.indices[self.count] = index
        self.squared[self.count] = squared
        self.bound[index] = -1.0
        self.count += 1

    def pick_from_pool(self, m: int, size: int) -> None:
        """Freshens the points with the largest bounds and picks among them while no other point can be farther."""
        size = min(size, len(self.bound))
        pool = np.sort(np.argpartition(-self.bound, size - 1)[:size])
        rest = self.bound.copy()
        rest[pool] = -1.0
        outside = max(float(rest.max()), 0.0)
        vectors, squares = self._refresh(pool)
        bound = self.bound[pool]
        while self.count < m:
            best = float(bound.max())
            if best * (1 - _TIE) <= outside and size < len(self.bound):
                break
            j = int(np.argmax(bound >= (best * (1 - _TIE) if best > self.zero else 0.0)))
            self._take(int(pool[j]), max(float(bound[j]), 0.0))
            bound[j] = -1.0
            row = self.offset + self.count - 1
            fresh = vectors @ self.centres[row]
            fresh *= -2
            fresh += squares
            fresh += self.squares[row]
            np.maximum(fresh, 0, out=fresh)
            np.minimum(bound, fresh, out=bound)
        self.bound[pool] = bound
        self.seen[pool] = self.offset + self.count

    def _refresh(self, pool: IndexArray) -> tuple[DoubleArray, DoubleArray]:
        """Compares the pool with the centres that it has not met; returns its centred vectors and their squares."""
        vectors = self.points[pool] - self.mean
        squares = np.square(vectors).sum(axis=1)
        end = self.offset + self.count
        start = int(self.seen[pool].min())
        step = max(1, _BLOCK_BYTES // (8 * len(pool)))
        for a in range(start, end, step):
            b = min(end, a + step)
            block = self.centres[a:b] @ vectors.T  # (centres, pool)
            block *= -2
            block += self.squares[a:b, None]
            nearest = np.maximum(block.min(axis=0) + squares, 0)
            self.bound[pool] = np.minimum(self.bound[pool], nearest)
        self.seen[pool] = end
        return vectors, squares


def covering_radius(points: FloatArray, centres: FloatArray) -> float:
    """Largest Euclidean distance of any of the points, (N, D), to its nearest centre, (M, D)."""
    from patchbank.search import ExactSearcher

    searcher = ExactSearcher(centres)
    return max(float(searcher.search(block, 1)[0].max()) for _, block in _blocks(points, 4 * len(centres)))


def _largest_row_norm(points: FloatArray) -> int:
    """The point with the largest sum of squared distances to all others: N |x|^2 + sum |y|^2 - 2 x . sum y."""
    mean = points.mean(axis=0, dtype=np.float64)
    norms = np.concatenate([np.square(block - mean).sum(axis=1) for _, block in _blocks(points, 16 * points.shape[1])])
    return int(np.argmax(norms >= norms.max() * (1 - _TIE)))  # centred, the sums differ by N |x|^2 only


def _blocks(points: FloatArray, bytes_per_row: int) -> list[tuple[int, FloatArray]]:
    rows = max(1, _BLOCK_BYTES // max(1, bytes_per_row))
    return [(a, points[a : a + rows]) for a in range(0, len(points), rows)]


def _checked(features: FloatArray) -> FloatArray:
    points = np.asarray(features, dtype=np.float32)
    if points.ndim != 2 or 0 in points.shape:
        raise ConfigError(
            f"features: expected an array of shape (n, d) with at least one row, got shape {points.shape}"
        )
    if not np.isfinite(points).all():
        raise ConfigError("features: expected finite numbers, got NaN or infinity; check the backbone and its input")
    return points
