"""The bank as native.c searches it for the nearest vector of each query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import BoolArray, CodeArray, FloatArray, IndexArray, IntArray
from patchbank.errors import ConfigError
from patchbank.search.native import HIDDEN, KEPT, MIDDLE, PANEL, level, library, refused
from patchbank.search.native.layout import check_array

_LARGEST = 127  # of a code
_LEAST_STEP = 1e-16  # of a bank whose vectors are all the same


@dataclass(frozen=True, eq=False)
class NativeBank:
    """A bank as native.c reads it.

    fields: by the names of its struct `Bank`, which says what is what; arrays are contiguous, of its types.
    starts: (panels * PANEL,) int32; HIDDEN where a place holds no vector.
    """

    fields: Mapping[str, Any]
    starts: IntArray

    def starts_without(self, hidden: BoolArray | None) -> IntArray:
        """The starts for a search to which some of the vectors, (M,) bool, do not count."""
        if hidden is None:
            return self.starts
        numbers = self.fields["numbers"]
        return np.where((numbers >= 0) & hidden[numbers], np.int32(HIDDEN), self.starts)

    def candidates(self, queries: FloatArray, starts: IntArray, threads: int) -> IntArray:
        """(Q, dim) float32, contiguous -> (Q, KEPT): which bank vectors may be each query's nearest, -1 for none.

        A first of -1: more than KEPT may be. threads: how many may work on it; they do not need Python's lock.
        Raises ConfigError for queries that are not finite, or beyond 1e15.
        """
        used = library()
        if used is None:
            raise refused("search without the library")
        bank = used.structs["Bank"].record(self.fields)
        check_array("queries", queries, np.float32)
        check_array("starts", starts, np.int32)
        if queries.ndim != 2 or queries.shape[1] != self.fields["dim"] or starts.size != PANEL * self.fields["panels"]:
            raise refused(f"search for queries {queries.shape}")
        found = np.empty((len(queries), KEPT), np.int32)
        addresses = (bank.ctypes.data, starts.ctypes.data, queries.ctypes.data, len(queries), found.ctypes.data)
        failed = used.nearest(*addresses, threads, level())
        if failed == used.codes["NO_MEMORY"]:
            raise MemoryError("the search needs a few megabytes, which the system did not give")
        if failed == used.codes["OUT_OF_RANGE"]:
            raise ConfigError("queries: expected finite numbers, got NaN, infinity or values beyond 1e15")
        if failed:
            raise refused("search")
        return found


def panels(columns: FloatArray) -> FloatArray:
    """(rows, n) -> (n / PANEL, rows, PANEL), the last panel filled up with zeros."""
    return np.ascontiguousarray(wider(columns, 0).reshape(len(columns), -1, PANEL).transpose(1, 0, 2))


def wider(columns: FloatArray, value: float) -> FloatArray:
    """(rows, n) -> (rows, n filled up to whole panels)."""
    return np.pad(columns, ((0, 0), (0, -columns.shape[1] % PANEL)), constant_values=np.float32(value))


def in_panels(cuts: IndexArray) -> tuple[IntArray, IndexArray]:
    """Places vectors cell by cell, so that each cell starts a panel. Returns the panels of each cell, and each vector's
    place.

    cuts: (cells + 1,) where each cell starts in the order of the vectors.
    """
    counts = np.diff(cuts)
    first = np.concatenate([[0], np.cumsum(-(-counts // PANEL))])
    return first.astype(np.int32), np.repeat(first[:-1] * PANEL - cuts[:-1], counts) + np.arange(cuts[-1])


def coded(projections: FloatArray, slots: IndexArray, places: int) -> tuple[CodeArray, IntArray, float, FloatArray]:
    """Projections, (M, S), as whole multiples of a step, one byte each, at their places in panels.

    Returns codes, (panels, groups, PANEL, 4); starts, (places,), what their products with queries' codes start from;
    the step; and the distances between projections and their codes, (M,).
    """
    step = max(float(np.abs(projections).max()) / _LARGEST, _LEAST_STEP)
    numbers = np.rint(projections / np.float32(step)).clip(-_LARGEST, _LARGEST)
    wrong = np.linalg.norm(projections - numbers.astype(np.float64) * step, axis=1)
    groups = -(-projections.shape[1] // 4)
    codes = np.zeros((places, 4 * groups), np.int8)
    codes[slots, : projections.shape[1]] = numbers
    starts = np.full(places, HIDDEN, np.int32)
    starts[slots] = -(np.square(numbers).sum(axis=1) // 4 + MIDDLE * numbers.sum(axis=1))
    by_panel = codes.reshape(-1, PANEL, groups, 4).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(by_panel), starts, step, (1.001 * wrong).astype(np.float32)
