"""The structs that native.c reads, as it describes them itself, and arrays put into them.

native.c's structs.h is the only place that lists their fields: the library carries the list, with types and offsets.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_TYPES = {"int8_t": np.int8, "int32_t": np.int32, "int64_t": np.int64, "float": np.float32}
_LENGTH = "_length"  # an array's field has another beside it, for how many elements there are


class _Field(ctypes.Structure):
    _fields_ = (
        ("structure", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_char_p),
        ("offset", ctypes.c_int64),
    )


class _Constant(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_double))


@dataclass(frozen=True)
class Struct:
    """A struct of native.c. dtype: its layout, addresses as unsigned numbers. arrays: each array's type of elements,
    and whether C writes them."""

    name: str
    dtype: np.dtype[np.void]
    arrays: Mapping[str, tuple[np.dtype[Any], bool]]

    def record(self, values: Mapping[str, Any]) -> npt.NDArray[np.void]:
        """(1,) of `dtype`, filled in: numbers, and arrays, whose addresses it holds; they must outlive it.

        Raises TypeError where fields are missing or unknown, or an array is not as C reads it: its type, contiguous.
        """
        names = [name for name in self.dtype.names or () if name.removesuffix(_LENGTH) not in self.arrays]
        names += self.arrays
        if set(names) != set(values):
            different = ", ".join(sorted(set(names) ^ set(values)))
            raise TypeError(f"{self.name}: expected its fields, each once; missing or unknown: {different}")
        record = np.zeros(1, self.dtype)
        for name, value in values.items():
            if name in self.arrays:
                self.check(name, value)
                record[name], record[name + _LENGTH] = value.ctypes.data, value.size
            else:
                record[name] = value
        return record

    def check(self, name: str, array: Any) -> None:
        """Raises TypeError for an array that C could not read as that field."""
        dtype, written = self.arrays[name]
        check_array(f"{self.name}.{name}", array, dtype, written)


def check_array(name: str, array: Any, dtype: npt.DTypeLike, written: bool = False) -> None:
    """Raises TypeError for what is no contiguous array of that type; written: one that may be written to."""
    flags = array.flags if isinstance(array, np.ndarray) and array.dtype == dtype else None
    if flags and flags.c_contiguous and flags.aligned and (flags.writeable or not written):
        return
    got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    kind = "contiguous, writable" if written else "contiguous"
    raise TypeError(f"{name}: expected a {kind} array of {np.dtype(dtype)}; got {got}")


def structs(library: ctypes.CDLL) -> dict[str, Struct]:
    """The structs that a library describes, by name. Raises ValueError for a description that is none."""
    fields: dict[str, dict[str, tuple[str, int]]] = {}
    found: dict[str, Struct] = {}
    for entry in _until_none(_Field, library, "patchbank_fields", "structure"):
        structure, name, kind = (text.decode("ascii") for text in (entry.structure, entry.name, entry.type))
        if name:
            fields.setdefault(structure, {})[name] = (kind, entry.offset)
        else:  # the end of a struct, with its size
            found[structure] = _struct(structure, fields[structure], entry.offset)
    return found


def constants(library: ctypes.CDLL) -> dict[str, float]:
    """The numbers that a library was compiled with, by name."""
    found = _until_none(_Constant, library, "patchbank_constants", "name")
    return {entry.name.decode("ascii"): entry.value for entry in found}


def _until_none(kind: Any, library: ctypes.CDLL, table: str, key: str) -> list[Any]:
    address = ctypes.addressof(kind.in_dll(library, table))
    found: list[Any] = []
    while True:
        entry = kind.from_address(address + len(found) * ctypes.sizeof(kind))
        if getattr(entry, key) is None:
            return found
        found.append(entry)


def _struct(name: str, fields: Mapping[str, tuple[str, int]], size: int) -> Struct:
    formats, arrays = [], {}
    for field, (kind, _) in fields.items():
        element = _TYPES[kind.removesuffix("*").removeprefix("const ").strip()]
        if kind.endswith("*"):
            arrays[field] = (np.dtype(element), not kind.startswith("const "))
        formats.append(np.dtype(np.uintp if kind.endswith("*") else element))
    offsets = [offset for _, offset in fields.values()]
    dtype = np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": size})
    return Struct(name, dtype, arrays)
