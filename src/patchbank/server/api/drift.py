"""Drift: whether good parts look other than they did, and since when."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from patchbank.server.access import needs
from patchbank.server.api.routing import Name, Time, Told, router
from patchbank.server.api.shown import Model
from patchbank.server.problems import Problem, responses
from patchbank.server.series import Point, points_of
from patchbank.server.service import service_of
from patchbank.store import models, statistics, streams

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.store.statistics import Score
    from patchbank.store.streams import Deployment, Stream

routes = router("drift")

_Stream = Annotated[Name, Query(description="Name of the stream.")]
_MOST_DEPLOYMENTS = 200


class DriftTest(Told):
    """A test of the stream's scores, as `Shift`. The times are those of the images, as near as they are remembered."""

    test: Literal["level", "flagged", "scene"]
    direction: str
    reference: str
    found: bool
    images: int
    share: float
    bound: float
    evidence: float
    limit: float
    detected: int | None
    start: int | None
    stop: int | None
    detected_at: Time | None
    start_at: Time | None
    stop_at: Time | None


class Findings(Told):
    """What was found on a stream since a version decides there. at: when it was counted last."""

    stream: str
    model: Model | None = Field(description="null: none is deployed.")
    at: Time | None
    images: int
    found: bool = Field(description="Good parts have changed. More flagged parts alone are no drift.")
    tests: list[DriftTest]
    advice: list[str]


class PointTold(Told):
    """Some parts in a row: the quantiles of their scores, and how many were NG, or out of scene."""

    at: Time
    until: Time
    n: int
    median: float
    low: float = Field(description="5 %.")
    high: float = Field(description="95 %.")
    ng: int
    out_of_scene: int


class Step(Told):
    """What decided from a time on."""

    at: Time
    model: Model | None
    threshold: float | None


class Shifted(Told):
    """A shift that was found. until: where it shows best; it may last."""

    test: Literal["level", "flagged", "scene"]
    direction: str
    model: Model
    since: Time | None
    until: Time | None
    detected: Time | None


class Series(Told):
    """A chart's data, the oldest first."""

    stream: str
    points: list[PointTold]
    deployments: list[Step]
    shifts: list[Shifted]


@routes.get("/drift", summary="Drift of a stream", response_model=Findings, responses=responses(404))
@needs("viewer", "read")
async def findings(request: Request, stream: _Stream) -> Findings:
    """Of the version that decides there now. It is counted a few seconds after the parts."""
    return await service_of(request).read(_findings, stream)


@routes.get("/drift/series", summary="Its scores, for a chart", response_model=Series, responses=responses(404))
@needs("viewer", "read")
async def series(
    request: Request,
    stream: _Stream,
    since: Annotated[datetime | None, Query(description="With a time zone.")] = None,
    until: Annotated[datetime | None, Query(description="With a time zone.")] = None,
    parts: Annotated[int, Query(ge=1, le=statistics.MOST_SCORES, description="The newest so many.")] = 5000,
    points: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 200,
) -> Series:
    """The newest scores, put together; what decided; where a shift was found."""
    for each in (since, until):
        if each is not None and each.tzinfo is None:
            raise Problem(422, "invalid-request", "since, until: expected times with a time zone")
    scores, steps, shifts = await service_of(request).read(_series, stream, since, until, parts)
    drawn: list[Point] = await run_in_threadpool(points_of, scores, points)
    told = [PointTold.model_validate(each) for each in drawn]
    return Series(stream=stream, points=told, deployments=steps, shifts=shifts)


def _findings(connection: Connection, name: str) -> Findings:
    stream = streams.by_name(connection, name)
    active = streams.current(connection, stream.id)
    version_id = active.model_version_id if active else None
    if version_id is None:
        return _none(stream, None)
    state, at = statistics.drift_at(connection, stream.id, version_id)
    model = _model(connection, version_id)
    if state is None:
        return _none(stream, model)
    return Findings(stream=stream.name, model=model, at=at, **state["findings"])


def _none(stream: Stream, model: Model | None) -> Findings:
    return Findings(stream=stream.name, model=model, at=None, images=0, found=False, tests=[], advice=[])


def _series(
    connection: Connection, name: str, since: datetime | None, until: datetime | None, parts: int
) -> tuple[list[Score], list[Step], list[Shifted]]:
    stream = streams.by_name(connection, name)
    scores = statistics.scores(connection, stream.id, since=since, until=until, limit=parts)
    history = streams.history(connection, stream.id, limit=_MOST_DEPLOYMENTS)
    active = [each for each in history if each.kind == "active"]
    begin, end = (scores[0].at, scores[-1].at) if scores else (None, None)
    within = _within(active, begin, end)
    steps = [_step(connection, each) for each in reversed(within)]
    versions = {each.model_version_id for each in [*within, *active[:1]] if each.model_version_id}
    shifts = [shift for each in sorted(versions) for shift in _shifts(connection, stream.id, each)]
    return scores, steps, shifts


def _within(active: list[Deployment], begin: datetime | None, end: datetime | None) -> list[Deployment]:
    """Those of a time, and the one that held when it began; the newest first, as they come."""
    if begin is None or end is None:
        return active[:1]
    found = [each for each in active if each.from_at <= end]
    before = [each for each in found if each.from_at <= begin]
    return [each for each in found if each.from_at > begin] + before[:1]


def _step(connection: Connection, deployment: Deployment) -> Step:
    version_id = deployment.model_version_id
    if version_id is None:
        return Step(at=deployment.from_at, model=None, threshold=None)
    threshold = models.version(connection, version_id).threshold
    return Step(at=deployment.from_at, model=_model(connection, version_id), threshold=threshold)


def _shifts(connection: Connection, stream_id: int, version_id: int) -> list[Shifted]:
    state, _ = statistics.drift_at(connection, stream_id, version_id)
    found: list[dict[str, Any]] = [each for each in (state["findings"]["tests"] if state else []) if each["found"]]
    model = _model(connection, version_id)
    return [
        Shifted(
            test=each["test"],
            direction=each["direction"],
            model=model,
            since=each["start_at"],
            until=each["stop_at"],
            detected=each["detected_at"],
        )
        for each in found
    ]


def _model(connection: Connection, version_id: int) -> Model:
    version = models.version(connection, version_id)
    return Model(name=models.by_id(connection, version.model_id).name, version=version.number)
