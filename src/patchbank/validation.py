"""What the values of options may be, and the guises that they come in: the edge where configurations are checked.

The limits of an option are beside it, in `config.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from patchbank.errors import ConfigError

_T = TypeVar("_T")
ImageSize = tuple[int, ...]  # (N,) or (height, width)
Area = str  # polygons, or the path of a mask
Polygon = tuple[tuple[float, float], ...]

_LONGEST_AREA = 1_000_000
# Options that had another name, as configurations that were written before may have it.
RENAMED: Mapping[str, str] = {"false_alarm_rate": "max_false_alarms"}


def check_names(values: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
    """Raises ConfigError for a name that is none of the known options."""
    for name in values:
        if name not in known:
            now = RENAMED.get(name)
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            advice = f"it is called {now} now" if now else f"{hint}valid options: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown option {name!r}{where}; {advice}")


def names_checked(cls: type[_T]) -> type[_T]:
    """A dataclass of options whose constructor raises ConfigError for an unknown name, as everything else that reads
    options does, and not Python's TypeError."""
    make, known = cls.__init__, {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @functools.wraps(make)  # so that help() and editors show the names and defaults
    def checked(self: _T, *args: Any, **values: Any) -> None:
        check_names(values, known)
        make(self, *args, **values)

    cls.__init__ = checked  # type: ignore[assignment, method-assign]
    return cls


def validate(options: Any) -> None:
    """Checks a Config or Runtime while it is made, each field against its own limits, and gives values in another guise
    their field's type. Raises ConfigError."""
    for f in dataclasses.fields(options):
        value = _coerce(f.name, str(f.type), getattr(options, f.name))
        object.__setattr__(options, f.name, value)
        choices, low, high = f.metadata["choices"], f.metadata["low"], f.metadata["high"]
        if choices and value not in choices:
            raise ConfigError(f"{f.name}: expected one of {', '.join(choices)}; got {value!r}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not _inside(number, low, high, f.metadata["low_open"]):
                above = "more than" if f.metadata["low_open"] else "at least"
                limit = f"{above} {low:g}" + (f" and at most {high:g}" if high is not None else "")
                raise ConfigError(f"{f.name}: expected {limit}; got {number!r}")


def without_code(name: str, value: str) -> ConfigError:
    """The error for a choice that `config.py` declares and nothing implements. It must not pass for another choice."""
    return ConfigError(f"{name}: {value!r} is declared but has no code; this is a fault of patchbank")


def check_tiles(size: int, overlap: int) -> None:
    """Raises ConfigError for tiles that the network's strides do not divide, or that overlap altogether."""
    for name, value in (("tile_size", size), ("tile_overlap", overlap)):
        if value % 32:
            raise ConfigError(f"{name}: expected a multiple of 32; got {value}")
    if size <= 2 * overlap:
        raise ConfigError(f"tile_size: expected more than twice tile_overlap ({overlap}); got {size}")


def parse_image_size(value: Any, name: str = "image_size") -> ImageSize:
    """320 or "320" -> (320,); "240x320" (height x width) or [240, 320] -> (240, 320)."""
    if isinstance(value, str):
        parts: list[Any] = value.lower().split("x")
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    else:
        parts = [value]
    try:
        sizes = [int(part) for part in parts]
        if any(isinstance(p, bool) or (isinstance(p, float) and p != int(p)) for p in parts):
            raise ValueError
    except (TypeError, ValueError, OverflowError):  # infinity is no int
        sizes = []
    if len(sizes) not in (1, 2):
        raise ConfigError(f"{name}: expected one number or HEIGHTxWIDTH, got {value!r}")
    return tuple(sizes)


def parse_polygons(text: str) -> tuple[Polygon, ...]:
    """'0.1,0.1 0.9,0.1 0.5,0.9; ...' -> polygons of (x, y) in shares of width and height; () if it is no such text."""
    try:
        polygons = tuple(
            tuple((float(x), float(y)) for x, y in (point.split(",") for point in part.split()))
            for part in text.split(";")
            if part.strip()
        )
    except ValueError:
        return ()
    if any(
        len(polygon) < 3 or any(not 0 <= value <= 1 for point in polygon for value in point) for polygon in polygons
    ):
        raise ConfigError(
            f"expected polygons of at least three points between 0 and 1 (shares of width and height); got {text!r}"
        )
    return polygons


def memory_budget(text: str) -> int:
    """'2GB', '500 MB', '1.5GiB', '2000000000' or 'auto' (half of what this machine or its container has) -> bytes."""
    if text.strip().lower() == "auto":
        return _machine_memory() // 2
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if not match:
        raise ConfigError(f"memory: expected 'auto' or a size such as 2GB or 500MB; got {text!r}")
    number, prefix, binary = match.groups()
    size = float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " ")
    if size < 1_000_000:
        raise ConfigError(f"memory: expected at least 1MB; got {text!r}")
    if size > 1e18:
        raise ConfigError(f"memory: expected at most 1000000TB; got {text!r}")
    return int(size)


def _machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit if that is lower."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [8 << 30]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            sizes.append(int(Path(limit).read_text()))
    return min(sizes)


def _inside(number: float, low: float | None, high: float | None, low_open: bool) -> bool:
    if isinstance(number, float) and not math.isfinite(number):
        return False
    if low is not None and (number <= low if low_open else number < low):
        return False
    return high is None or number <= high


def _area(name: str, value: Any) -> str:
    """A mask's path, or polygons: as text, or as TOML's lists of lists of pairs."""
    if isinstance(value, (list, tuple)):
        try:
            value = "; ".join(" ".join(f"{float(x)!r},{float(y)!r}" for x, y in polygon) for polygon in value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{name}: expected a list of polygons, each a list of (x, y); got {value!r}") from None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{name}: expected the path of a mask or polygons; got {value!r}")
    if len(value) > _LONGEST_AREA:
        raise ConfigError(f"{name}: expected polygons of at most {_LONGEST_AREA:,} characters; use a mask instead")
    parse_polygons(value)
    return value


def _coerce(name: str, annotation: str, value: Any) -> Any:
    """Checks a value against its field's type; takes the same value in another guise (a list, an int for a float)."""
    if annotation == "ImageSize":
        return parse_image_size(value)
    if annotation == "tuple[str, ...]":
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{name}: expected a list of names; got {value!r}")
        return tuple(value)
    if annotation.endswith("| None") and value is None:
        return None
    if annotation.startswith("Area"):
        return _area(name, value)
    kind = annotation.split(" |")[0]
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # a number of hundreds of digits, over every limit
    expected = {"int": int, "float": float, "str": str, "bool": bool}[kind]
    if not isinstance(value, expected) or isinstance(value, bool) != (kind == "bool"):
        raise ConfigError(f"{name}: expected {kind}; got {value!r}")
    return value
