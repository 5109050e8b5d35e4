"""Streams: where parts come from, which version decides there, and which one only watches.

Deployments are rows that are added, never changed: the newest of a stream and kind holds. So who deployed what, when
and why is known for every part, and to go back is to deploy the version of before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update

from patchbank.errors import StoreConflictError, StoreValueError
from patchbank.store import audit_log, events, values
from patchbank.store.schema import STREAM_STATES, deployments, model_versions, streams
from patchbank.store.values import SYSTEM, Actor

Kind = Literal["active", "shadow"]


@dataclass(frozen=True, slots=True)
class Stream:
    """A station of a line, or a program that posts images. state_json: what the line says of itself."""

    id: int
    name: str
    site: str
    config_sha256: str | None
    token_id: int | None
    last_seen_at: datetime | None
    state: str
    state_json: Any
    created_at: datetime
    archived_at: datetime | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """Which version decides ("active") or only watches ("shadow") from `from_at` on. model_version_id: None = none.
    review_rate: None = the model's own."""

    id: int
    stream_id: int
    kind: Kind
    model_version_id: int | None
    review_rate: float | None
    policy_json: Any
    from_at: datetime
    by: str
    reason: str
    previous_id: int | None


def add(connection: Connection, name: str, *, site: str = "", by: Actor = SYSTEM) -> Stream:
    """A new stream. Raises StoreConflictError if the name is taken."""
    row = {
        "name": values.name(name, "stream"),
        "site": values.text(site, "site", values.NAME),
        "state": "unknown",
        "created_at": values.now(),
        "created_by": by.name,
    }
    if not values.insert_new(connection, streams, row):
        raise StoreConflictError(f"there is a stream {name} already; choose another name")
    audit_log.append(connection, by, "stream.add", f"stream/{name}", new={"site": site})
    made = by_name(connection, name)
    events.tell(connection, "stream", stream_id=made.id, state=made.state)
    return made


def ensure(connection: Connection, name: str, *, by: Actor = SYSTEM) -> Stream:
    """The stream of this name; a new one if there is none."""
    found = values.one_of(connection, Stream, _all().where(streams.c.name == name))
    return found or add(connection, name, by=by)


def by_name(connection: Connection, name: str) -> Stream:
    """The stream. Raises StoreNotFoundError."""
    return values.found(values.one_of(connection, Stream, _all().where(streams.c.name == name)), f"stream {name!r}")


def by_id(connection: Connection, stream_id: int) -> Stream:
    """The stream. Raises StoreNotFoundError."""
    return values.found(
        values.one_of(connection, Stream, _all().where(streams.c.id == stream_id)), f"stream {stream_id}"
    )


def listed(connection: Connection, *, archived: bool = False) -> list[Stream]:
    """The streams by name; with `archived` those too that nobody uses any more."""
    query = _all().order_by(streams.c.name)
    return values.all_of(connection, Stream, query if archived else query.where(streams.c.archived_at.is_(None)))


def report(
    connection: Connection,
    stream_id: int,
    state: str,
    *,
    state_json: Any = None,
    config_sha256: str | None = None,
    token_id: int | None = None,
) -> None:
    """What a line says of itself: its heartbeat. A stream that a person has paused stays so."""
    row = {
        "last_seen_at": values.now(),
        "state_json": values.json(state_json, "state"),
        "config_sha256": config_sha256 and values.sha256(config_sha256, "config_sha256"),
        "token_id": token_id,
        "state": values.choice(state, STREAM_STATES, "state"),
    }
    if by_id(connection, stream_id).state == "paused":
        del row["state"]
    connection.execute(update(streams).where(streams.c.id == stream_id).values(row))
    events.tell(connection, "stream", stream_id=stream_id, state=state)


def pause(connection: Connection, stream_id: int, *, by: Actor, reason: str) -> None:
    """No part is inspected until `resume`."""
    _set_state(connection, stream_id, "paused", by, values.reason(reason))


def resume(connection: Connection, stream_id: int, *, by: Actor, reason: str) -> None:
    """Parts are inspected again. Raises StoreConflictError for a stream that is not paused."""
    if by_id(connection, stream_id).state != "paused":
        raise StoreConflictError("the stream is not paused")
    _set_state(connection, stream_id, "unknown", by, values.reason(reason))


def archive(connection: Connection, stream_id: int, *, by: Actor, reason: str) -> None:
    """The stream leaves the lists; its inspections stay."""
    stream = by_id(connection, stream_id)
    connection.execute(update(streams).where(streams.c.id == stream_id).values(archived_at=values.now()))
    audit_log.append(connection, by, "stream.archive", f"stream/{stream.name}", reason=values.reason(reason))


