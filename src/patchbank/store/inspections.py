"""Inspections: each is written once, whoever repeats it, and read back one by one (`listing` has lists of them)."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.sql.dml import Insert

from patchbank.errors import StoreConflictError, StoreValueError
from patchbank.store import events, heats, statistics, values
from patchbank.store.heats import Heat
from patchbank.store.schema import VERDICTS
from patchbank.store.schema import heats as heats_table
from patchbank.store.schema import inspections as table
from patchbank.store.schema import regions as regions_table
from patchbank.util.uuid7 import time_of

MOST_TOGETHER = 100  # of `insert_many`
MOST_REGIONS = 1000
_WRITER = secrets.token_hex(4)  # of this process, among those that share a database
_TOLERANCE = timedelta(milliseconds=2)  # others make UUIDs of whole milliseconds


@dataclass(frozen=True, slots=True)
class Region:
    """A flagged region, in pixels of the original image. contour: polygons, each a list of x, y in turn."""

    x: int
    y: int
    w: int
    h: int
    area: int
    peak_x: int
    peak_y: int
    peak_score: float
    contour: list[list[float]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInspection:
    """An inspection that is to be kept. id: `util.uuid7` of `at`. image_sha256: put into the blobs before.
    request_sha256: digest of what was asked for. idempotency_sha256: `idempotency(...)`, if the request had a key."""

    id: UUID
    at: datetime
    stream_id: int
    verdict: str
    reason: str
    model_version_id: int | None = None
    serial: str | None = None
    batch: str | None = None
    source: str = "api"
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    in_scene: bool | None = None
    scene_json: Any = None
    latency_ms: float | None = None
    late: bool = False
    image_sha256: str | None = None
    image_format: str | None = None
    image_size: int | None = None
    width: int | None = None
    height: int | None = None
    sample: bool = False
    needs_review: bool | None = None  # None: REVIEW, and a sample, need one
    request_sha256: str | None = None
    idempotency_sha256: str | None = None
    heat: Heat | None = None
    regions: Sequence[Region] = field(default=())


@dataclass(frozen=True, slots=True)
class Inspection:
    """An inspection as it is kept; schema.py says what each column means. label: the present review's."""

    id: UUID
    at: datetime
    received_at: datetime
    stream_id: int
    model_version_id: int | None
    serial: str | None
    batch: str | None
    source: str
    verdict: str
    reason: str
    score: float | None
    threshold: float | None
    p_value: float | None
    in_scene: bool | None
    scene_json: Any
    latency_ms: float | None
    late: bool
    image_sha256: str | None
    image_format: str | None
    image_size: int | None
    width: int | None
    height: int | None
    image_gone_at: datetime | None
    sample: bool
    needs_review: bool
    label: str | None

    @property
    def has_image(self) -> bool:
        """Says whether the image is still there."""
        return self.image_sha256 is not None and self.image_gone_at is None


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of an inspection. outcome: new; known (the same came before); conflict (another one has its
    identifier or its key, and nothing was kept)."""

    id: UUID
    outcome: Literal["new", "known", "conflict"]


COLUMNS = values.columns(Inspection, table)
_ROW = [each.name for each in fields(NewInspection) if each.name in table.c]


def insert_one(connection: Connection, new: NewInspection) -> Kept:
    """Keeps an inspection, once: the same one again changes nothing. Raises StoreConflictError if its identifier or its
    key belongs to another request."""
    (kept,) = insert_many(connection, [new])
    if kept.outcome == "conflict":
        raise StoreConflictError("the identifier, or the Idempotency-Key, belongs to another request; use a new one")
    return kept


def insert_many(connection: Connection, batch: Sequence[NewInspection]) -> list[Kept]:
    """Keeps up to 100 inspections, each once, and says of each what became of it. Those in conflict do not keep the
    others from being kept."""
    if len(batch) > MOST_TOGETHER:
        raise StoreValueError(f"expected at most {MOST_TOGETHER} inspections together; got {len(batch)}")
    outcomes = []
    for new in batch:
        row = _row_of(new)
        if values.insert_new(connection, table, row):
            _insert_parts(connection, new)
            events.tell(connection, "inspection", id=str(new.id), stream_id=new.stream_id, verdict=new.verdict)
            outcomes.append(Kept(new.id, "new"))
        else:
            outcomes.append(_known(connection, new))
    fresh = [new for new, kept in zip(batch, outcomes, strict=True) if kept.outcome == "new"]
    statistics.count_hours(connection, _WRITER if connection.dialect.name == "postgresql" else "", fresh)
    return outcomes


def replayed(connection: Connection, idempotency_sha256: str, request_sha256: str) -> Inspection | None:
    """The inspection that a request with this key has made; None if there is none yet. Raises StoreConflictError if
    that was another request."""
    query = select(table.c.request_sha256, *COLUMNS).where(table.c.idempotency_sha256 == idempotency_sha256)
    row = connection.execute(query).first()
    if row is None:
        return None
    if row[0] != request_sha256:
        raise StoreConflictError("the Idempotency-Key was used for another request; use a new one")
    return Inspection(*row[1:])


def idempotency(who: str, key: str) -> str:
    """The digest of an Idempotency-Key: keys of different people and tokens are different ones. who: "token/3"."""
    return hashlib.sha256(f"{who}\n{values.text(key, 'Idempotency-Key')}".encode()).hexdigest()


def get(connection: Connection, inspection_id: UUID) -> Inspection:
    """The inspection. Raises StoreNotFoundError."""
    query = select(*COLUMNS).where(table.c.id == inspection_id)
    return values.found(values.one_of(connection, Inspection, query), f"inspection {inspection_id}")


def get_many(connection: Connection, ids: Sequence[UUID]) -> list[Inspection]:
    """Those of the inspections that are there, in the order asked for."""
    found = values.all_of(connection, Inspection, select(*COLUMNS).where(table.c.id.in_(ids)))
    by_id = {each.id: each for each in found}
    return [by_id[each] for each in ids if each in by_id]


def heat_of(connection: Connection, inspection_id: UUID) -> Heat | None:
    """The patch grid; None if none was kept."""
    query = select(*values.columns(Heat, heats_table)).where(heats_table.c.inspection_id == inspection_id)
    return values.one_of(connection, Heat, query)


def regions_of(connection: Connection, inspection_id: UUID) -> list[Region]:
    """The flagged regions, in order."""
    query = select(*values.columns(Region, regions_table)).where(regions_table.c.inspection_id == inspection_id)
    return values.all_of(connection, Region, query.order_by(regions_table.c.n))


def ask_for_review(connection: Connection, inspection_id: UUID) -> None:
    """Puts an inspection into the queue. Raises StoreNotFoundError."""
    get(connection, inspection_id)
    connection.execute(update(table).where(table.c.id == inspection_id).values(needs_review=True))
    events.tell(connection, "queue", id=str(inspection_id))


def is_sample(inspection_id: UUID, rate: float) -> bool:
    """Whether an OK part goes to review by chance. The identifier's 62 random bits decide, so that a repetition decides
    alike."""
    return (inspection_id.int & ((1 << 62) - 1)) < rate * (1 << 62)


def _row_of(new: NewInspection) -> dict[str, Any]:
    """The checked row. Raises StoreValueError."""
    row: dict[str, Any] = {name: getattr(new, name) for name in _ROW}
    try:
        apart = abs(time_of(new.id) - new.at)
    except (ValueError, TypeError) as error:
        raise StoreValueError(f"id: expected a UUID of version 7; {error}") from error
    if apart > _TOLERANCE:
        raise StoreValueError(
            f"id: expected a UUID of the time {new.at.isoformat()}; got one of {time_of(new.id).isoformat()}"
        )
    values.choice(new.verdict, VERDICTS, "verdict")
    values.text(new.reason, "reason", values.TEXT)
    values.text(new.source, "source")
    for name in ("serial", "batch"):
        row[name] = values.text(row[name], name, values.NAME) if row[name] else None
    for name in ("score", "threshold", "p_value", "latency_ms"):
        row[name] = values.finite(row[name])
    for name in ("image_sha256", "request_sha256", "idempotency_sha256"):
        if row[name] is not None:
            values.sha256(row[name], name)
    row["scene_json"] = values.json(new.scene_json, "scene")
    row["received_at"] = values.now()
    if new.needs_review is None:
        row["needs_review"] = new.verdict == "review" or new.sample
    return row


def _insert_parts(connection: Connection, new: NewInspection) -> None:
    if new.heat is not None:
        heat = heats.checked(new.heat)
        connection.execute(insert(heats_table).values(inspection_id=new.id, **_fields(heat)))
    if len(new.regions) > MOST_REGIONS:
        raise StoreValueError(f"regions: expected at most {MOST_REGIONS}; got {len(new.regions)}")
    rows = [{"inspection_id": new.id, "n": n, **_fields(region)} for n, region in enumerate(new.regions)]
    for row in rows:
        if not math.isfinite(row["peak_score"]):
            raise StoreValueError("regions: expected scores that are numbers")
        row["contour"] = values.json(row["contour"], "contour")
    if rows:
        statement: Insert = insert(regions_table)
        connection.execute(statement, rows)


def _known(connection: Connection, new: NewInspection) -> Kept:
    query = select(table.c.id, table.c.request_sha256).where(table.c.id == new.id)
    row = connection.execute(query).first()
    if row is None and new.idempotency_sha256:
        query = select(table.c.id, table.c.request_sha256).where(table.c.idempotency_sha256 == new.idempotency_sha256)
        row = connection.execute(query).first()
    if row is None or row[1] != new.request_sha256:
        return Kept(new.id, "conflict")
    return Kept(row[0], "known")


def _fields(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}
