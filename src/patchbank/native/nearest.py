"""The bank as native.c searches it for the nearest vector of each query."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank.native import level, library

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

PANEL, KEPT = 32, 8  # as in native.c
_COUNTS = ("dim", "axes", "dims", "cells")
_ARRAYS = ("middle", "directions", "pivots", "halves", "columns", "first", "numbers", "vectors", "between", "least")
_NUMBERS = ("shadow_rounding", "rounding", "farthest", "measure_rounding")


class _Struct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in _COUNTS),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        *((name, ctypes.c_float) for name in _NUMBERS),
    )


@dataclass(frozen=True, eq=False)
class NativeBank:
    """A bank as native.c reads it, whose struct says what is what. All arrays are contiguous.

    tops: (panels, PANEL) float32; infinite where a place holds no vector.
    """

    dim: int
    axes: int
    dims: int
    cells: int
    middle: FloatArray
    directions: FloatArray
    pivots: FloatArray
    halves: FloatArray
    columns: FloatArray
    first: IntArray
    numbers: IntArray
    vectors: FloatArray
    between: FloatArray
    least: FloatArray
    shadow_rounding: float
    rounding: float
    farthest: float
    measure_rounding: float
    tops: FloatArray

    def tops_without(self, hidden: npt.NDArray[np.bool_] | None) -> FloatArray:
        """The tops for a search to which some of the vectors, (M,) bool, do not count."""
        if hidden is None:
            return self.tops
        return np.where((self.numbers >= 0) & hidden[self.numbers], np.float32(np.inf), self.tops)

    def candidates(self, queries: FloatArray, tops: FloatArray, threads: int) -> IntArray:
        """(Q, dim) float32, contiguous -> (Q, KEPT): which bank vectors may be each query's nearest, -1 for none.

        A first of -1: more than KEPT may be. threads: how many may work on it; they do not need Python's lock.
        """
        found = np.empty((len(queries), KEPT), np.int32)
        bank = _Struct(
            **{name: getattr(self, name) for name in (*_COUNTS, *_NUMBERS)},
            **{name: getattr(self, name).ctypes.data for name in _ARRAYS},
        )
        addresses = (ctypes.addressof(bank), tops.ctypes.data, queries.ctypes.data)
        if library().patchbank_nearest(*addresses, len(queries), found.ctypes.data, threads, level()):
            raise MemoryError("the search needs a few megabytes, which the system did not give")
        return found


def panels(columns: FloatArray) -> FloatArray:
    """(rows, n) -> (n / PANEL, rows, PANEL), the last panel filled up with zeros."""
    rows, n = columns.shape
    filled = np.zeros((rows, -(-n // PANEL) * PANEL), np.float32)
    filled[:, :n] = columns
    return np.ascontiguousarray(filled.reshape(rows, -1, PANEL).transpose(1, 0, 2))
