"""Datasets: images of good parts that are put together to fit a model, and known defects to test it with."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, cast

from fastapi import Path, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from patchbank import ImageError
from patchbank.config import ImageFormat
from patchbank.server import pictures
from patchbank.server.access import caller_of, needs
from patchbank.server.api import bodies
from patchbank.server.api.routing import Given, Id, Limit, Name, Reason, Time, Told, router
from patchbank.server.images import format_of, media_type_of
from patchbank.server.problems import Problem, responses
from patchbank.server.service import Service, service_of
from patchbank.store import datasets
from patchbank.store.datasets import Dataset, DatasetImage, NewImage
from patchbank.store.values import LINE
from patchbank.util.wording import printable

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = router("datasets")

MOST_FILES = 100  # in one form
Role = Literal["train", "good", "defect"]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_ROLE = Query(description="train: it is learned. good, defect: models are tested with it.")


class NewDataset(Given):
    """A dataset that is to be made."""

    name: Name


class Chosen(Given):
    """Images of a dataset, by their digests."""

    sha256: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(min_length=1, max_length=1000)
    left_out: bool = Field(True, description="false: they are learned again.")


class DatasetTold(Told):
    """A dataset. images: how many it has, left-out ones included. frozen_at: since then it does not change, because a
    model was made from it."""

    id: int
    name: str
    created_at: Time
    created_by: str
    frozen_at: Time | None
    sha256: str | None
    images: int


class ImageTold(Told):
    """An image of a dataset. left_out: a person left it out; it is not learned."""

    sha256: str
    name: str
    role: Role
    size: int = Field(description="Bytes.")
    left_out: bool
    added_at: Time


class Images(Told):
    """A part of a dataset, in the order of the digests. next: `after` of what follows; null: that is all."""

    items: list[ImageTold]
    next: str | None


class Added(Told):
    """An image that was sent. is_new: false = the dataset has the same image already."""

    sha256: str
    name: str
    is_new: bool


class Changed(Told):
    """How many images were changed."""

    images: int


@routes.get("/datasets", summary="All datasets", response_model=list[DatasetTold])
@needs("viewer", "read")
async def listed(
    request: Request, before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None, limit: Limit = 100
) -> list[Dataset]:
    """The newest first."""
    return await service_of(request).read(datasets.listed, before=before, limit=limit)


@routes.post(
    "/datasets", summary="Make a dataset", status_code=201, response_model=DatasetTold, responses=responses(409)
)
@needs("engineer")
async def add(request: Request, new: NewDataset) -> Dataset:
    """An empty one."""
    return await service_of(request).write(datasets.add, new.name, by=caller_of(request).actor)


@routes.get("/datasets/{dataset_id}", summary="A dataset", response_model=DatasetTold)
@needs("viewer", "read")
async def get(request: Request, dataset_id: Id) -> Dataset:
    """Its name, its size, and whether it may still change."""
    return await service_of(request).read(datasets.by_id, dataset_id)


@routes.delete("/datasets/{dataset_id}", summary="Remove a dataset", status_code=204, responses=responses(409))
@needs("engineer")
async def remove(request: Request, dataset_id: Id, reason: Annotated[Reason, Query()]) -> Response:
    """409 if a model was made from it."""
    await service_of(request).write(datasets.remove, dataset_id, by=caller_of(request).actor, reason=reason)
    return Response(status_code=204)


@routes.get("/datasets/{dataset_id}/images", summary="Images of a dataset", response_model=Images)
@needs("viewer", "read")
async def images(
    request: Request,
    dataset_id: Id,
    after: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None,
    limit: Limit = 100,
) -> Images:
    """Those that were left out, too."""
    return await service_of(request).read(_images, dataset_id, after, limit)


@routes.post(
    "/datasets/{dataset_id}/images",
    summary="Add images",
    status_code=201,
    response_model=list[Added],
    responses=responses(409, 415),
    openapi_extra=bodies.described(("role",), many=True),
)
@needs("engineer", large_body=True)
async def upload(
    request: Request,
    dataset_id: Id,
    name: Annotated[str, Query(max_length=LINE, description="Of the file, if it is the body.")] = "",
    role: Annotated[Role, _ROLE] = "train",
) -> list[Added]:
    """One image file as the body, or up to 100 files called `image` in a form. Each is decoded; if one cannot be, none
    is added."""
    service = service_of(request)
    if (await service.read(datasets.by_id, dataset_id)).frozen_at is not None:
        raise Problem(409, "conflict", "The dataset is frozen: a model was made from it; make another one")
    found, role = await _files(request, name, role)
    for each in found:
        await _check(service, *each)
    new = [await run_in_threadpool(_kept, service, *each, role) for each in found]
    is_new = await service.write(datasets.add_images, dataset_id, new)
    return [Added(sha256=each.sha256, name=each.name, is_new=was) for each, was in zip(new, is_new, strict=True)]


@routes.post(
    "/datasets/{dataset_id}/images:leave-out",
    summary="Leave images out",
    response_model=Changed,
    responses=responses(409),
)
@needs("engineer")
async def leave_out(request: Request, dataset_id: Id, chosen: Chosen) -> Changed:
    """They stay in the dataset, and are not learned; or they are again."""
    changed = await service_of(request).write(datasets.leave_out, dataset_id, chosen.sha256, chosen.left_out)
    return Changed(images=changed)


@routes.delete(
    "/datasets/{dataset_id}/images/{sha256}", summary="Take an image out", status_code=204, responses=responses(409)
)
@needs("engineer")
async def drop(request: Request, dataset_id: Id, sha256: Digest) -> Response:
    """Its file is removed if nothing else needs it."""
    await service_of(request).write(_drop, dataset_id, sha256)
    return Response(status_code=204)


@routes.get(
    "/datasets/{dataset_id}/images/{sha256}/image",
    summary="The image as it was sent",
    response_class=Response,
    responses={200: {"content": {"image/*": {}, "application/octet-stream": {}}, "description": "The file."}},
)
@needs("viewer", "read")
async def image(
    request: Request,
    dataset_id: Id,
    sha256: Digest,
    shown: Annotated[bool, Query(description="As a PNG that browsers show, whatever was sent.")] = False,
) -> Response:
    """The bytes of the file."""
    service = service_of(request)
    await service.read(datasets.image, dataset_id, sha256)
    data = await run_in_threadpool(service.store.blobs.get, sha256)
    media_type = media_type_of(format_of(data))
    if shown and format_of(data) not in pictures.SHOWN_BY_BROWSERS:
        data, media_type = await run_in_threadpool(pictures.shown_png, data, None), "image/png"
    return Response(data, media_type=media_type)


@routes.get(
    "/datasets/{dataset_id}/images/{sha256}/thumb",
    summary="A small picture of the image",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}},
)
@needs("viewer", "read")
async def thumb(request: Request, dataset_id: Id, sha256: Digest) -> Response:
    """At most 256 pixels wide and high."""
    service = service_of(request)
    await service.read(datasets.image, dataset_id, sha256)
    data = await run_in_threadpool(pictures.thumb, service.store, sha256, None)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=31536000, immutable"})


async def _files(request: Request, name: str, role: Role) -> tuple[list[tuple[str, bytes]], Role]:
    """The files that were sent, each with its name, and what they are for. Raises Problem."""
    if not bodies.is_form(request):
        return [(name or "image", await bodies.raw_image(request))], role
    async with bodies.form_of(request, ("role",), most_files=MOST_FILES) as form:
        said = bodies.words_of(form, ("role",)).get("role", role)
        if said not in datasets.IMAGE_ROLES:
            raise Problem(422, "invalid-request", f"role: expected one of {', '.join(datasets.IMAGE_ROLES)}")
        files = [each for each in form.getlist("image") if isinstance(each, UploadFile)]
        return [(each.filename or "image", await each.read()) for each in files], cast(Role, said)


async def _check(service: Service, name: str, data: bytes) -> None:
    """Raises Problem for what is no image that can be learned."""
    async with service.decoding:
        try:
            await asyncio.to_thread(_decode, data)
        except ImageError as error:
            raise Problem(422, "unusable-image", f"{printable(name)[:LINE]}: {error}") from error


def _decode(data: bytes) -> None:
    from patchbank.imaging.images import read_image

    read_image(data, ImageFormat())


def _kept(service: Service, name: str, data: bytes, role: Role) -> NewImage:
    return NewImage(service.store.blobs.put(data), plain_name(name), role, len(data))


def plain_name(name: str) -> str:
    """A file's name without its folders, as it may be shown and kept."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(char if char.isprintable() else "_" for char in last)[-LINE:] or "image"


def _images(connection: Connection, dataset_id: int, after: str | None, limit: int) -> Images:
    datasets.by_id(connection, dataset_id)
    found: list[DatasetImage] = datasets.images(connection, dataset_id, after=after, limit=limit)
    items = [ImageTold.model_validate(each) for each in found]
    return Images(items=items, next=found[-1].sha256 if len(found) == limit else None)


def _drop(connection: Connection, dataset_id: int, digest: str) -> None:
    datasets.image(connection, dataset_id, digest)
    datasets.drop_images(connection, dataset_id, [digest])
