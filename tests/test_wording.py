"""Counts in sentences: one of a thing, several of it, none."""

from __future__ import annotations

from patchbank.util.wording import counted, plural


def test_counts():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(n, "category", "categories") for n in (1, 3)] == ["1 category", "3 categories"]
    assert [plural(n, "looks", "look") for n in (1, 2)] == ["looks", "look"]
