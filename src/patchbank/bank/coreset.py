"""Samplers: which of the training patches the memory bank keeps.                                  (N, D) -> (M,)

Greedy k-center (Gonzalez 1985; PatchCore, Roth et al. 2022, Algorithm 1) takes the point farthest from those taken so
far, again and again: at any time, every point is within the last pick's distance of the coreset. How that is done
without a pass over all points for each pick is in `bank/k_center.py` and `bank/k_center_bounds.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from patchbank.arrays import DoubleArray, FloatArray, IndexArray
from patchbank.bank.k_center import KCenter
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.native.sums import squared_distances
from patchbank.util.parallel import one_blas_thread, spread
from patchbank.util.progress import Progress, silent
from patchbank.validation import without_code

USUAL_RATIO = 0.01  # of the training patches, where the options name no share,
LEAST = 8_000  # but at least so many: one in a hundred of few images leaves gaps (docs/results/quality.md)
_BLOCK_ROWS = 4096
_LARGEST = 1e15  # squares of larger features, summed, leave float32's range


@dataclass(frozen=True, eq=False)
class Coreset:
    """The choice of a sampler.

    indices: (M,) int64, in order of selection, no index twice.
    distances: (M,) float32, Euclidean distance of each pick to the coreset when it was picked, in the space where the
        sampler works (projected for `approx_greedy_coreset`, whose start distances count until a pick is nearer); inf
        for a first pick that had nothing to be far from, NaN where the sampler measures none (`identity`, `random`).
    covering_radius: largest Euclidean distance of any of the N points to its nearest pick, in the features' space.
    spares: (S,) int64, what the sampler would have picked next.
    """

    indices: IndexArray
    distances: FloatArray
    covering_radius: float
    spares: IndexArray = field(default_factory=lambda: np.empty(0, np.int64))


def coreset_size(n: int, config: Config) -> int:
    """Returns the number of points, of n, that the coreset keeps."""
    if config.coreset_size is not None:
        return min(n, config.coreset_size)
    if config.coreset_ratio is None:
        return min(n, max(int(n * USUAL_RATIO), LEAST), config.coreset_limit)
    return max(1, min(int(n * config.coreset_ratio), config.coreset_limit))


def spare_size(n: int, m: int, config: Config) -> int:
    """Returns the number of points, of n, that are kept beside a coreset of m: the sampler's next picks."""
    return min(n - m, round(config.spare_ratio * m)) if config.sampler != "identity" else 0


def sample(features: FloatArray, config: Config, progress: Progress = silent) -> Coreset:
    """Thins features, (N, D) float32, by `config.sampler`. Same features and config, same result.

    Reports ("coreset", picks done, picks in all). Raises ConfigError for features that are empty or not finite.
    """
    points = _checked(features)
    m = coreset_size(len(points), config)
    spares = spare_size(len(points), m, config)
    rng = np.random.default_rng(config.seed)
    if config.sampler == "identity":
        return identity(points)
    if config.sampler == "random":
        return random_sample(points, m, rng, spares=spares)
    if config.sampler == "greedy_coreset":
        picked = greedy_kcenter(points, m + spares, progress=progress)
        radius = float(picked.distances[m]) if spares else picked.covering_radius  # the next pick is the farthest point
        return Coreset(picked.indices[:m], picked.distances[:m], radius, picked.indices[m:])
    if config.sampler == "approx_greedy_coreset":
        return approximate_kcenter(points, m, config.projection_dim, rng, spares=spares, progress=progress)
    raise without_code("sampler", config.sampler)


def continued(
    features: FloatArray, m: int, centres: FloatArray, config: Config, progress: Progress = silent
) -> Coreset:
    """Takes m more of the features, (N, D) float32, as `config.sampler` would with `centres`, (S, D), taken already.

    The covering radius counts the picks and the centres.
    """
    points, centres = _checked(features), _checked(centres)
    if config.sampler == "greedy_coreset":
        return greedy_kcenter(points, m, seeds=centres, progress=progress)
    rng = np.random.default_rng(config.seed)
    if config.sampler == "approx_greedy_coreset":
        with one_blas_thread():
            small, seeds = (
                project(each, config.projection_dim, np.random.default_rng(config.seed)) for each in (points, centres)
            )
        picked = greedy_kcenter(small, m, seeds=seeds, progress=progress)
    elif config.sampler in ("identity", "random"):
        picked = Coreset(rng.permutation(len(points))[:m].astype(np.int64), np.full(m, np.nan, np.float32), math.nan)
    else:
        raise without_code("sampler", config.sampler)
    radius = covering_radius(points, np.concatenate([centres, points[picked.indices]]))
    return replace(picked, covering_radius=radius)


