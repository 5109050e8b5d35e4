"""What a version that only watches would have said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast
from uuid import UUID

from fastapi import Query
from pydantic import Field
from starlette.requests import Request

from patchbank.server.access import needs
from patchbank.server.api.routing import Id, Limit, Told, router
from patchbank.server.api.shown import Summary, Verdict, summaries_of
from patchbank.server.service import service_of
from patchbank.store import inspections, models, statistics
from patchbank.store.inspections import Inspection
from patchbank.store.statistics import ShadowResult, ShadowSummary

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = router("versions")


class Changes(Told):
    """How many parts would have got another verdict."""

    decided: Verdict
    watching: Verdict = Field(description="What the watching version says.")
    parts: int


class Changed(Told):
    """A part that would have got another verdict."""

    inspection: Summary
    verdict: Verdict = Field(description="What the watching version says.")
    score: float | None
    threshold: float | None
    p_value: float | None


class Watched(Told):
    """What a version has seen while it watched. parts: of the newest 20 000. next: `after` of what follows."""

    parts: int
    changes: list[Changes]
    items: list[Changed]
    next: UUID | None


@routes.get("/versions/{version_id}/shadow", summary="What it would have said", response_model=Watched)
@needs("viewer", "read")
async def watched(
    request: Request,
    version_id: Id,
    after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    limit: Limit = 50,
) -> Watched:
    """The parts that would have got another verdict, the newest first."""
    service = service_of(request)
    summary, found, rows = await service.read(_watched, version_id, after, limit)
    told = {each.id: each for each in await summaries_of(service, rows)}
    items = [
        Changed(
            inspection=told[each.inspection_id],
            verdict=cast(Verdict, each.verdict),
            score=each.score,
            threshold=each.threshold,
            p_value=each.p_value,
        )
        for each in found
        if each.inspection_id in told
    ]
    changes = [
        Changes(decided=cast(Verdict, before), watching=cast(Verdict, now), parts=number)
        for (before, now), number in sorted(summary.changes.items())
    ]  # fmt: skip
    following = found[-1].inspection_id if len(found) == limit else None
    return Watched(parts=summary.inspections, changes=changes, items=items, next=following)


def _watched(
    connection: Connection, version_id: int, after: UUID | None, limit: int
) -> tuple[ShadowSummary, list[ShadowResult], list[Inspection]]:
    models.version(connection, version_id)  # 404
    found = statistics.shadow_changes(connection, version_id, after=after, limit=limit)
    rows = inspections.get_many(connection, [each.inspection_id for each in found])
    return statistics.shadow_summary(connection, version_id), found, rows