def deploy(
    connection: Connection,
    stream_id: int,
    model_version_id: int | None,
    *,
    kind: Kind = "active",
    review_rate: float | None = None,
    policy_json: Any = None,
    by: Actor,
    reason: str,
) -> Deployment:
    """From now on this version decides on the stream, or watches. None: none does.

    Raises StoreConflictError for a version that is not approved (a candidate may watch, and no more).
    """
    stream = by_id(connection, stream_id)
    values.choice(kind, ("active", "shadow"), "kind")
    if review_rate is not None and not 0 <= review_rate <= 1:
        raise StoreValueError(f"review_rate: expected 0 to 1; got {review_rate}")
    if model_version_id is not None:
        _check_status(connection, model_version_id, kind)
    before = current(connection, stream_id, kind)
    row = {
        "stream_id": stream_id,
        "kind": kind,
        "model_version_id": model_version_id,
        "review_rate": review_rate,
        "policy_json": values.json(policy_json, "policy"),
        "from_at": values.now(),
        "by": by.name,
        "reason": values.reason(reason),
        "previous_id": before and before.id,
    }
    made = connection.execute(insert(deployments).values(row).returning(deployments.c.id)).scalar_one()
    what = {"version": model_version_id, "kind": kind, "review_rate": review_rate, "policy": policy_json}
    old = before and {
        "version": before.model_version_id,
        "review_rate": before.review_rate,
        "policy": before.policy_json,
    }
    audit_log.append(connection, by, "stream.deploy", f"stream/{stream.name}", old=old, new=what, reason=reason)
    events.tell(connection, "deployment", stream_id=stream_id, role=kind, model_version_id=model_version_id)
    return values.found(
        values.one_of(connection, Deployment, _deployed().where(deployments.c.id == made)), "deployment"
    )


def current(connection: Connection, stream_id: int, kind: Kind = "active") -> Deployment | None:
    """What holds on the stream now; None if nothing was ever deployed."""
    query = _deployed().where(deployments.c.stream_id == stream_id, deployments.c.kind == kind)
    return values.one_of(connection, Deployment, query.order_by(deployments.c.id.desc()).limit(1))


def that_decided(
    connection: Connection, stream_id: int, model_version_id: int | None, at: datetime
) -> Deployment | None:
    """The deployment by which a version decided on the stream at a time; None if it did not."""
    query = _deployed().where(
        deployments.c.stream_id == stream_id,
        deployments.c.kind == "active",
        deployments.c.model_version_id == model_version_id,
        deployments.c.from_at <= at,
    )
    return values.one_of(connection, Deployment, query.order_by(deployments.c.id.desc()).limit(1))


def all_current(connection: Connection) -> list[Deployment]:
    """What holds on every stream now, both kinds."""
    newest = select(func.max(deployments.c.id)).group_by(deployments.c.stream_id, deployments.c.kind)
    return values.all_of(
        connection, Deployment, _deployed().where(deployments.c.id.in_(newest)).order_by(deployments.c.id)
    )


def history(connection: Connection, stream_id: int, *, before: int | None = None, limit: int = 100) -> list[Deployment]:
    """The stream's deployments, the newest first. before: only those with a smaller id."""
    query = _deployed().where(deployments.c.stream_id == stream_id)
    if before is not None:
        query = query.where(deployments.c.id < before)
    return values.all_of(connection, Deployment, query.order_by(deployments.c.id.desc()).limit(limit))


def where_deployed(connection: Connection, model_version_id: int) -> list[Deployment]:
    """The deployments by which this version decides or watches now."""
    return [each for each in all_current(connection) if each.model_version_id == model_version_id]


def _check_status(connection: Connection, model_version_id: int, kind: Kind) -> None:
    query = select(model_versions.c.status).where(model_versions.c.id == model_version_id)
    status = values.found(connection.execute(query).scalar(), f"model version {model_version_id}")
    if status == "retired" or (kind == "active" and status != "approved"):
        raise StoreConflictError(f"the version is {status}: only an approved one may decide, and a candidate may watch")


def _set_state(connection: Connection, stream_id: int, state: str, by: Actor, reason: str) -> None:
    stream = by_id(connection, stream_id)
    connection.execute(update(streams).where(streams.c.id == stream_id).values(state=state))
    about = f"stream/{stream.name}"
    audit_log.append(connection, by, "stream.state", about, old=stream.state, new=state, reason=reason)
    events.tell(connection, "stream", stream_id=stream_id, state=state)


def _all() -> Any:
    return select(*values.columns(Stream, streams))


def _deployed() -> Any:
    return select(*values.columns(Deployment, deployments))
