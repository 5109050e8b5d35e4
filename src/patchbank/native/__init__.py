"""The compiled part (native.c), through ctypes: search, coreset, and the filters of PNG's rows. Where it was not built,
NumPy and OpenCV do its work.

In search and coreset it rules out, and bounds. What is left is measured by NumPy as everywhere, so the answers are the
same bits with and without it, and on every processor; so are the pixels of a PNG. The wheel's build (hatch_build.py)
compiles it where it finds a C compiler. In the environment, PATCHBANK_NATIVE=0 leaves it unused; `avxvnni`, `avx2` and
`any` hold it back from newer instructions.

`calls.py` calls its functions.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank.errors import PatchbankError
from patchbank.native.compiling import LIBRARY as _NAME
from patchbank.native.compiling import digest
from patchbank.util.log import logger

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


LIBRARY = Path(__file__).with_name(_NAME)
_LEVELS = {"": 0, "1": 0, "avxvnni": 1, "avx2": 2, "any": 3}  # what PATCHBANK_NATIVE says -> how native.c calls it

PANEL, KEPT, HIDDEN, MIDDLE, WIDEST = 32, 8, -2_000_000_000, 64, 16  # what they are: native.c
MOST_DIM = 16384  # of points that it measures


@dataclass(frozen=True)
class Library:
    """A library that is of the sources of this patchbank. Its functions return one of `codes`, 0 when all is done.

    nearest: (bank, starts, queries, count, found, threads, level). measure: (traversal, groups, count, pairs, threads,
    level). weigh, pairs, resize: as sums.c has them. Addresses and numbers; see
    native.c and sums.c. instructions: a level -> the instructions that it uses there.
    """

    nearest: Callable[..., int]
    measure: Callable[..., int]
    unfilter: Callable[..., int]
    weigh: Callable[..., int]
    pairs: Callable[..., int]
    resize: Callable[..., int]
    instructions: Callable[[int], bytes]
    structs: Mapping[str, Struct]
    codes: Mapping[str, int]


def available() -> bool:
    """True if the library is used: it was built of these sources, it loads, and the environment does not forbid it."""
    return os.environ.get("PATCHBANK_NATIVE", "") in _LEVELS and library() is not None


def level() -> int:
    """Returns the set of instructions that the library may use, as native.c counts them."""
    return _LEVELS[os.environ.get("PATCHBANK_NATIVE", "")]


def instructions() -> str:
    """Names the code that does the work now: 'numpy', or in C 'avx512', 'avxvnni', 'avx2', 'neon' or 'any' (baseline
    instructions)."""
    used = library() if available() else None
    return used.instructions(level()).decode("ascii") if used else "numpy"


def refused(what: str) -> PatchbankError:
    """The error for arguments that C found impossible: a fault of ours, found before anything is read astray."""
    return PatchbankError(
        f"{what}: the compiled part refused what it was given, which is a fault of patchbank; please report it. "
        "With PATCHBANK_NATIVE=0 in the environment, NumPy does its work"
    )


@functools.lru_cache(maxsize=1)
def library() -> Library | None:
    """The library, or None: it was not built, does not load, or is of other sources than those beside it."""
    if not LIBRARY.is_file():
        logger.info("the compiled part was not built; NumPy and OpenCV do its work, at about half the speed")
        return None
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        made_from = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(loaded, "patchbank_sources"))).decode()
        expected = digest() or made_from  # a program that was packed without the C sources has the library beside it
        problem = f"it was compiled from other sources ({made_from}) than those beside it ({expected})"
        found = _described(loaded) if made_from == expected else None
    except (OSError, AttributeError, ValueError, KeyError) as error:
        problem, found = str(error), None
    if found is None:
        logger.warning("%s is not used, NumPy does its work: %s; build it again (pip install)", LIBRARY, problem)
    return found


def _described(loaded: ctypes.CDLL) -> Library:
    pointer, number, count = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    nearest, measure, names = loaded.patchbank_nearest, loaded.patchbank_measure, loaded.patchbank_instructions
    unfilter = loaded.patchbank_unfilter
    nearest.argtypes = [pointer, pointer, pointer, count, pointer, number, number]
    measure.argtypes = [pointer, pointer, number, pointer, number, number]
    unfilter.argtypes = [pointer, count, pointer, count, count, count, number, number]
    names.argtypes, names.restype = [number], ctypes.c_char_p
    weigh, pairs = loaded.patchbank_weigh, loaded.patchbank_pairs
    pairs.argtypes = [pointer] * 5 + [count] * 4 + [number] * 2
    band, real = (pointer, pointer, count, count), ctypes.c_float
    weigh.argtypes = (pointer, *band, pointer, *(5 * (count,)), number)
    resize = loaded.patchbank_resize
    resize.argtypes = (pointer, number, count, count, count, *band, *band, real, real, pointer, number)
    codes = ("NO_ROOM", "NO_MEMORY", "IMPOSSIBLE", "OUT_OF_RANGE")
    numbers = constants(loaded)
    kinds = {name: int(numbers[name]) for name in codes}
    return Library(nearest, measure, unfilter, weigh, pairs, resize, names, structs(loaded), kinds)
