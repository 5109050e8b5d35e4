"""Streams: where parts come from, and what decides there."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from fastapi import Path, Query
from pydantic import Field
from starlette.requests import Request

from patchbank.server.access import caller_of, needs
from patchbank.server.api.routing import Given, Limit, Name, Reason, Time, Told, router
from patchbank.server.api.shown import Model
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of
from patchbank.store import models, statistics, streams
from patchbank.store.streams import Deployment, Stream
from patchbank.store.values import NAME

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = router("streams")

StreamName = Annotated[str, Path(min_length=1, max_length=NAME)]
State = Literal["unknown", "start", "ready", "busy", "paused", "fault"]


class NewStream(Given):
    """A stream that is to be added."""

    name: Name
    site: str = Field("", max_length=NAME)


class Why(Given):
    """Why something is done."""

    reason: Reason


class Report(Given):
    """What a line says of itself."""

    state: Literal["start", "ready", "busy", "fault"]
    about: dict[str, Any] | None = Field(None, description="Queue, counters, ...: shown as it is.")
    config_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class Deployed(Told):
    """What decides on a stream, or watches, from a time on."""

    id: int
    kind: Literal["active", "shadow"]
    version_id: int | None = Field(description="null: nothing does.")
    model: Model | None
    sha256: str | None = Field(description="Of the model's file.")
    review_rate: float | None = Field(description="null: the model's own.")
    policy: Any
    from_at: Time
    by: str
    reason: str


class StreamTold(Told):
    """A stream. failure: why the model that is deployed cannot be used by this service; empty: it can."""

    id: int
    name: str
    site: str
    state: State
    state_json: Any
    config_sha256: str | None
    last_seen_at: Time | None
    active: Deployed | None
    shadow: Deployed | None
    failure: str


class Deployments(Told):
    """A part of a stream's history. next: `before` of what follows; null: that is all."""

    items: list[Deployed]
    next: int | None


class HourTold(Told):
    """How many inspections an hour had, by verdict. at: its beginning."""

    at: Time
    ok: int
    review: int
    ng: int
    error: int


@routes.get("/streams", summary="All streams", response_model=list[StreamTold])
@needs("viewer", "read", "ingest")
async def listed(request: Request) -> list[StreamTold]:
    """By name."""
    return await service_of(request).read(_all, _failures(request))


@routes.post("/streams", summary="Add a stream", status_code=201, response_model=StreamTold, responses=responses(409))
@needs("engineer")
async def add(request: Request, new: NewStream) -> StreamTold:
    """A new stream, on which nothing is deployed."""
    service = service_of(request)
    await service.write(streams.add, new.name, site=new.site, by=caller_of(request).actor)
    return await service.read(_one, new.name, {})


@routes.get("/streams/{stream}", summary="A stream", response_model=StreamTold)
@needs("viewer", "read", "ingest")
async def get(request: Request, stream: StreamName) -> StreamTold:
    """With what decides there."""
    return await service_of(request).read(_one, stream, _failures(request))


@routes.get("/streams/{stream}/deployments", summary="What decided there, and when", response_model=Deployments)
@needs("viewer", "read")
async def history(
    request: Request,
    stream: StreamName,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    limit: Limit = 50,
) -> Deployments:
    """The newest first."""
    return await service_of(request).read(_history, stream, before, limit)


@routes.get("/streams/{stream}/hours", summary="Counts by the hour", response_model=list[HourTold])
@needs("viewer", "read")
async def hours(
    request: Request, stream: StreamName, since: datetime, until: datetime | None = None
) -> list[statistics.Hour]:
    """The oldest first; hours without inspections are left out. since, until: with a time zone."""
    for each in (since, until):
        if each is not None and each.tzinfo is None:
            raise Problem(422, "invalid-request", "since, until: expected times with a time zone")
    return await service_of(request).read(_hours, stream, since, until)


