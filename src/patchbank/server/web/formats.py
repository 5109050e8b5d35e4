"""Times, numbers and sizes as people of a language write them. Times are of the service's time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from patchbank.server.web.language import N_, translate

_AGES = (
    (60, 1, N_("%(n)s s ago")),
    (3600, 60, N_("%(n)s min ago")),
    (86400, 3600, N_("%(n)s h ago")),
    (float("inf"), 86400, N_("%(n)s days ago")),
)


def when(at: datetime, language: str, *, seconds: bool = True) -> str:
    """A moment."""
    form = "%d.%m.%Y, %H:%M" if language == "de" else "%Y-%m-%d %H:%M"
    return at.astimezone().strftime(form + (":%S" if seconds else ""))


def ago(at: datetime, language: str, now: datetime | None = None) -> str:
    """How long it is since then."""
    seconds = max(0.0, ((now or datetime.now(UTC)) - at).total_seconds())
    _, unit, text = next(each for each in _AGES if seconds < each[0])
    return translate(language, text) % {"n": int(seconds // unit)}


def number(value: float, language: str, digits: int = 4) -> str:
    """A number with so many significant digits, without zeros at its end."""
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-9 < abs(value) < 1e15:
        text = f"{value:.0f}" if abs(value) >= 1 else f"{value:.6f}".rstrip("0")
    return text.replace(".", ",") if language == "de" else text


def percent(share: float, language: str) -> str:
    """A share, in percent."""
    text = number(100 * share, language, 3 if share < 0.1 else 2 if share < 0.995 else 3)
    return f"{text} %"


def size(count: float, language: str) -> str:
    """A number of bytes."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{number(count, language, 3)} {units[0]}"


def local_input(at: datetime) -> str:
    """A moment as a field of a form takes it."""
    return at.astimezone().strftime("%Y-%m-%dT%H:%M")


def zone() -> str:
    """The service's time zone."""
    now: Any = datetime.now(UTC).astimezone()
    offset = now.strftime("%z")
    return f"{now.tzname()} (UTC{offset[:3]}:{offset[3:]})" if offset else str(now.tzname())
