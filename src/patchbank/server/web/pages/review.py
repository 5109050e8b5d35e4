"""The queue: one part at a time, three keys, and the last one can be taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import reading, reviews
from patchbank.server.api.routing import Cursor, Name
from patchbank.server.service import service_of
from patchbank.server.web.pages.inspection import review_of
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, by_script, form, like, pages
from patchbank.store import streams

routes = pages()


@routes.get("/review")
@like(reviews.queue)
async def queue(
    request: Request,
    stream: Annotated[Name | None, Query()] = None,
    cursor: Cursor = None,
    part: Annotated[UUID | None, Query()] = None,
    last: Annotated[UUID | None, Query()] = None,
) -> Response:
    """The first part of the queue. cursor: behind this one. part: that one first. last: what was labelled before."""
    return await _show(request, Place(stream, cursor), part, last)


@routes.post("/review/{inspection_id}")
@like(reviews.add)
async def add(request: Request, inspection_id: UUID) -> Response:
    """Labels a part, and shows the next one."""
    fields = await form(request)
    place = Place.of(fields)
    try:
        await reviews.add(request, inspection_id, review_of(fields))
    except Refused as error:
        return await _show(request, place, problem=error)
    if by_script(request):
        return await _show(request, place, last=inspection_id, kind=fields.get("kind", ""))
    return back("/review", **place.query, last=str(inspection_id))


@routes.post("/review/{inspection_id}/undo")
@like(reviews.undo)
async def undo(request: Request, inspection_id: UUID) -> Response:
    """Takes back the label of the last part, which is shown again."""
    place = Place.of(await form(request))
    try:
        await reviews.undo(request, inspection_id)
    except Refused as error:
        return await _show(request, place, problem=error)
    if by_script(request):
        return await _show(request, place, inspection_id)
    return back("/review", **place.query, part=str(inspection_id))


@dataclass(frozen=True)
class Place:
    """Where in the queue a person is. stream: only of this one. cursor: behind what was left for later."""

    stream: str | None = None
    cursor: str | None = None

    @classmethod
    def of(cls, fields: dict[str, str]) -> Place:
        """As a form says it."""
        return cls(fields.get("stream") or None, fields.get("cursor") or None)

    @property
    def query(self) -> dict[str, str]:
        """Returns the fields of an address."""
        return {"stream": self.stream or "", "cursor": self.cursor or ""}


async def _show(
    request: Request,
    place: Place,
    part: UUID | None = None,
    last: UUID | None = None,
    *,
    kind: str = "",
    problem: Exception | None = None,
) -> Response:
    """A part that waits, or that none does; with htmx, without what stays around it. kind: the last one's."""
    service = service_of(request)
    first = await reviews.queue(request, place.stream, place.cursor, 1)
    after = await reviews.queue(request, place.stream, first.next, 1) if first.next else None
    each = await _waiting(request, part) or (await reading.get(request, first.items[0].id) if first.items else None)
    return await page(
        request,
        "review_part.html" if by_script(request) else "review.html",
        problem=problem,
        each=each,
        following=after.items[0] if after and after.items else None,
        last=await reading.get(request, last) if last else None,
        place=place,
        skip=first.next,
        kind=kind,
        hide=service.preference("review.hide_scores"),
        may_label=access_of(reviews.add).admits(caller_of(request)),
        stream_options=[(each.name, each.name) for each in await service.read(streams.listed)],
    )


async def _waiting(request: Request, part: UUID | None) -> reading.Whole | None:
    """The part, if it waits."""
    found = await reading.get(request, part) if part else None
    return found if found and found.needs_review else None
