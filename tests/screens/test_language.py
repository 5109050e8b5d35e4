"""English and German: every text has both, and says the same values."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from patchbank.server import web
from patchbank.server.web import formats
from patchbank.server.web.language import catalog, parsed, translate
from patchbank.server.web.rendering import environment
from patchbank.store.preferences import KNOWN

WEB = Path(web.__file__).parent


def texts() -> dict[str, str]:
    """Every text that the pages show -> where it stands."""
    found = {}
    for path in sorted((WEB / "templates").glob("*.html")):
        source = path.read_text("utf-8")
        for line, _, text in environment("en").extract_translations(source):
            literal = text[0] if isinstance(text, tuple) else text
            if literal:  # and no text of a variable, which Python marks
                found.setdefault(literal, f"{path.name}:{line}")
    for path in sorted(WEB.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "N_":
                found.setdefault(ast.literal_eval(node.args[0]), f"{path.name}:{node.lineno}")
    return found | {each.about: "preferences.py" for each in KNOWN.values()}


def values_of(text: str) -> list[str]:
    return sorted(re.findall(r"%\(\w+\)s", text))


def test_every_text_has_a_german_one():
    missing = [f"{where}: {text!r}" for text, where in texts().items() if text not in catalog("de")]
    assert missing == []


def test_german_texts_are_in_use_and_have_the_same_values():
    known = texts()
    assert sorted(set(catalog("de")) - set(known)) == [], "nothing shows these any more"
    assert [text for text, german in catalog("de").items() if values_of(text) != values_of(german)] == []


def test_no_page_holds_a_text_that_is_not_translated():
    """Words between tags that are in neither `trans` nor `_()`."""
    found = []
    for path in sorted((WEB / "templates").glob("*.html")):
        source = re.sub(r"\{#.*?#\}", "", path.read_text("utf-8"), flags=re.S)
        source = re.sub(r"\{% trans.*?endtrans %\}", "", source, flags=re.S)
        source = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", source, flags=re.S)
        source = re.sub(r"<(svg|code|title)\b.*?</\1>", "", source, flags=re.S)
        words = re.findall(r">([^<]*[A-Za-z]{3}[^<]*)<", source)
        found += [f"{path.name}: {word.strip()}" for word in words if word.strip() not in WORDS]
    assert found == []


WORDS = {"patchbank", "CSV", "Parquet", "SHA-256"}  # the same in every language


def test_catalogs_are_read_as_gettext_writes_them():
    text = """# a
msgid ""
msgstr "Language: de\\n"

#: x.html:1
msgid "a"
"b\\"c"
msgstr ""
"d\\n"
"e"
msgid "f"
msgstr ""
"""
    assert parsed(text) == {'ab"c': "d\ne"}
    for wrong in ("msgid x", '"lonely"', 'msgctxt "a"'):
        with pytest.raises(ValueError, match="line 1"):
            parsed(wrong)
    assert translate("de", "no such text") == "no such text"


def test_times_numbers_and_sizes():
    at = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
    assert formats.when(at, "en").startswith("2026-03-01 ")
    assert formats.when(at, "de").startswith("01.03.2026, ")
    ages = [formats.ago(at, "en", at + timedelta(seconds=s)) for s in (0, 59, 60, 3599, 3600, 86400 * 3)]
    assert ages == ["0 s ago", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "3 days ago"]
    assert [formats.number(n, "en") for n in (0.0, 1.0, 12.3456, 123456.0, 0.000012)] == [
        "0", "1", "12.35", "123456", "0.000012",
    ]  # fmt: skip
    assert formats.number(1.5, "de") == "1,5"
    assert [formats.percent(p, "en") for p in (0.0, 0.004, 0.05, 0.5, 1.0)] == ["0 %", "0.4 %", "5 %", "50 %", "100 %"]
    assert [formats.size(n, "en") for n in (999, 1500, 2_000_000, 3e12)] == ["999 B", "1.5 kB", "2 MB", "3 TB"]
