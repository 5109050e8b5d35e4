"""Counts in sentences; texts from outside, safe to show."""

from __future__ import annotations

import re

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


def printable(text: str) -> str:
    """The text on one line, with what a terminal would obey or hide written out: \\x1b, \\n, \\u202e, \\udcfc.

    Everything else stays as it is. For texts from outside: file names, and names and notes in model files.
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
