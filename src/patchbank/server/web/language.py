"""The languages of the pages: catalogs of gettext, read as text (`locale/*.po`), and which one a reader wants."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from patchbank.server import web

if TYPE_CHECKING:
    from starlette.requests import Request

LANGUAGES = {"en": "English", "de": "Deutsch"}
COOKIE = "patchbank-language"
_LINE = re.compile(r'(msgid|msgstr)?\s*(".*")')


def N_(text: str) -> str:  # noqa: N802  (gettext's name)
    """Marks a text that is translated where it is shown."""
    return text


@cache
def catalog(language: str) -> dict[str, str]:
    """English -> that language. Empty for English."""
    if language == "en":
        return {}
    return parsed((resources.files(web) / "locale" / f"{language}.po").read_text("utf-8"))


def parsed(text: str) -> dict[str, str]:
    """The entries of a .po file without plural forms and contexts. Raises ValueError for another line."""
    entries: list[dict[str, str]] = []
    field = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found or not (found[1] or field):
            raise ValueError(f"line {number}: expected msgid, msgstr or a text in quotes")
        if found[1] == "msgid":
            entries.append({})
        field = found[1] or field
        entries[-1][field] = entries[-1].get(field, "") + ast.literal_eval(found[2])
    return {each["msgid"]: each["msgstr"] for each in entries if each["msgid"] and each.get("msgstr")}


def translate(language: str, text: str) -> str:
    """The text in that language; in English, where it has none."""
    return catalog(language).get(text, text)


def language_of(request: Request) -> str:
    """The person's choice, this browser's, or the first that the browser asks for and we have."""
    user = getattr(getattr(request.state, "caller", None), "user", None)
    for chosen in (user.locale if user else "", request.cookies.get(COOKIE, "")):
        if chosen in LANGUAGES:
            return str(chosen)
    for wish in request.headers.get("accept-language", "")[:200].split(","):
        language = wish.partition(";")[0].strip().lower()[:2]
        if language in LANGUAGES:
            return language
    return "en"
