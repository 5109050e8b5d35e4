"""Inspections, read: lists, one of them, its image and its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from patchbank.server import exporting, pictures
from patchbank.server.access import needs
from patchbank.server.api.chosen import Chosen
from patchbank.server.api.routing import Cursor, Limit, Told, router
from patchbank.server.api.shown import Detail, Said, Summary, details_of, said_of, summaries_of
from patchbank.server.images import media_type_of
from patchbank.server.problems import Problem, responses
from patchbank.server.service import Service, service_of
from patchbank.store import inspections, listing, reviews
from patchbank.store.inspections import Inspection

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.config import ImageFormat

routes = router("inspections")

_KEPT = "private, max-age=31536000, immutable"  # what is named by its content never changes
_CURSOR = Query(description="`next` of the page before.")


class Page(Told):
    """A part of a list. items: maybe fewer than asked for. next: cursor of what follows; null: that is all."""

    items: list[Summary]
    next: str | None


class Count(Told):
    """How many. more: there are more than that, or may be."""

    number: int
    more: bool


class Whole(Detail):
    """An inspection with what people said of it, the newest first, and its neighbours in the stream."""

    reviews: list[Said]
    previous: UUID | None
    following: UUID | None


@routes.get("/inspections", summary="Inspections", response_model=Page, responses=responses(404))
@needs("viewer", "read")
async def listed(
    request: Request,
    chosen: Chosen,
    cursor: Cursor = None,
    limit: Limit = 50,
    order: Annotated[Literal["newest", "oldest"], Query()] = "newest",
) -> Page:
    """The newest first, or the oldest. Deep pages cost what the first one costs: follow `next`."""
    service = service_of(request)
    found = await service.read(listing.page, chosen, cursor=cursor, limit=limit, oldest_first=order == "oldest")
    return Page(items=await summaries_of(service, found.items), next=found.next)


@routes.get("/inspections/count", summary="How many", response_model=Count, responses=responses(404))
@needs("viewer", "read")
async def count(request: Request, chosen: Chosen) -> listing.Count:
    """At most 999 are counted."""
    return await service_of(request).read(listing.count, chosen)


@routes.get(
    "/inspections/export",
    summary="Inspections as a file",
    response_class=StreamingResponse,
    responses={
        **responses(404),
        200: {"content": {media_type: {} for media_type in exporting.MEDIA_TYPES.values()}, "description": "The file."},
    },
)
@needs("viewer", "read")
async def export(
    request: Request, chosen: Chosen, format: Annotated[Literal["csv", "parquet"], Query()] = "csv"
) -> Response:
    """All that the filter chooses, the oldest first. Parquet needs the extra `parquet` of the service."""
    service = service_of(request)
    exporting.check(format)
    headers = {"Content-Disposition": f'attachment; filename="inspections.{format}"'}
    content = await exporting.content(service, chosen, format)
    return StreamingResponse(content, media_type=exporting.MEDIA_TYPES[format], headers=headers)


@routes.get("/inspections/{inspection_id}", summary="An inspection", response_model=Whole)
@needs("viewer", "read")
async def get(request: Request, inspection_id: UUID) -> Whole:
    """All that is known of it."""
    service = service_of(request)
    row, said, (previous, following) = await service.read(_whole, inspection_id)
    (detail,) = await details_of(service, [row])
    told = [said_of(each) for each in said]
    return Whole(**detail.model_dump(), reviews=told, previous=previous, following=following)


@routes.get(
    "/inspections/{inspection_id}/image",
    summary="The image as it was sent",
    response_class=Response,
    responses={
        **responses(410),
        200: {"content": {"image/*": {}, "application/octet-stream": {}}, "description": "The file."},
    },
)
@needs("viewer", "read")
async def image(
    request: Request,
    inspection_id: UUID,
    shown: Annotated[bool, Query(description="As a PNG that browsers show, whatever was sent.")] = False,
) -> Response:
    """The bytes of the file, unless retention has removed it (410)."""
    service, (row, digest) = service_of(request), await row_with_image(request, inspection_id)
    if same := not_modified(request, f"{digest}-{shown:d}"):
        return same
    data = await run_in_threadpool(service.store.blobs.get, digest)
    media_type = media_type_of(row.image_format)
    if shown and row.image_format not in pictures.SHOWN_BY_BROWSERS:
        data, media_type = await run_in_threadpool(pictures.shown_png, data, format_of(service, row)), "image/png"
    name = f"{inspection_id}.{'png' if media_type == 'image/png' else row.image_format or 'bin'}"
    headers = {"Content-Disposition": f'inline; filename="{name}"', **cached(f"{digest}-{shown:d}")}
    return Response(data, media_type=media_type, headers=headers)


@routes.get(
    "/inspections/{inspection_id}/thumb",
    summary="A small picture of the image",
    response_class=Response,
    responses={**responses(410), 200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}},
)
@needs("viewer", "read")
async def thumb(request: Request, inspection_id: UUID) -> Response:
    """At most 256 pixels wide and high."""
    service, (row, digest) = service_of(request), await row_with_image(request, inspection_id)
    if same := not_modified(request, f"{digest}-t"):
        return same
    data = await run_in_threadpool(pictures.thumb, service.store, digest, format_of(service, row))
    return Response(data, media_type="image/jpeg", headers=cached(f"{digest}-t"))


def _whole(
    connection: Connection, inspection_id: UUID
) -> tuple[Inspection, list[reviews.Review], tuple[UUID | None, UUID | None]]:
    row = inspections.get(connection, inspection_id)
    return row, reviews.of(connection, inspection_id), listing.neighbours(connection, row)


async def row_with_image(request: Request, inspection_id: UUID) -> tuple[Inspection, str]:
    """The inspection, and the digest of its image. Raises Problem if it has none, or none any more."""
    row = await service_of(request).read(inspections.get, inspection_id)
    if row.image_sha256 is None:
        raise Problem(404, "no-image", "The inspection was delivered without an image")
    if row.image_gone_at is not None:
        raise Problem(410, "image-gone", f"Retention removed the image at {row.image_gone_at.isoformat()}")
    return row, row.image_sha256


def format_of(service: Service, row: Inspection) -> ImageFormat | None:
    """What the numbers of the image's file mean; as for the model that has inspected it, if that is in memory."""
    hosted = service.models.get(row.model_version_id) if row.model_version_id is not None else None
    return hosted.model.config.image_format if hosted else None


def cached(tag: str) -> dict[str, str]:
    """The headers of what never changes."""
    return {"ETag": f'"{tag}"', "Cache-Control": _KEPT}


def not_modified(request: Request, tag: str) -> Response | None:
    """304, if the caller has it already."""
    return (
        Response(status_code=304, headers=cached(tag)) if request.headers.get("if-none-match") == f'"{tag}"' else None
    )
