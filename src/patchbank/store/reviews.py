"""What people say of inspections. Reviews are added, never changed: a new one supersedes the one before.

"Good" labels on flagged parts are the basket from which a model learns; "defect" labels are the regression set that no
later version may lose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, func, insert, select, update

from patchbank.errors import StoreConflictError
from patchbank.store import events, ranges, values
from patchbank.store.inspections import COLUMNS, Inspection
from patchbank.store.schema import LABELLED, LABELS, SAMPLE, dataset_images, model_versions, reviews
from patchbank.store.schema import inspections as table
from patchbank.store.values import Actor

WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Review:
    """What a person said. label: good, defect, unsure; withdrawn = the one before was a mistake. kind: of defect."""

    id: int
    inspection_id: UUID
    label: str
    kind: str
    comment: str
    user_id: int | None
    by: str
    at: datetime
    supersedes_id: int | None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What people said of OK parts that chance had chosen: only these say how many defects escape. reviewed: good or
    defect; unsure and waiting ones do not count."""

    reviewed: int
    defects: int
    waiting: int


def add(
    connection: Connection,
    inspection_id: UUID,
    label: str,
    *,
    by: Actor,
    kind: str = "",
    comment: str = "",
    supersedes: int | None = None,
    check: bool = False,
) -> Review:
    """A review; the inspection leaves the queue. check: raises StoreConflictError unless the present review is still
    `supersedes` (None: there is none), so that nobody overrules what they have not seen."""
    values.choice(label, LABELS, "label")
    before = _locked(connection, inspection_id)
    if check and (before.id if before else None) != supersedes:
        raise StoreConflictError("somebody else has reviewed this part meanwhile; look at it again")
    return _append(connection, inspection_id, before, label, kind, comment, by)


def undo(connection: Connection, inspection_id: UUID, *, by: Actor) -> Review:
    """Takes back the present review: what was said before it holds again. Without one before, the part is in the queue
    again. Raises StoreConflictError if there is no review."""
    last = _locked(connection, inspection_id)
    if last is None or last.label == WITHDRAWN:
        raise StoreConflictError("there is no review that could be taken back")
    earlier = by_id(connection, last.supersedes_id) if last.supersedes_id is not None else None
    if earlier is None or earlier.label == WITHDRAWN:
        return _append(connection, inspection_id, last, WITHDRAWN, "", "", by)
    return _append(connection, inspection_id, last, earlier.label, earlier.kind, earlier.comment, by)


def of(connection: Connection, inspection_id: UUID) -> list[Review]:
    """All reviews of an inspection, the newest first: that one holds."""
    query = _all().where(reviews.c.inspection_id == inspection_id).order_by(reviews.c.id.desc())
    return values.all_of(connection, Review, query)


def by_id(connection: Connection, review_id: int) -> Review:
    """The review. Raises StoreNotFoundError."""
    return values.found(
        values.one_of(connection, Review, _all().where(reviews.c.id == review_id)), f"review {review_id}"
    )


def basket(connection: Connection, model_id: int, *, after: UUID | None = None, limit: int = 100) -> list[Inspection]:
    """Parts that the model flagged and people call good, the oldest first: what it should learn. Without those that are
    in a dataset already, and those whose image is gone."""
    used = select(dataset_images.c.inspection_id).where(dataset_images.c.inspection_id == table.c.id)
    query = _labelled(model_id, "good").where(table.c.verdict != "ok", ~used.exists())
    return values.all_of(connection, Inspection, _page(query, after, limit))


def regression_set(
    connection: Connection, model_id: int, *, after: UUID | None = None, limit: int = 100
) -> list[Inspection]:
    """Parts that people call defective, the oldest first, whatever the model said: a candidate must find those that it
    found. Without those whose image is gone."""
    return values.all_of(connection, Inspection, _page(_labelled(model_id, "defect"), after, limit))


