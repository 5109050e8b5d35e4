"""Points of a greedy k-center traversal, measured against centres by native.c."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from patchbank.search.native import level, library

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]
IntArray = npt.NDArray[np.int32]

_ROOM = 16  # pairs a point: points that have more are measured in NumPy
_ARRAYS = ("points", "centres", "pivots", "to_pivot", "met", "bound", "slack", "near")
_GROUP = np.dtype(
    [(name, np.int32) for name in ("cell", "count", "length", "_")]
    + [(name, np.uint64) for name in ("members", "numbers", "distances")]
)


class _Traversal(ctypes.Structure):
    _fields_ = (
        ("dim", ctypes.c_int32),
        ("rounding", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
    )


class _Pairs(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("room", ctypes.c_int64),
        ("points", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
    )


class Entries(Protocol):
    """A cell's centres and their distances to its pivot: the first len() of both arrays."""

    numbers: IntArray
    distances: FloatArray

    def __len__(self) -> int: ...


def measure(
    arrays: dict[str, npt.NDArray[np.generic]],
    rounding: float,
    groups: Sequence[tuple[int, IndexArray]],
    lists: Sequence[Entries],
    threads: int,
) -> tuple[IndexArray, IntArray] | None:
    """Measures groups of points (a cell, and some of its points) against the centres of the cells' lists.

    arrays: the traversal's, by the names of native.c's struct; `bound`, `near` and `slack` change, for points that have
    a clearly nearest centre. Returns the pairs (point, centre) that have to be measured for the others; None if these
    are too many, or memory is lacking.
    """
    cells = [cell for cell, _ in groups]
    counts = np.array([len(members) for _, members in groups], np.int32)
    members = np.concatenate([members for _, members in groups])
    table = np.empty(len(groups), _GROUP)
    table["cell"], table["count"] = cells, counts
    table["length"] = [len(lists[cell]) for cell in cells]
    table["members"] = members.ctypes.data + 8 * (np.cumsum(counts, dtype=np.uint64) - counts.astype(np.uint64))
    table["numbers"] = [lists[cell].numbers.ctypes.data for cell in cells]
    table["distances"] = [lists[cell].distances.ctypes.data for cell in cells]
    points, numbers = np.empty(_ROOM * len(members), np.int64), np.empty(_ROOM * len(members), np.int32)
    traversal = _Traversal(
        dim=arrays["points"].shape[1], rounding=rounding, **{name: arrays[name].ctypes.data for name in _ARRAYS}
    )
    pairs = _Pairs(0, len(points), points.ctypes.data, numbers.ctypes.data)
    addresses = (ctypes.addressof(traversal), table.ctypes.data)
    if library().patchbank_measure(*addresses, len(table), ctypes.addressof(pairs), threads, level()):
        return None
    return points[: pairs.count], numbers[: pairs.count]