@routes.post(
    "/streams/{stream}:pause", summary="Inspect nothing there", response_model=StreamTold, responses=responses(409)
)
@needs("operator")
async def pause(request: Request, stream: StreamName, why: Why) -> StreamTold:
    """From now on its images are refused with 503."""
    service = service_of(request)
    await service.write(_set_paused, stream, True, why.reason, caller_of(request).actor)
    return await service.read(_one, stream, {})


@routes.post("/streams/{stream}:resume", summary="Inspect again", response_model=StreamTold, responses=responses(409))
@needs("operator")
async def resume(request: Request, stream: StreamName, why: Why) -> StreamTold:
    """Ends a pause."""
    service = service_of(request)
    await service.write(_set_paused, stream, False, why.reason, caller_of(request).actor)
    return await service.read(_one, stream, {})


@routes.post("/streams/{stream}:report", summary="A line's heartbeat", response_model=StreamTold)
@needs(None, "ingest")
async def report(request: Request, stream: StreamName, said: Report) -> StreamTold:
    """What a line says of itself. The answer says what it should use."""
    service, caller = service_of(request), caller_of(request)
    await service.write(_report, stream, said, caller.stream_id, caller.actor.token_id)
    return await service.read(_one, stream, {})


def _all(connection: Connection, failures: dict[int, str]) -> list[StreamTold]:
    current = streams.all_current(connection)
    return [_told(connection, each, current, failures) for each in streams.listed(connection)]


def _one(connection: Connection, name: str, failures: dict[int, str]) -> StreamTold:
    return _told(connection, streams.by_name(connection, name), streams.all_current(connection), failures)


def _history(connection: Connection, name: str, before: int | None, limit: int) -> Deployments:
    found = streams.history(connection, streams.by_name(connection, name).id, before=before, limit=limit)
    items = [deployed(connection, each) for each in found]
    return Deployments(items=items, next=items[-1].id if len(items) == limit else None)


def _hours(connection: Connection, name: str, since: datetime, until: datetime | None) -> list[statistics.Hour]:
    return statistics.by_hour(connection, since, until, stream_id=streams.by_name(connection, name).id)


def _set_paused(connection: Connection, name: str, paused: bool, reason: str, by: Any) -> None:
    change = streams.pause if paused else streams.resume
    change(connection, streams.by_name(connection, name).id, by=by, reason=reason)


def _report(connection: Connection, name: str, said: Report, only: int | None, token_id: int | None) -> None:
    stream = streams.by_name(connection, name)
    if only not in (None, stream.id):
        raise Problem(403, "other-stream", "The token is for another stream")
    streams.report(
        connection,
        stream.id,
        said.state,
        state_json=said.about,
        config_sha256=said.config_sha256,
        token_id=token_id,
    )


def _told(connection: Connection, stream: Stream, current: list[Deployment], failures: dict[int, str]) -> StreamTold:
    kinds = {each.kind: deployed(connection, each) for each in current if each.stream_id == stream.id}
    return StreamTold(
        id=stream.id,
        name=stream.name,
        site=stream.site,
        state=cast(State, stream.state),
        state_json=stream.state_json,
        config_sha256=stream.config_sha256,
        last_seen_at=stream.last_seen_at,
        active=kinds.get("active"),
        shadow=kinds.get("shadow"),
        failure=failures.get(stream.id, ""),
    )


def deployed(connection: Connection, deployment: Deployment) -> Deployed:
    """A deployment, told."""
    model, sha256 = None, None
    if deployment.model_version_id is not None:
        version = models.version(connection, deployment.model_version_id)
        model = Model(name=models.by_id(connection, version.model_id).name, version=version.number)
        sha256 = version.file_sha256
    return Deployed(
        id=deployment.id,
        kind=deployment.kind,
        version_id=deployment.model_version_id,
        model=model,
        sha256=sha256,
        review_rate=deployment.review_rate,
        policy=deployment.policy_json,
        from_at=deployment.from_at,
        by=deployment.by,
        reason=deployment.reason,
    )


def _failures(request: Request) -> dict[int, str]:
    return {each.stream.id: each.failure for each in service_of(request).stations.all() if each.failure}
