"""Identifiers that sort by time: UUIDs of version 7 (RFC 9562), for inspections.

The first 48 bits are milliseconds since 1970, the next 12 are the part of a millisecond. So identifiers that one
process makes sort in the order in which they were made, and a time is a range of identifiers.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LARGEST = 1 << 48  # milliseconds: the year 10889
_lock = threading.Lock()
_last = 0


def uuid7(at: datetime | None = None) -> uuid.UUID:
    """A new identifier. at: its time, with a time zone; None = now, and later than every one that this process has made
    for now."""
    if at is not None:
        return _made(_ticks(at), secrets.randbits(62))
    global _last
    with _lock:
        _last = max(_ticks(datetime.now(UTC)), _last + 1)
        return _made(_last, secrets.randbits(62))


def time_of(identifier: uuid.UUID) -> datetime:
    """The time of an identifier of version 7, UTC, to the microsecond. Raises ValueError for another version."""
    if identifier.version != 7 or identifier.variant != uuid.RFC_4122:
        raise ValueError(f"expected a UUID of version 7; got {identifier}")
    milliseconds, part = identifier.int >> 80, (identifier.int >> 64) & 0xFFF
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds, microseconds=-(-part * 1000 // 4096))
    except OverflowError:
        raise ValueError(f"expected a UUID of a time before the year 10000; got {identifier}") from None


def first_of(at: datetime) -> uuid.UUID:
    """The smallest identifier of this time: those of earlier times are smaller, those of later times larger."""
    return _made(_ticks(at), 0)


def _ticks(at: datetime) -> int:
    """Time in 1/4096 ms. Raises ValueError without a time zone."""
    if at.tzinfo is None:
        raise ValueError(f"expected a time with a time zone; got {at.isoformat()}")
    microseconds = (at - _EPOCH) // _MICROSECOND
    milliseconds, rest = divmod(microseconds, 1000)
    if not 0 <= milliseconds < _LARGEST:
        raise ValueError(f"expected a time from 1970 on; got {at.isoformat()}")
    return milliseconds * 4096 + rest * 4096 // 1000


def _made(ticks: int, random: int) -> uuid.UUID:
    milliseconds, part = divmod(ticks, 4096)
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | part << 64 | 0b10 << 62 | random)
