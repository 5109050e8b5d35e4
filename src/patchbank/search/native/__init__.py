"""The compiled part of search and coreset (native.c), through ctypes; where it was not built, NumPy does its work.

It rules out, and bounds. What is left is measured by NumPy as everywhere, so the answers are the same bits with and
without it, and on every processor. The wheel's build (hatch_build.py) compiles it where it finds a C compiler. In the
environment, PATCHBANK_NATIVE=0 leaves it unused; `avx2` and `any` hold it back from newer instructions.

`nearest.py` and `measure.py` call its two functions.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).with_name("_native.so")
_LEVELS = {"": 0, "1": 0, "avx2": 1, "any": 2}  # what PATCHBANK_NATIVE says -> how native.c calls it


def available() -> bool:
    """Whether it is used: it was built, it loads, and the environment does not forbid it."""
    return os.environ.get("PATCHBANK_NATIVE", "") in _LEVELS and library() is not None


def level() -> int:
    """Which instructions it may use, as native.c counts them."""
    return _LEVELS[os.environ.get("PATCHBANK_NATIVE", "")]


@functools.lru_cache(maxsize=1)
def library() -> Any:
    """The library, or None.

    A struct that changes takes a new name of its function: an older library is then not used, and cannot crash.
    """
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        pointer = ctypes.c_void_p
        number = ctypes.c_int
        loaded.patchbank_nearest_2.argtypes = [pointer, pointer, pointer, number, pointer, number, number]
        loaded.patchbank_measure.argtypes = [pointer, pointer, number, pointer, number, number]
    except (OSError, AttributeError):
        return None
    return loaded
