"""Records that tests make up."""

from __future__ import annotations

from datetime import UTC, datetime

from patchbank.line.record import Record
from patchbank.util.uuid7 import uuid7


def record(**changes: object) -> Record:
    """A record of an OK part."""
    now = datetime.now(UTC)
    values = {
        "id": str(uuid7(now)),
        "at": now,
        "site": "plant",
        "line": "L1",
        "station": "cap",
        "source": "a.png",
        "verdict": "ok",
        "output": "ok",
        "code": "ordinary",
        "reason": "80 % of good images look this odd",
        "score": 1.5,
        "threshold": 2.0,
        "p_value": 0.8,
        "answered_at": now,
    }
    return Record(**{**values, **changes})