def good_set(connection: Connection, model_id: int, *, after: UUID | None = None, limit: int = 100) -> list[Inspection]:
    """Parts that people call good, the oldest first, whatever the model said."""
    return values.all_of(connection, Inspection, _page(_labelled(model_id, "good"), after, limit))


def defects_since(connection: Connection, model_id: int, since: datetime) -> bool:
    """Says whether somebody has called a part of the model defective after this time, and it is called so still."""
    query = (
        select(reviews.c.id)
        .join(table, table.c.id == reviews.c.inspection_id)
        .where(
            reviews.c.at > since,
            reviews.c.label == "defect",
            table.c.label == "defect",
            table.c.model_version_id.in_(_versions_of(model_id)),
        )
    )
    return values.exists(connection, query)


def label_counts(connection: Connection, model_id: int) -> dict[str, int]:
    """How many inspections of the model have each label now."""
    query = (
        select(table.c.label, func.count())
        .where(LABELLED, (table.c.model_version_id + 0).in_(_versions_of(model_id)))  # + 0: not by the versions' index
        .group_by(table.c.label)
    )
    return dict.fromkeys(LABELS, 0) | {row[0]: row[1] for row in connection.execute(query)}


def sampled(connection: Connection, stream_id: int, since: datetime | None = None) -> Sampled:
    """What became of the samples of a stream, from a time on."""
    times = ranges.between(table.c.id, since, None)
    query = select(table.c.label, table.c.needs_review, func.count()).select_from(table)
    query = query.where(SAMPLE, table.c.sample.is_(True), table.c.stream_id == stream_id, *times)
    found = connection.execute(query.group_by(table.c.label, table.c.needs_review)).all()
    counts = {label: sum(n for other, _, n in found if other == label) for label in LABELS}
    waiting = sum(n for _, needs_review, n in found if needs_review)
    return Sampled(counts["good"] + counts["defect"], counts["defect"], waiting)


def _labelled(model_id: int, label: str) -> Select[Any]:
    """Those with an image, by the index of labels."""
    return select(*COLUMNS).where(
        LABELLED,
        table.c.label == label,
        table.c.model_version_id.in_(_versions_of(model_id)),
        table.c.image_sha256.is_not(None),
        table.c.image_gone_at.is_(None),
    )


def _page(query: Select[Any], after: UUID | None, limit: int) -> Select[Any]:
    return (query if after is None else query.where(table.c.id > after)).order_by(table.c.id).limit(limit)


def _versions_of(model_id: int) -> Select[Any]:
    return select(model_versions.c.id).where(model_versions.c.model_id == model_id)


def _locked(connection: Connection, inspection_id: UUID) -> Review | None:
    """The present review. In PostgreSQL, two reviews of one part wait for each other."""
    chosen = select(table.c.id).where(table.c.id == inspection_id).with_for_update()
    values.found(connection.execute(chosen).scalar(), f"inspection {inspection_id}")
    query = _all().where(reviews.c.inspection_id == inspection_id).order_by(reviews.c.id.desc()).limit(1)
    return values.one_of(connection, Review, query)


def _append(
    connection: Connection, inspection_id: UUID, before: Review | None, label: str, kind: str, comment: str, by: Actor
) -> Review:
    row = {
        "inspection_id": inspection_id,
        "label": label,
        "kind": values.text(kind, "kind", values.NAME),
        "comment": values.text(comment, "comment", values.TEXT),
        "user_id": by.user_id,
        "by": by.name,
        "at": values.now(),
        "supersedes_id": before and before.id,
    }
    made = connection.execute(insert(reviews).values(row).returning(reviews.c.id)).scalar_one()
    holds = None if label == WITHDRAWN else label
    changes = {"label": holds, "needs_review": holds is None}
    connection.execute(update(table).where(table.c.id == inspection_id).values(changes))
    events.tell(connection, "review", id=str(inspection_id), label=label)
    return by_id(connection, made)


def _all() -> Select[Any]:
    return select(*values.columns(Review, reviews))
