"""What the pages show of many inspections: counts by the hour, scores in their order, what a watching version would
have said, and how far a stream has drifted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, text

from patchbank.store import ranges, values
from patchbank.store.schema import VERDICTS, drift_states, hours, shadow_results
from patchbank.store.schema import inspections as table
from patchbank.util.uuid7 import first_of

MOST_SCORES = 20_000


@dataclass(frozen=True, slots=True)
class Hour:
    """How many inspections an hour had, by verdict. at: its beginning, UTC."""

    at: datetime
    ok: int
    review: int
    ng: int
    error: int


@dataclass(frozen=True, slots=True)
class Score:
    """A point of a stream's chart."""

    id: UUID
    at: datetime
    score: float | None
    verdict: str
    in_scene: bool | None


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """What a version that only watches said of an inspection. changed: the verdict is another one than the active
    one's."""

    inspection_id: UUID
    model_version_id: int
    verdict: str
    score: float | None
    threshold: float | None
    p_value: float | None
    changed: bool


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """What would have changed. changes: (active verdict, its verdict) -> how many."""

    inspections: int
    changes: dict[tuple[str, str], int]


def count_hours(connection: Connection, writer: str, inspections: Iterable[Any]) -> None:
    """Counts new inspections; called where they are written."""
    counts: dict[tuple[Any, ...], int] = {}
    for each in inspections:
        hour = each.at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        key = (each.stream_id, hour, each.verdict, each.model_version_id or 0, writer)
        counts[key] = counts.get(key, 0) + 1
    names = [column.name for column in hours.primary_key.columns]
    for key, number in sorted(counts.items()):
        values.upsert(connection, hours, dict(zip(names, key, strict=True)) | {"n": number}, add=("n",))


def by_hour(
    connection: Connection,
    since: datetime,
    until: datetime | None = None,
    *,
    stream_id: int | None = None,
    model_version_id: int | None = None,
) -> list[Hour]:
    """Counts by the hour, the oldest first; hours without inspections are left out."""
    query = select(hours.c.hour, hours.c.verdict, func.sum(hours.c.n)).where(hours.c.hour >= since)
    for column, value in ((hours.c.stream_id, stream_id), (hours.c.model_version_id, model_version_id)):
        if value is not None:
            query = query.where(column == value)
    if until is not None:
        query = query.where(hours.c.hour < until)
    found: dict[datetime, dict[str, int]] = {}
    for hour, verdict, number in connection.execute(query.group_by(hours.c.hour, hours.c.verdict)):
        found.setdefault(hour, dict.fromkeys(VERDICTS, 0))[verdict] = int(number)
    return [Hour(hour, **counts) for hour, counts in sorted(found.items())]


def scores(
    connection: Connection,
    stream_id: int,
    *,
    model_version_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 2000,
) -> list[Score]:
    """The newest scores of a stream, the oldest of them first. model_version_id: only this version's of them."""
    query = select(table.c.model_version_id, *values.columns(Score, table)).where(table.c.stream_id == stream_id)
    query = query.where(*ranges.between(table.c.id, since, until))
    newest = connection.execute(query.order_by(table.c.id.desc()).limit(min(limit, MOST_SCORES))).all()
    return [Score(*row[1:]) for row in newest[::-1] if model_version_id in (None, row[0])]


def scores_after(
    connection: Connection,
    stream_id: int,
    model_version_id: int,
    after: UUID | None,
    before: datetime,
    limit: int,
) -> list[Score]:
    """The scores that a version gave on a stream after an inspection and before a time, the oldest first. after: None =
    from the first one on."""
    query = select(*values.columns(Score, table)).where(
        table.c.stream_id == stream_id, table.c.model_version_id == model_version_id, table.c.id < first_of(before)
    )
    if after is not None:
        query = query.where(table.c.id > after)
    return values.all_of(connection, Score, query.order_by(table.c.id).limit(limit))


def keep_shadow(connection: Connection, results: Sequence[ShadowResult]) -> None:
    """Keeps what a watching version said; a repetition changes nothing."""
    for each in results:
        values.choice(each.verdict, VERDICTS, "verdict")
        row = {name: getattr(each, name) for name in ShadowResult.__dataclass_fields__}
        for name in ("score", "threshold", "p_value"):
            row[name] = values.finite(row[name])
        values.insert_new(connection, shadow_results, row)


def shadow_changes(
    connection: Connection, model_version_id: int, *, after: UUID | None = None, limit: int = 100
) -> list[ShadowResult]:
    """What would have changed, the newest first. after: only those before this inspection."""
    query = select(*values.columns(ShadowResult, shadow_results)).where(
        shadow_results.c.model_version_id == model_version_id, text("changed")
    )
    if after is not None:
        query = query.where(shadow_results.c.inspection_id < after)
    order = shadow_results.c.inspection_id.desc()
    return values.all_of(connection, ShadowResult, query.order_by(order).limit(limit))


def shadow_summary(connection: Connection, model_version_id: int, most: int = 20_000) -> ShadowSummary:
    """How many verdicts a watching version would have changed, of the newest inspections that it saw."""
    newest = (
        select(shadow_results.c.inspection_id, shadow_results.c.verdict, shadow_results.c.changed)
        .where(shadow_results.c.model_version_id == model_version_id)
        .order_by(shadow_results.c.inspection_id.desc())
        .limit(most)
        .subquery("newest")
    )
    seen = connection.execute(select(func.count()).select_from(newest)).scalar_one()
    query = (
        select(table.c.verdict, newest.c.verdict, func.count())
        .join(newest, table.c.id == newest.c.inspection_id)
        .where(newest.c.changed)
        .group_by(table.c.verdict, newest.c.verdict)
    )
    return ShadowSummary(seen, {(before, after): number for before, after, number in connection.execute(query)})


def keep_drift(connection: Connection, stream_id: int, model_version_id: int, state: Any) -> None:
    """Keeps how far the scores of a stream have moved, so that a restart goes on from there."""
    row = {"stream_id": stream_id, "model_version_id": model_version_id, "state_json": values.json(state, "state")}
    values.upsert(connection, drift_states, row | {"at": values.now()})


def drift_of(connection: Connection, stream_id: int, model_version_id: int) -> Any:
    """What `keep_drift` has kept; None if there is nothing."""
    return drift_at(connection, stream_id, model_version_id)[0]


def drift_at(connection: Connection, stream_id: int, model_version_id: int) -> tuple[Any, datetime | None]:
    """As `drift_of`, with the time at which it was kept."""
    chosen = (drift_states.c.stream_id == stream_id, drift_states.c.model_version_id == model_version_id)
    row = connection.execute(select(drift_states.c.state_json, drift_states.c.at).where(*chosen)).first()
    return (None, None) if row is None else (row[0], row[1])
