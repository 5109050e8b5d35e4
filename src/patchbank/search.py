"""Nearest neighbours of patches in the memory bank.                                            (Q, D) -> (Q, k)

All distances are Euclidean, not squared. The neighbours that are returned are measured again by direct differences, so
a vector that is in the bank is at distance 0 exactly. Ties go to the smallest index.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from patchbank.config import Config
from patchbank.errors import ConfigError

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]
Neighbours = tuple[FloatArray, IndexArray]

_BLOCK_BYTES = 8 << 20


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
    """Exact search."""

    def __init__(self, vectors: FloatArray) -> None:
        self.vectors = _checked("bank vectors", vectors)
        self._mean = self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._centred = self.vectors - self._mean
        self._squares = np.square(self._centred).sum(axis=1)

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64."""
        queries = _checked_queries(queries, self.vectors, k)
        rows = max(1, _BLOCK_BYTES // (4 * len(self.vectors)))
        parts = [self._search_block(queries[a : a + rows], k) for a in range(0, len(queries), rows)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _search_block(self, queries: FloatArray, k: int) -> Neighbours:
        centred = queries - self._mean
        squared = centred @ self._centred.T  # (Q, M)
        squared *= -2
        squared += self._squares
        worst = squared.min(axis=1) if k == 1 else np.partition(squared, k - 1, axis=1)[:, k - 1]
        norms = np.square(centred).sum(axis=1) + self._squares.max()
        slack = 2 * np.finfo(np.float32).eps * (self.vectors.shape[1] + 8) * norms
        q, b = np.nonzero(squared <= (worst + slack)[:, None])
        return _k_smallest(queries, self.vectors, q, b, k)


class FaissSearcher:
    """Approximate search by a faiss index: 'ivf' (inverted lists) or 'hnsw' (a graph)."""

    def __init__(self, vectors: FloatArray, kind: str, seed: int = 0) -> None:
        self.vectors = _checked("bank vectors", vectors)
        self._index = _faiss_index(self.vectors, kind, seed)

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64."""
        queries = _checked_queries(queries, self.vectors, k)
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
    """The k nearest of the vectors whose group is another than `group` (leave-one-image-out).

    groups: (M,) int64, the group (training image) of each vector. Only queries that have a vector of `group` among
    their k nearest are searched again.
    """
    others = np.flatnonzero(np.asarray(groups) != group)
    if len(others) < k:
        raise ConfigError(
            f"expected at least {k} vectors outside group {group}, got {len(others)}; lower k or enlarge the bank"
        )
    distances, indices = searcher.search(queries, k)
    again = np.flatnonzero((np.asarray(groups)[indices] == group).any(axis=1))
    if len(again):
        found, where = ExactSearcher(vectors[others]).search(queries[again], k)
        distances[again], indices[again] = found, others[where]
    return distances, indices


def _k_smallest(queries: FloatArray, vectors: FloatArray, q: IndexArray, b: IndexArray, k: int) -> Neighbours:
    """The k nearest among candidate pairs (query q, vector b), measured by direct differences in double precision."""
    squared = np.empty(len(q))
    step = max(1, _BLOCK_BYTES // (8 * vectors.shape[1]))
    for a in range(0, len(q), step):
        difference = queries[q[a : a + step]].astype(np.float64) - vectors[b[a : a + step]]
        squared[a : a + step] = np.einsum("ij,ij->i", difference, difference)
    order = np.lexsort((b, squared, q))
    first = np.searchsorted(q[order], np.arange(len(queries)))
    chosen = order[first[:, None] + np.arange(k)]  # (Q, k)
    return np.sqrt(squared[chosen]).astype(np.float32), b[chosen].astype(np.int64)


def _faiss_index(vectors: FloatArray, kind: str, seed: int) -> Any:
    faiss: Any = importlib.import_module("faiss")  # here, because it takes a third of a second
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
    if not np.isfinite(array).all():
        raise ConfigError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def _checked_queries(queries: FloatArray, vectors: FloatArray, k: int) -> FloatArray:
    queries = np.asarray(queries, dtype=np.float32)
    m, d = vectors.shape
    if queries.ndim != 2 or queries.shape[1] != d:
        raise ConfigError(f"queries: expected an array of shape (q, {d}), got shape {queries.shape}")
    if not 1 <= k <= m:
        raise ConfigError(f"k: expected 1 to {m} (the number of bank vectors), got {k}; lower k or enlarge the bank")
    if not np.isfinite(queries).all():
        raise ConfigError("queries: expected finite numbers, got NaN or infinity; check the image and the backbone")
    return queries
