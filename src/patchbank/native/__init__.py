"""The compiled part of the exact search (nearest.c), through ctypes; where it was not built, NumPy does its work.

It only rules vectors out. What is left, seldom more than one a query, is measured by NumPy as everywhere, so the
answers are the same bits with and without it, and on every processor. The wheel's build (hatch_build.py) compiles it
where it finds a C compiler. In the environment, PATCHBANK_NATIVE=0 leaves it unused; `avx2` and `any` hold it back from
newer instructions.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

LIBRARY = Path(__file__).with_name("_nearest.so")
PANEL, KEPT = 32, 8  # as in nearest.c
_LEVELS = {"": 0, "1": 0, "avx2": 1, "any": 2}  # what PATCHBANK_NATIVE says -> how nearest.c calls it
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
    """A bank as nearest.c reads it, whose struct says what is what. All arrays are contiguous.

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

    def candidates(self, queries: FloatArray, tops: FloatArray) -> IntArray:
        """(Q, dim) float32, contiguous -> (Q, KEPT): which bank vectors may be each query's nearest, -1 for none.

        A first of -1: more than KEPT may be.
        """
        found = np.empty((len(queries), KEPT), np.int32)
        bank = _Struct(
            **{name: getattr(self, name) for name in (*_COUNTS, *_NUMBERS)},
            **{name: getattr(self, name).ctypes.data for name in _ARRAYS},
        )
        addresses = (ctypes.addressof(bank), tops.ctypes.data, queries.ctypes.data)
        if library()(*addresses, len(queries), found.ctypes.data, _level()):
            raise MemoryError("the search needs a few megabytes, which the system did not give")
        return found


def available() -> bool:
    """Whether searches use it: it was built, and the environment does not forbid it."""
    return _level() is not None and library() is not None


@functools.lru_cache(maxsize=1)
def library() -> Any:
    """The library's function; None where there is no library, or it does not load here."""
    try:
        function = ctypes.CDLL(str(LIBRARY)).patchbank_nearest
    except (OSError, AttributeError):
        return None
    function.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    return function


def panels(columns: FloatArray) -> FloatArray:
    """(rows, n) -> (n / PANEL, rows, PANEL), the last panel filled up with zeros."""
    rows, n = columns.shape
    filled = np.zeros((rows, -(-n // PANEL) * PANEL), np.float32)
    filled[:, :n] = columns
    return np.ascontiguousarray(filled.reshape(rows, -1, PANEL).transpose(1, 0, 2))


def _level() -> int | None:
    return _LEVELS.get(os.environ.get("PATCHBANK_NATIVE", ""))
