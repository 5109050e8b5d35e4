"""Squared Euclidean distances by direct differences in float32, which decide wherever bounds do not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from patchbank.arrays import FloatArray, IndexArray
from patchbank.util.parallel import scratch


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
