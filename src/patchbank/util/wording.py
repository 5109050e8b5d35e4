"""Counts in sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_SHOWN = 4  # items of a collection
_LONGEST = 100  # characters of anything else


def plural(count: int, one: str, many: str = "") -> str:
    """The word, `one`, or what it is for any other count: `many`, or `one` with an s."""
    return one if count == 1 else many or f"{one}s"


def counted(count: int, one: str, many: str = "") -> str:
    """'1 image', '2 images', '0 images'."""
    return f"{count} {plural(count, one, many)}"


def brief(thing: Any) -> str:
    """The `__repr__` of a dataclass over arrays, in a few lines however much it holds: arrays by type and shape, bytes,
    long texts and collections by their length."""
    fields = [field for field in dataclasses.fields(thing) if field.repr]
    return f"{type(thing).__name__}({', '.join(f'{f.name}={_short(getattr(thing, f.name))}' for f in fields)})"


def _short(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):  # an array; nothing heavy is imported here
        return f"{value.dtype} {value.shape}"
    if isinstance(value, (bytes, memoryview)):
        return f"<{counted(len(value), 'byte')}>"
    if isinstance(value, (tuple, list, Mapping, set, frozenset)) and len(value) > _SHOWN:
        return f"<{counted(len(value), 'item')}>"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_short, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_short(key)}: {_short(inner)}" for key, inner in value.items()) + "}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
