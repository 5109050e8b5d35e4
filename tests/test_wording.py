"""Counts in sentences: one of a thing, several of it, none; texts from outside that are safe to show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbank.util.wording import counted, plural, printable


def test_counts():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(n, "category", "categories") for n in (1, 3)] == ["1 category", "3 categories"]
    assert [plural(n, "looks", "look") for n in (1, 2)] == ["looks", "look"]


def test_what_a_terminal_would_obey_or_hide_is_written_out():
    assert printable("a\x1b[31mb\nc\td\x9be\x7f") == "a\\x1b[31mb\\nc\\td\\x9be\\x7f"
    assert printable("\u202egnp.exe\u2066\u2028\ufeff\u200b") == "\\u202egnp.exe\\u2066\\u2028\\ufeff\\u200b"
    assert printable("gr\udcfcn") == "gr\\udcfcn"
    assert printable("\U000e0041") == "\\U000e0041"


@pytest.mark.parametrize("text", ["部品.png", "C:\\parts\\é ü.png", "👩\u200d🔧", "نیم\u200cه", "a\u00a0b\u3000c", ""])
def test_all_that_people_write_stays(text):
    assert printable(text) == text
    assert printable(printable("\x1b")) == printable("\x1b")  # twice is fine


@given(st.text())
def test_what_is_printable_is_one_line_of_text_that_any_program_takes(text):
    shown = printable(text)
    shown.encode()  # no halves of characters
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert not any(unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "PDI") for c in shown)
