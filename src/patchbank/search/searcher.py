"""Nearest neighbours of patches in the memory bank.                                            (Q, D) -> (Q, k)

All distances are Euclidean, not squared. The neighbours that are returned are measured by direct differences, so a
vector that is in the bank is at distance 0 exactly. Ties go to the smallest index. Exact results do not depend on the
number of threads, nor on which other queries are searched at the same time.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from patchbank.arrays import FloatArray, IndexArray
from patchbank.config import Config
from patchbank.errors import ConfigError, MissingExtraError
from patchbank.native.sums import pair_distances
from patchbank.search.exact import ExactSearcher, checked, checked_queries, k_smallest
from patchbank.validation import without_code

Neighbours = tuple[FloatArray, IndexArray]


class Searcher(Protocol):
    """Finds the k nearest of the vectors it was built from."""

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64."""
        ...


def build_searcher(vectors: FloatArray, config: Config) -> Searcher:
    """The searcher that `config.search` names, over vectors, (M, D) float32."""
    if config.search == "exact":
        return ExactSearcher(vectors)
    if config.search in ("flat", "ivf"):
        return FaissSearcher(vectors, config.search, config.seed)
    raise without_code("search", config.search)


class FaissSearcher:
    """Search by a faiss index: 'flat' (all vectors, exact but for rounding) or 'ivf' (inverted lists, approximate).

    'ivf' is for banks beyond a million vectors; 'flat' finds what ExactSearcher finds, more slowly. Distances of what
    the index finds are measured by direct differences, as ExactSearcher's are.
    """

    def __init__(self, vectors: FloatArray, kind: str, seed: int = 0) -> None:
        self.vectors = checked("bank vectors", vectors)
        self._index = _faiss_index(self.vectors, kind, seed)

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """queries: (Q, D) float32. Returns distances (Q, k) float32, ascending, and indices (Q, k) int64."""
        queries = checked_queries(queries, self.vectors.shape[1], k, len(self.vectors))
        if len(queries) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        _, found = self._index.search(np.ascontiguousarray(queries), k)
        short = np.flatnonzero((found < 0).any(axis=1))  # fewer than k entries were visited: these are searched exactly
        if len(short):
            found[short] = ExactSearcher(self.vectors).search(queries[short], k)[1]
        q = np.repeat(np.arange(len(queries)), k)
        squared = pair_distances(queries, self.vectors, q, found.ravel())
        return k_smallest(q, found.ravel(), squared, len(queries), k)


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


def _faiss_index(vectors: FloatArray, kind: str, seed: int) -> Any:
    try:
        faiss: Any = importlib.import_module("faiss")  # here, because it takes a third of a second
    except ImportError as error:
        raise MissingExtraError(f"search = {kind!r} needs faiss; run: pip install 'patchbank[ann]'") from error
    m, d = vectors.shape
    if kind == "flat":
        index = faiss.IndexFlatL2(d)
    elif kind == "ivf":
        lists = max(1, min(int(4 * m**0.5), m // 39))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, lists)
        index.cp.seed = seed
        index.nprobe = max(1, lists // 16)
    else:
        raise ConfigError(f"faiss index: expected 'flat' or 'ivf', got {kind!r}")
    index.train(vectors)
    index.add(vectors)
    return index
