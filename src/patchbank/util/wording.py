"""Values for people and for JSON: counts in sentences, short representations, numbers that JSON has, texts from
outside that are safe to show."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

# What spreadsheets take for the beginning of a formula, plain and in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_SHOWN = 4  # items of a collection
_LONGEST = 100  # characters of anything else
# What acts on a terminal, or hides or reorders what is shown: control characters, line and paragraph separators, marks
# of direction, invisible ones, and halves of characters (bytes of a file name that are no UTF-8). The two joiners stay:
# Persian, Hindi and emoji need them.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def plural(count: int, one: str, many: str = "") -> str:
    """The word, `one`, or what it is for any other count: `many`, or `one` with an s."""
    return one if count == 1 else many or f"{one}s"


def counted(count: int, one: str, many: str = "") -> str:
    """'1 image', '2 images', '0 images'."""
    return f"{count} {plural(count, one, many)}"


def finite(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def printable(text: str) -> str:
    """The text on one line, with what a terminal would obey or hide written out: \\x1b, \\n, \\u202e, \\udcfc.

    Everything else stays as it is. For texts from outside: file names, and names and notes in model files.
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def spreadsheet_safe(value: object, kept: str = "\n\r\t") -> object:
    """A value for a CSV file: a text that a spreadsheet would take for a formula gets an apostrophe before it, and
    control characters but `kept` are written out. Anything else is as it was."""
    if not isinstance(value, str):
        return value
    text = "".join(char if char in kept else printable(char) for char in value)
    return f"'{text}" if value.startswith(_FORMULA) else text


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
