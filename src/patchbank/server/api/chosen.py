"""Which inspections: the filters that lists, counts and exports have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Query
from starlette.requests import Request

from patchbank.server.api.routing import Name, Time
from patchbank.server.api.shown import Label, Verdict
from patchbank.server.problems import Problem
from patchbank.server.service import service_of
from patchbank.store import models, streams
from patchbank.store.listing import Filter

if TYPE_CHECKING:
    from sqlalchemy import Connection


async def _chosen(
    request: Request,
    stream: Annotated[Name | None, Query(description="Name of the stream.")] = None,
    model: Annotated[Name | None, Query(description="Name of the model; together with version.")] = None,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    verdict: Annotated[list[Verdict], Query(description="One or more.", max_length=4)] = [],  # noqa: B006  (FastAPI copies it)
    serial: Annotated[Name | None, Query(description="Its beginning; sorts by serial.")] = None,
    batch: Annotated[Name | None, Query()] = None,
    since: Annotated[Time | None, Query(description="From this time on; with a time zone.")] = None,
    until: Annotated[Time | None, Query(description="Before this time; with a time zone.")] = None,
    needs_review: Annotated[bool | None, Query()] = None,
    labelled: Annotated[bool | None, Query()] = None,
    label: Annotated[Label | None, Query()] = None,
    late: Annotated[bool | None, Query()] = None,
    in_scene: Annotated[bool | None, Query()] = None,
    sample: Annotated[bool | None, Query()] = None,
) -> Filter:
    if (model is None) != (version is None):
        raise Problem(422, "invalid-request", "expected model and version together; got one of them")
    stream_id, version_id = await service_of(request).read(_ids, stream, model, version)
    return Filter(
        stream_id=stream_id,
        model_version_id=version_id,
        verdicts=tuple(dict.fromkeys(verdict)),
        serial=serial or "",
        batch=batch or "",
        since=since,
        until=until,
        needs_review=needs_review,
        labelled=labelled,
        label=label or "",
        late=late,
        in_scene=in_scene,
        sample=sample,
    )


Chosen = Annotated[Filter, Depends(_chosen)]


def _ids(
    connection: Connection, stream: str | None, model: str | None, version: int | None
) -> tuple[int | None, int | None]:
    stream_id = None if stream is None else streams.by_name(connection, stream).id
    if model is None or version is None:
        return stream_id, None
    return stream_id, models.numbered(connection, models.by_name(connection, model).id, version).id