def identity(features: FloatArray) -> Coreset:
    """Keeps every point."""
    n = len(features)
    return Coreset(np.arange(n, dtype=np.int64), np.full(n, np.nan, np.float32), 0.0)


def random_sample(features: FloatArray, m: int, rng: np.random.Generator, *, spares: int = 0) -> Coreset:
    """Keeps m points chosen at random, without replacement."""
    order = rng.permutation(len(features)).astype(np.int64)
    radius = covering_radius(features, features[order[:m]])
    return Coreset(order[:m], np.full(m, np.nan, np.float32), radius, order[m : m + spares])


def greedy_kcenter(
    points: FloatArray,
    m: int,
    *,
    start_bounds: npt.NDArray[np.floating] | None = None,
    seeds: FloatArray | None = None,
    progress: Progress = silent,
) -> Coreset:
    """Takes m of the points, each the farthest from `seeds` and the points taken before it; of equals, the first.

    points: (N, D) float32. start_bounds: (N,) distances that count as each point's distance until a centre is nearer.
    seeds: (S, D) float32, centres that are chosen already (they are not among the result's indices).
    With neither, the first pick is the point with the largest norm of its row of the distance matrix.
    The covering radius counts the picks and the seeds, not the start bounds.
    """
    points = _checked(points)
    with one_blas_thread():
        state = _traverse(points, m, start_bounds, seeds, progress)
        if start_bounds is None:
            radius = math.sqrt(state.farthest())
        else:
            radius = covering_radius(points, state.bounds.centres, state.bounds.near)
    return _result(state, radius)


def cover(points: FloatArray, centres: FloatArray, radius: float, progress: Progress = silent) -> Coreset:
    """Continues greedy k-center from `centres` until every one of the points is within `radius` of a centre or pick.

    points: (N, D) float32. centres: (S, D) float32. radius: a Euclidean distance. Picks none if all are within already.
    """
    points, n, limit = _checked(points), len(points), radius * radius
    with one_blas_thread():
        state = KCenter(points, n + len(centres))
        state.bounds.add_centres(_checked(centres))
        while len(state.picked) < n and not (state.picked and state.picked_squared[-1] <= limit):
            progress("coreset", len(state.picked), n)
            state.advance(n)
        count = int(np.searchsorted(-np.array(state.picked_squared), -limit))  # a round may pick more than is needed
        left = state.picked_squared[count] if count < len(state.picked) else state.farthest()
        progress("coreset", n, n)
        return replace(_result(state, math.sqrt(left), len(state.picked) - count), spares=np.empty(0, np.int64))


def approximate_kcenter(
    features: FloatArray,
    m: int,
    dim: int,
    rng: np.random.Generator,
    *,
    spares: int = 0,
    progress: Progress = silent,
) -> Coreset:
    """Greedy k-center on a random projection to `dim`, started from mean distances to 10 random points.

    features: (N, D) float32. This is the reference implementation's sampler; the radius is that of the features.
    """
    features = _checked(features)
    with one_blas_thread():
        projected = project(features, dim, rng)
        state = _traverse(projected, m + spares, mean_distance(projected, rng), None, progress)
        del projected
        near = np.where(state.bounds.near < m, state.bounds.near, -1)
        return _result(state, covering_radius(features, features[state.picked[:m]], near), spares)


def covering_radius(points: FloatArray, centres: FloatArray, near: npt.NDArray[np.integer] | None = None) -> float:
    """Largest Euclidean distance of any of the points, (N, D), to its nearest centre, (M, D). Exact.

    near: (N,) for each point a centre that is probably close (-1 = unknown): it saves time, and changes nothing else.
    """
    points, centres = _checked(points), _checked(centres)
    with one_blas_thread():
        if near is None:
            near = _roughly_nearest(points, centres)
        hints = np.maximum(near, 0)
        start = np.concatenate(
            spread(
                lambda a: squared_distances(points[a : a + _BLOCK_ROWS], centres[hints[a : a + _BLOCK_ROWS]]),
                range(0, len(points), _BLOCK_ROWS),
            )
        )
        state = KCenter(points, len(centres), start)
        state.bounds.add_centres(centres)
        return math.sqrt(state.farthest())


