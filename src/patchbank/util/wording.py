"""Counts in sentences."""

from __future__ import annotations


def plural(count: int, one: str, many: str = "") -> str:
    """The word, `one`, or what it is for any other count: `many`, or `one` with an s."""
    return one if count == 1 else many or f"{one}s"


def counted(count: int, one: str, many: str = "") -> str:
    """'1 image', '2 images', '0 images'."""
    return f"{count} {plural(count, one, many)}"
