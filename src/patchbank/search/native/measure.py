"""Points of a greedy k-center traversal, measured against centres by native.c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from patchbank.arrays import FloatArray, IndexArray, IntArray
from patchbank.search.native import MOST_DIM, level, library, refused
from patchbank.search.native.layout import Struct

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