def project(features: FloatArray, dim: int, rng: np.random.Generator) -> FloatArray:
    """(N, D) -> (N, dim) by a random linear map that keeps squared distances on average; unchanged if D == dim."""
    d = features.shape[1]
    if d == dim:
        return features
    matrix = (rng.standard_normal((d, dim)) / math.sqrt(dim)).astype(np.float32)
    projected = np.empty((len(features), dim), np.float32)

    def block(a: int) -> None:
        np.matmul(features[a : a + _BLOCK_ROWS], matrix, out=projected[a : a + _BLOCK_ROWS])

    spread(block, range(0, len(features), _BLOCK_ROWS))
    return projected


def mean_distance(points: FloatArray, rng: np.random.Generator, anchors: int = 10) -> FloatArray:
    """(N,) mean Euclidean distance of each point to a few of the points, chosen at random."""
    n = len(points)
    chosen = points[rng.choice(n, size=min(n, anchors), replace=False)]

    def block(a: int) -> FloatArray:
        rows = points[a : a + _BLOCK_ROWS]
        total: FloatArray = np.sum([np.sqrt(squared_distances(rows, anchor)) for anchor in chosen], axis=0)
        return total / np.float32(len(chosen))

    return np.concatenate(spread(block, range(0, n, _BLOCK_ROWS)))


def _traverse(
    points: FloatArray,
    m: int,
    start_bounds: npt.NDArray[np.floating] | None,
    seeds: FloatArray | None,
    progress: Progress,
) -> KCenter:
    n = len(points)
    if not 1 <= m <= n:
        raise ConfigError(f"coreset size: expected 1 to {n} (the number of points), got {m}")
    seeds = None if seeds is None or len(seeds) == 0 else _checked(seeds)
    start = None if start_bounds is None else np.square(np.asarray(start_bounds, np.float32))
    state = KCenter(points, m + (0 if seeds is None else len(seeds)), start)
    progress("coreset", 0, m)
    if seeds is not None:
        state.bounds.add_centres(seeds)
    elif start is None:
        state.pick(_largest_row_norm(points), math.inf)
    while len(state.picked) < m:
        state.advance(m)
        progress("coreset", len(state.picked), m)
    return state


def _result(state: KCenter, radius: float, spares: int = 0) -> Coreset:
    m = len(state.picked) - spares
    distances = np.sqrt(np.asarray(state.picked_squared[:m], dtype=np.float32))
    picked = np.asarray(state.picked, dtype=np.int64)
    return Coreset(picked[:m], distances, radius, picked[m:])


def _largest_row_norm(points: FloatArray) -> int:
    """The point with the largest sum over j of d_ij^2 = N |x_i|^2 + sum |x_j|^2 once the points' mean is 0."""
    mean = points.mean(axis=0, dtype=np.float64)

    def block(a: int) -> DoubleArray:
        centred = points[a : a + _BLOCK_ROWS] - mean
        norms: DoubleArray = np.einsum("ij,ij->i", centred, centred)
        return norms

    norms = np.concatenate(spread(block, range(0, len(points), _BLOCK_ROWS)))
    return int(np.argmax(norms >= norms.max() * (1 - 1e-12)))  # the smallest index among ties but for rounding


def _roughly_nearest(points: FloatArray, centres: FloatArray, tried: int = 256) -> IndexArray:
    """(N,) the nearest of a few of the centres."""
    numbers = np.arange(0, len(centres), max(1, len(centres) // tried))
    some = centres[numbers] - centres[0]
    squares = np.einsum("ij,ij->i", some, some)

    def block(a: int) -> IndexArray:
        products = (points[a : a + _BLOCK_ROWS] - centres[0]) @ (-2 * some).T  # (rows, tried)
        return numbers[(products + squares).argmin(axis=1)]

    return np.concatenate(spread(block, range(0, len(points), _BLOCK_ROWS)))


def _checked(features: FloatArray) -> FloatArray:
    points = np.asarray(features, dtype=np.float32)
    if points.ndim != 2 or 0 in points.shape:
        raise ConfigError(
            f"features: expected an array of shape (n, d) with at least one row, got shape {points.shape}"
        )
    low, high = float(points.min()), float(points.max())  # NaN if there is one
    if not (low > -_LARGEST and high < _LARGEST):
        raise ConfigError(
            f"features: expected finite numbers between -{_LARGEST:g} and {_LARGEST:g}, got {low:g} to {high:g}; "
            "check the backbone and its input"
        )
    return np.ascontiguousarray(points)
