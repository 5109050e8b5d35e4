"""The compiled part of search and coreset (native.c), through ctypes; where it was not built, NumPy does its work.

It rules out, and bounds. What is left is measured by NumPy as everywhere, so the answers are the same bits with and
without it, and on every processor. The wheel's build (hatch_build.py) compiles it where it finds a C compiler. In the
environment, PATCHBANK_NATIVE=0 leaves it unused; `avxvnni`, `avx2` and `any` hold it back from newer instructions.

`nearest.py` and `measure.py` call its two functions.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from patchbank.errors import PatchbankError
from patchbank.search.native.compiling import LIBRARY as _NAME
from patchbank.search.native.compiling import digest
from patchbank.search.native.layout import Struct, constants, structs
from patchbank.util.log import logger

LIBRARY = Path(__file__).with_name(_NAME)
_LEVELS = {"": 0, "1": 0, "avxvnni": 1, "avx2": 2, "any": 3}  # what PATCHBANK_NATIVE says -> how native.c calls it

PANEL, KEPT, HIDDEN, MIDDLE, WIDEST = 32, 8, -2_000_000_000, 64, 16  # what they are: native.c
MOST_DIM = 16384  # of points that it measures


@dataclass(frozen=True)
class Library:
    """A library that is of the sources of this patchbank. Its functions return one of `codes`, 0 when all is done.

    nearest: (bank, starts, queries, count, found, threads, level). measure: (traversal, groups, count, pairs, threads,
    level). Addresses and numbers; see native.c. instructions: a level -> the instructions that it uses there.
    """

    nearest: Callable[..., int]
    measure: Callable[..., int]
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
        logger.info("the compiled part was not built; NumPy does its work, at about half the speed")
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
    nearest.argtypes = [pointer, pointer, pointer, count, pointer, number, number]
    measure.argtypes = [pointer, pointer, number, pointer, number, number]
    names.argtypes, names.restype = [number], ctypes.c_char_p
    codes = ("NO_ROOM", "NO_MEMORY", "IMPOSSIBLE", "OUT_OF_RANGE")
    numbers = constants(loaded)
    return Library(nearest, measure, names, structs(loaded), {name: int(numbers[name]) for name in codes})
