"""Counts in sentences: one of a thing, several of it, none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from patchbank.util.wording import counted, plural

SOURCE = Path(__file__).parents[1] / "src" / "patchbank"


def test_counts():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(n, "category", "categories") for n in (1, 3)] == ["1 category", "3 categories"]
    assert [plural(n, "looks", "look") for n in (1, 2)] == ["looks", "look"]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_other_module_has_a_rule_of_its_own(path):
    if path.name != "wording.py":
        assert not re.search(r"""(['"])(s|ies|s are)\1 if """, path.read_text(encoding="utf-8"))
