"""The compiled part's calls: the nearest vectors of queries, the measurements of the coreset, the rows of a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from patchbank.arrays import BoolArray, ByteArray, CodeArray, FloatArray, IndexArray, IntArray
from patchbank.errors import ConfigError
from patchbank.native import HIDDEN, KEPT, MIDDLE, MOST_DIM, PANEL, Struct, check_array, level, library, refused

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


_LISTED = ("numbers", "distances")  # of a cell's list
_ROOM = 16  # pairs a point: points that have more are measured in NumPy


class Entries(Protocol):
    """A cell's centres and their distances to its pivot: the first len() of both arrays."""

    numbers: IntArray
    distances: FloatArray

    def __len__(self) -> int: ...


def measure(
    state: Mapping[str, Any],
    groups: Sequence[tuple[int, IndexArray]],
    lists: Sequence[Entries],
    threads: int,
) -> tuple[IndexArray, IntArray] | None:
    """Measures groups of points (a cell, and some of its points) against the centres of the cells' lists.

    state: the traversal's, by the names of native.c's struct; `bound`, `near` and `slack` change, for points that have
    a clearly nearest centre. Returns the pairs (point, centre) that have to be measured for the others; None if these
    are too many, memory is lacking, or points have too many dimensions: then NumPy has to do it.
    """
    used = library()
    if used is None or state["dim"] > MOST_DIM:
        return None
    traversal = used.structs["Traversal"].record(state)
    members = np.concatenate([members for _, members in groups])
    table = _table(used.structs["Group"], groups, members, lists)
    points, numbers = np.empty(_ROOM * len(members), np.int64), np.empty(_ROOM * len(members), np.int32)
    pairs = used.structs["Pairs"].record({"count": 0, "points": points, "numbers": numbers})
    addresses = (traversal.ctypes.data, table.ctypes.data, len(table), pairs.ctypes.data)
    failed = used.measure(*addresses, threads, level())
    if failed == used.codes["IMPOSSIBLE"]:
        raise refused("coreset")
    if failed:
        return None
    count = int(pairs["count"][0])
    return points[:count], numbers[:count]


def _table(
    group: Struct, groups: Sequence[tuple[int, IndexArray]], members: IndexArray, lists: Sequence[Entries]
) -> npt.NDArray[np.void]:
    """A struct for each group. members: the groups' points, one after the other."""
    entries = [lists[cell] for cell, _ in groups]
    for name, array in (("points", members), *((name, getattr(e, name)) for e in entries for name in _LISTED)):
        group.check(name, array)
    table = np.zeros(len(groups), group.dtype)
    counts = np.array([len(some) for _, some in groups], np.int64)
    table["cell"] = [cell for cell, _ in groups]
    table["points"] = members.ctypes.data + (members.itemsize * (np.cumsum(counts) - counts)).astype(np.uintp)
    table["points_length"] = counts
    for name in _LISTED:
        table[name] = [getattr(entry, name).ctypes.data for entry in entries]
        table[name + "_length"] = [len(entry) for entry in entries]
    return table


def unfiltered(raw: ByteArray, height: int, pixels: int, step: int) -> ByteArray | None:
    """Undoes the filters of a PNG's rows: (height * (1 + pixels * step),) uint8, contiguous, the first byte of each row
    its filter -> (height, pixels, step). step: bytes a pixel: 1, 2, 3, 4, 6 or 8.

    None where a row has a filter that there is not, or the library is missing. Python's lock is not needed meanwhile.
    """
    used = library()
    if used is None:
        return None
    check_array("raw", raw, np.uint8)
    out = np.empty((height, pixels, step), np.uint8)
    failed = used.unfilter(out.ctypes.data, out.size, raw.ctypes.data, raw.size, height, pixels, step, level())
    if failed == used.codes["IMPOSSIBLE"]:
        raise refused(f"rows of a PNG of {pixels}x{height} pixels of {step} bytes")
    return None if failed else out
