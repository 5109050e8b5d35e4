"""Lists of inspections among millions, in a bounded time whatever is asked for.

A list is sorted by the identifier, which is the time, and goes on from a cursor: deep pages cost what the first one
costs. One index drives it, chosen by the filter (`_scans`). What else the filter asks for is looked at row by row, in
at most SCANNED rows: then the page ends early, and its cursor says where to go on. Counts end at 999."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    TextClause,
    and_,
    literal,
    literal_column,
    select,
    tuple_,
)

from patchbank.errors import StoreValueError
from patchbank.store import ranges, values
from patchbank.store.inspections import COLUMNS, Inspection
from patchbank.store.schema import LABELLED, LABELS, NEEDS_REVIEW, NOT_OK, VERDICTS
from patchbank.store.schema import inspections as table
from patchbank.store.types import json_text

MOST = 200  # rows of a page
SCANNED = 5000  # rows that a page looks at, beyond those that its index finds
MOST_COUNTED = 999
_LAST = "\U0010ffff"  # sorts behind every text


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which inspections; each field that is set narrows it. serial: its beginning; the list is then sorted by serial,
    then time. since: from this time on; until: before this time. label: of the present review. labelled: whether there
    is one."""

    stream_id: int | None = None
    model_version_id: int | None = None
    verdicts: tuple[str, ...] = ()
    serial: str = ""
    batch: str = ""
    since: datetime | None = None
    until: datetime | None = None
    needs_review: bool | None = None
    labelled: bool | None = None
    label: str = ""
    late: bool | None = None
    in_scene: bool | None = None
    sample: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. items: maybe fewer than asked for. next: the cursor of what follows; None: that is all."""

    items: list[Inspection]
    next: str | None


@dataclass(frozen=True, slots=True)
class Count:
    """How many. more: there are more than that, or may be."""

    number: int
    more: bool

    def __str__(self) -> str:
        return f"{self.number}+" if self.more else str(self.number)


@dataclass(frozen=True, slots=True)
class _Scan:
    """What one index finds. by_serial: sorted by serial and identifier, otherwise by the identifier."""

    conditions: tuple[ColumnElement[bool], ...]
    by_serial: bool = False


def page(
    connection: Connection, chosen: Filter, *, cursor: str | None = None, limit: int = 50, oldest_first: bool = False
) -> Page:
    """A page of a list, the newest first, or the oldest. cursor: `Page.next` of the page before, with the same filter.

    Raises StoreValueError for a cursor that is none, or a value that no inspection has.
    """
    limit = max(1, min(limit, MOST))
    scans, rest = _scans(chosen)
    parts = [_part(connection, scan, rest, chosen, cursor, limit, oldest_first) for scan in scans]
    by_serial = scans[0].by_serial
    merged = sorted((row for rows, _ in parts for row in rows), key=_key(by_serial), reverse=not oldest_first)
    reached = [place for _, place in parts if place is not None]
    if reached and len(scans) > 1:  # behind the place that one scan has reached, the others' rows come on the next page
        edge = min(reached) if oldest_first else max(reached)
        merged = [row for row in merged if (row.id <= edge[-1] if oldest_first else row.id >= edge[-1])]
    items = merged[:limit]
    if len(merged) > limit:
        return Page(items, _cursor(_place(items[-1], by_serial)))
    return Page(items, _cursor(min(reached) if oldest_first else max(reached)) if reached else None)


def count(connection: Connection, chosen: Filter, most: int = MOST_COUNTED) -> Count:
    """How many there are, at most `most`: counting millions takes seconds, and nobody needs the number."""
    scans, rest = _scans(chosen)
    number, more = 0, False
    for scan in scans:
        inner = _inner(scan, chosen, None, False, SCANNED if rest else most + 1).subquery("scanned")
        query: Select[Any] = select(literal_column("1")).select_from(inner)
        if rest:
            query = query.join(table, table.c.id == inner.c.id).where(*rest).limit(most + 1)
            looked_at = connection.execute(select(_count()).select_from(inner)).scalar_one()
            more |= looked_at >= SCANNED
        number += connection.execute(select(_count()).select_from(query.subquery("found"))).scalar_one()
    return Count(min(number, most), more or number > most)


def neighbours(connection: Connection, inspection: Inspection) -> tuple[UUID | None, UUID | None]:
    """The inspections of the same stream before and after this one."""
    near = select(table.c.id).where(table.c.stream_id == inspection.stream_id).limit(1)
    before = near.where(table.c.id < inspection.id).order_by(table.c.id.desc())
    after = near.where(table.c.id > inspection.id).order_by(table.c.id)
    return connection.execute(before).scalar(), connection.execute(after).scalar()


def latest(connection: Connection, stream_id: int, limit: int = 20) -> list[Inspection]:
    """The newest inspections of a stream."""
    return page(connection, Filter(stream_id=stream_id), limit=limit).items


def queue(connection: Connection, *, stream_id: int | None = None, after: str | None = None, limit: int = 10) -> Page:
    """What waits for a review, the oldest first."""
    waiting = Filter(needs_review=True, stream_id=stream_id)
    return page(connection, waiting, cursor=after, limit=limit, oldest_first=True)


def statements(chosen: Filter, limit: int = 50) -> list[Select[Any]]:
    """The queries that a page of this list asks: for tests and benchmarks, which look at how databases answer them."""
    scans, rest = _scans(chosen)
    return [_query(scan, rest, chosen, None, limit, False) for scan in scans]


def _scans(chosen: Filter) -> tuple[list[_Scan], list[ColumnElement[bool]]]:
    """The index that finds the rows, which is the one that narrows most, and the conditions that it does not know.

    Several verdicts or labels are one scan each."""
    for verdict in chosen.verdicts:
        values.choice(verdict, VERDICTS, "verdict")
    if chosen.label:
        values.choice(chosen.label, LABELS, "label")
    conditions = _conditions(chosen)
    if chosen.serial:
        used, scans = {"serial"}, [_Scan((conditions["serial"],), by_serial=True)]
    elif chosen.batch:
        used, scans = {"batch"}, [_Scan((conditions["batch"],))]
    elif chosen.needs_review:
        used = {"needs_review", "stream_id"}
        of_stream = [conditions["stream_id"], conditions["needs_review"]] if chosen.stream_id is not None else []
        scans = [_Scan((_same(NEEDS_REVIEW), *of_stream))]
    elif chosen.label or chosen.labelled:
        labels = (chosen.label,) if chosen.label else LABELS
        used = {"label"} | ({"labelled"} if chosen.labelled else set())
        scans = [_Scan((_same(LABELLED), table.c.label == label)) for label in labels]
    elif chosen.verdicts and "ok" not in chosen.verdicts:
        used = {"verdicts", "stream_id"}
        of_stream = [conditions["stream_id"]] if chosen.stream_id is not None else []
        scans = [_Scan((_same(NOT_OK), *of_stream, table.c.verdict == each)) for each in sorted(set(chosen.verdicts))]
    elif chosen.stream_id is not None:
        used, scans = {"stream_id"}, [_Scan((conditions["stream_id"],))]
    elif chosen.model_version_id is not None:
        used, scans = {"model_version_id"}, [_Scan((conditions["model_version_id"],))]
    else:
        used, scans = set(), [_Scan(())]
    rest = [condition for name, condition in conditions.items() if name not in used]
    if scans[0].by_serial:  # its index does not have the times in order
        rest += ranges.between(table.c.id, chosen.since, chosen.until)
    return scans, rest


def _conditions(chosen: Filter) -> dict[str, ColumnElement[bool]]:
    """A condition for each field that is set, but for the times (`ranges`)."""
    found: dict[str, ColumnElement[bool]] = {}
    if chosen.stream_id is not None:
        found["stream_id"] = table.c.stream_id == chosen.stream_id
    if chosen.model_version_id is not None:
        found["model_version_id"] = table.c.model_version_id == chosen.model_version_id
    if chosen.verdicts:
        found["verdicts"] = table.c.verdict.in_(chosen.verdicts)
    if chosen.serial:
        low = values.text(chosen.serial, "serial", values.NAME)
        found["serial"] = and_(table.c.serial >= low, table.c.serial < low + _LAST)
    if chosen.batch:
        found["batch"] = table.c.batch == values.text(chosen.batch, "batch", values.NAME)
    if chosen.label:
        found["label"] = table.c.label == chosen.label
    if chosen.labelled is not None:
        found["labelled"] = table.c.label.is_not(None) if chosen.labelled else table.c.label.is_(None)
    for column in ("needs_review", "late", "in_scene", "sample"):
        if (wanted := getattr(chosen, column)) is not None:
            found[column] = table.c[column].is_(wanted)
    return found


def _part(
    connection: Connection,
    scan: _Scan,
    rest: Sequence[ColumnElement[bool]],
    chosen: Filter,
    cursor: str | None,
    limit: int,
    oldest_first: bool,
) -> tuple[list[Inspection], tuple[Any, ...] | None]:
    """The rows of one scan, one more than the page has, and the place that it has reached; None: its end."""
    rows = values.all_of(connection, Inspection, _query(scan, rest, chosen, cursor, limit, oldest_first))
    if len(rows) > limit or not rest:
        return rows, _place(rows[-1], scan.by_serial) if len(rows) > limit else None
    last = _inner(scan, chosen, cursor, oldest_first, 1).offset(SCANNED - 1)
    row = connection.execute(last).first()
    return rows, None if row is None else tuple(row)


def _query(
    scan: _Scan,
    rest: Sequence[ColumnElement[bool]],
    chosen: Filter,
    cursor: str | None,
    limit: int,
    oldest_first: bool,
) -> Select[Any]:
    if not rest:
        query = select(*COLUMNS).where(*scan.conditions, *_between(chosen, scan, cursor, oldest_first))
        return query.order_by(*_order(table.c, scan.by_serial, oldest_first)).limit(limit + 1)
    inner = _inner(scan, chosen, cursor, oldest_first, SCANNED).subquery("scanned")
    query = select(*COLUMNS).join(inner, table.c.id == inner.c.id).where(*rest)
    return query.order_by(*_order(inner.c, scan.by_serial, oldest_first)).limit(limit + 1)


def _inner(scan: _Scan, chosen: Filter, cursor: str | None, oldest_first: bool, limit: int) -> Select[Any]:
    """The keys that the index finds, in its order."""
    keys = (table.c.serial, table.c.id) if scan.by_serial else (table.c.id,)
    query = select(*keys).where(*scan.conditions, *_between(chosen, scan, cursor, oldest_first))
    return query.order_by(*_order(table.c, scan.by_serial, oldest_first)).limit(limit)


def _between(chosen: Filter, scan: _Scan, cursor: str | None, oldest_first: bool) -> list[ColumnElement[bool]]:
    """The times, unless the list is sorted by serial, and where the page before has ended."""
    bounds = [] if scan.by_serial else ranges.between(table.c.id, chosen.since, chosen.until)
    if cursor is not None:
        place = _place_of(cursor, scan.by_serial)
        columns = [table.c.serial, table.c.id] if scan.by_serial else [table.c.id]
        keys = tuple_(*columns)
        after = tuple_(*(literal(part, column.type) for part, column in zip(place, columns, strict=True)))
        bounds.append(keys > after if oldest_first else keys < after)
    return bounds


def _order(columns: Any, by_serial: bool, oldest_first: bool) -> list[ColumnElement[Any]]:
    keys = (columns.serial, columns.id) if by_serial else (columns.id,)
    return [key if oldest_first else key.desc() for key in keys]


def _key(by_serial: bool) -> Any:
    return lambda row: _place(row, by_serial)


def _place(row: Inspection, by_serial: bool) -> tuple[Any, ...]:
    return (row.serial, row.id) if by_serial else (row.id,)


def _cursor(place: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(json_text([str(part) for part in place]).encode()).decode().rstrip("=")


def _place_of(cursor: str, by_serial: bool) -> tuple[Any, ...]:
    """Raises StoreValueError for a text that is no cursor of such a list."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        *serial, identifier = parts
        place = (*(values.text(part, "cursor") for part in serial), UUID(identifier))
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise StoreValueError("cursor: expected the one of the page before; got another text") from error
    if len(place) != (2 if by_serial else 1):
        raise StoreValueError("cursor: expected the one of the same list; got another list's")
    return place


def _same(condition: TextClause) -> ColumnElement[bool]:
    """The condition of a partial index, in its own words. It has no type: of a Boolean, SQLAlchemy makes `(...) = 1`
    for SQLite, which then uses no such index."""
    return literal_column(f"({condition.text})")


def _count() -> ColumnElement[int]:
    return literal_column("count(*)")
