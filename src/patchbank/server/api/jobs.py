"""Jobs: how far they are, and their end before time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from starlette.requests import Request

from patchbank.server.access import caller_of, needs
from patchbank.server.api.routing import Given, Id, Limit, Name, Text, Time, Told, router
from patchbank.server.jobs import kinds
from patchbank.server.problems import responses
from patchbank.server.service import service_of
from patchbank.store import jobs, models
from patchbank.store.jobs import Job

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.store.values import Actor

routes = router("jobs")


class JobTold(Told):
    """A job. total: 0 = not known. eta: seconds to the end of the stage; null = not known. cancel_at: somebody asked
    for its end. result: what its kind says; docs/reference/http-api.md has it."""

    id: int
    kind: str
    model: str | None
    args: Any
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    done: int
    total: int
    eta: float | None
    attempts: int
    most_attempts: int
    cancel_at: Time | None
    result: Any
    error: str | None
    by: str
    reason: str
    created_at: Time
    started_at: Time | None
    ended_at: Time | None


class JobWhole(JobTold):
    """A job with its log, whose beginning is cut off if it is long."""

    log: str


class Jobs(Told):
    """A part of the list. next: `before` of what follows; null: that is all."""

    items: list[JobTold]
    next: int | None


class Cancelled(Given):
    """Why a job is to end."""

    reason: Text = Field("", description="May be empty.")


@routes.get("/jobs", summary="Jobs", response_model=Jobs)
@needs("viewer", "read")
async def listed(
    request: Request,
    model: Annotated[Name | None, Query(description="About this model.")] = None,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    limit: Limit = 50,
) -> Jobs:
    """The newest first."""
    return await service_of(request).read(_page, model, before, limit)


@routes.get("/jobs/{job_id}", summary="A job", response_model=JobWhole)
@needs("viewer", "read")
async def get(request: Request, job_id: Id) -> JobWhole:
    """With its log."""
    return await service_of(request).read(_whole, job_id)


@routes.post("/jobs/{job_id}:cancel", summary="End a job", response_model=JobTold, responses=responses(409))
@needs("engineer")
async def cancel(request: Request, job_id: Id, given: Cancelled) -> JobTold:
    """A queued job ends now, a running one within seconds. 409 if it has ended."""
    return await service_of(request).write(_cancel, job_id, given.reason, caller_of(request).actor)


def told(connection: Connection, job: Job) -> JobTold:
    """A job, told."""
    return JobTold(**_row(connection, job))


def _row(connection: Connection, job: Job) -> dict[str, Any]:
    row = {name: getattr(job, name) for name in JobWhole.model_fields if name != "model"}
    name = None if job.model_id is None else models.by_id(connection, job.model_id).name
    return row | {"model": name}


def _page(connection: Connection, model: str | None, before: int | None, limit: int) -> Jobs:
    model_id = None if model is None else models.by_name(connection, model).id
    found = jobs.listed(connection, model_id=model_id, before=before, limit=limit)
    items = [told(connection, each) for each in found]
    return Jobs(items=items, next=items[-1].id if len(items) == limit else None)


def _whole(connection: Connection, job_id: int) -> JobWhole:
    return JobWhole(**_row(connection, jobs.get(connection, job_id)))


def _cancel(connection: Connection, job_id: int, reason: str, by: Actor) -> JobTold:
    job = jobs.cancel(connection, job_id, by=by, reason=reason)
    kinds.ended(connection, job)
    return told(connection, job)
