"""Rows for the tests of the store."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from patchbank.store import values
from patchbank.store.inspections import NewInspection
from patchbank.store.schema import model_versions, models, streams
from patchbank.util.uuid7 import uuid7

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stream(connection: Connection, name: str = "cap") -> int:
    row = {"name": name, "site": "plant1", "state": "ready", "created_at": NOON, "created_by": "test"}
    return int(connection.execute(insert(streams).values(row).returning(streams.c.id)).scalar_one())


def version(connection: Connection, name: str = "cap", number: int = 1) -> int:
    row: dict[str, Any] = {"name": name, "created_at": NOON, "created_by": "test"}
    model = connection.execute(insert(models).values(row).returning(models.c.id)).scalar_one()
    row = {
        "model_id": model,
        "number": number,
        "file_sha256": digest(name),
        "file_size": 1000,
        "bank_version": 1,
        "action": "fit",
        "calibrated": "exact",
        "threshold": 2.0,
        "images": 20,
        "size": 300,
        "author": "anna",
        "note": "",
        "time": NOON,
        "status": "approved",
        "status_at": NOON,
        "status_by": "anna",
    }
    return int(connection.execute(insert(model_versions).values(row).returning(model_versions.c.id)).scalar_one())


def inspection(stream_id: int, *, at: datetime | None = None, after: float = 0, **others: Any) -> NewInspection:
    """An OK inspection at noon, or so many seconds after it."""
    at = (at or NOON) + timedelta(seconds=after)
    row: dict[str, Any] = {"verdict": "ok", "reason": "ordinary", "score": 1.0, "threshold": 2.0} | others
    identifier = row.pop("id", None) or uuid7(at)
    row.setdefault("request_sha256", digest(str(identifier)))
    return NewInspection(id=identifier, at=at, stream_id=stream_id, **row)


def kept(connection: Connection, *many: NewInspection) -> None:
    """Inserts any number of inspections."""
    from patchbank.store import inspections

    for first in range(0, len(many), inspections.MOST_TOGETHER):
        inspections.insert_many(connection, many[first : first + inspections.MOST_TOGETHER])


now = values.now
