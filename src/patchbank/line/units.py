"""Times and sizes as a line's file has them: "7d", "5GB"."""

from __future__ import annotations

import re

from patchbank import ConfigError

_DAYS = {"d": 1.0, "h": 1 / 24, "w": 7.0}
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)"


def days(text: str, name: str) -> float:
    """'7d', '12h' or '2w' -> days. Raises ConfigError."""
    found = re.fullmatch(rf"{_NUMBER} ?([dhw])", text.strip())
    if not found:
        raise ConfigError(f'{name}: expected a number of days, hours or weeks, as "7d", "12h" or "2w"; got {text!r}')
    return float(found[1]) * _DAYS[found[2]]


def size(text: str, name: str) -> int:
    """'500MB', '5GB' or '1TB' -> bytes, by powers of 1000. Raises ConfigError."""
    found = re.fullmatch(rf"{_NUMBER} ?([MGT]B)", text.strip())
    if not found:
        raise ConfigError(f'{name}: expected a size with its unit, as "500MB" or "5GB"; got {text!r}')
    return int(float(found[1]) * _BYTES[found[2]])
