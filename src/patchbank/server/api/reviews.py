"""What people say of inspections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import Query
from pydantic import Field
from starlette.requests import Request

from patchbank.server.access import caller_of, needs
from patchbank.server.api.reading import Page
from patchbank.server.api.routing import Cursor, Given, Limit, Name, Text, router
from patchbank.server.api.shown import Label, Said, said_of, summaries_of
from patchbank.server.problems import responses
from patchbank.server.service import service_of
from patchbank.store import listing, reviews, streams
from patchbank.store.values import NAME

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = router("reviews")


class NewReview(Given):
    """What a person says."""

    label: Label
    kind: str = Field("", max_length=NAME, description="Kind of defect.")
    comment: Text = ""
    supersedes: int | None = Field(
        None, ge=1, le=2**63 - 1, description="Id of the review that the person has seen; null: none."
    )
    check: bool = Field(False, description="409, if the present review is not `supersedes` any more.")


@routes.post(
    "/inspections/{inspection_id}/reviews",
    summary="Review a part",
    status_code=201,
    response_model=Said,
    responses=responses(409),
)
@needs("operator")
async def add(request: Request, inspection_id: UUID, new: NewReview) -> Said:
    """Adds a review, which supersedes the one before; the part leaves the queue."""
    made = await service_of(request).write(
        reviews.add,
        inspection_id,
        new.label,
        by=caller_of(request).actor,
        kind=new.kind,
        comment=new.comment,
        supersedes=new.supersedes,
        check=new.check,
    )
    return said_of(made)


@routes.post(
    "/inspections/{inspection_id}/reviews:undo",
    summary="Take a review back",
    status_code=201,
    response_model=Said,
    responses=responses(409),
)
@needs("operator")
async def undo(request: Request, inspection_id: UUID) -> Said:
    """What was said before holds again; without anything before, the part is in the queue again."""
    return said_of(await service_of(request).write(reviews.undo, inspection_id, by=caller_of(request).actor))


@routes.get("/reviews/queue", summary="What waits for a review", response_model=Page, responses=responses(404))
@needs("viewer", "read")
async def queue(
    request: Request, stream: Annotated[Name | None, Query()] = None, cursor: Cursor = None, limit: Limit = 10
) -> Page:
    """The oldest first."""
    service = service_of(request)
    found = await service.read(_queue, stream, cursor, limit)
    return Page(items=await summaries_of(service, found.items), next=found.next)


def _queue(connection: Connection, stream: str | None, cursor: str | None, limit: int) -> listing.Page:
    stream_id = None if stream is None else streams.by_name(connection, stream).id
    return listing.queue(connection, stream_id=stream_id, after=cursor, limit=limit)
