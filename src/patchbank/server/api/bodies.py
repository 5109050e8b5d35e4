"""Images in the bodies of requests: as they are, or as files of a form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from patchbank.server.problems import Problem
from patchbank.store.values import LINE, NAME

_BINARY = {"type": "string", "format": "binary"}


def described(fields: Collection[str], *, many: bool = False) -> dict[str, Any]:
    """What OpenAPI says of such a body. fields: texts beside the file `image`. many: a form may have several files."""
    image = {"type": "array", "items": _BINARY} if many else _BINARY
    properties = {"image": image, **{name: {"type": "string", "maxLength": NAME} for name in fields}}
    form = {"schema": {"type": "object", "required": ["image"], "properties": properties}}
    content = {
        "application/octet-stream": {"schema": _BINARY},
        "image/*": {"schema": _BINARY},
        "multipart/form-data": form,
    }
    return {"requestBody": {"required": True, "content": content}}


def media_type(request: Request) -> str:
    """The type of the body; what says none is a file. Raises Problem for an encoded body: none is inflated here."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "encoding", "expected a body without content encoding: images are compressed already")
    return request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()


def is_form(request: Request) -> bool:
    """Says whether the body is a form, and not an image as it is. Raises Problem for anything else."""
    kind = media_type(request)
    if kind == "multipart/form-data":
        return True
    if kind != "application/octet-stream" and not kind.startswith("image/"):
        raise Problem(
            415, "media-type", f"expected image/..., application/octet-stream or multipart/form-data; got {kind!r}"
        )
    return False


async def raw_image(request: Request) -> bytes:
    """The body, which is an image file. Raises Problem for an empty one."""
    data = await request.body()
    if not data:
        raise Problem(422, "no-image", "expected an image file as the body; got 0 bytes")
    return data


@asynccontextmanager
async def form_of(request: Request, fields: Collection[str], *, most_files: int = 1) -> AsyncIterator[FormData]:
    """The form, while the block runs: one file or more called `image`, and texts of these names. Raises Problem for a
    form that cannot be read, has no file, or has other fields."""
    async with any_form(request, files=most_files, fields=len(fields), field_size=4 * LINE) as form:
        if not isinstance(form.get("image"), UploadFile):
            raise Problem(422, "no-image", "expected a form with the file 'image'; got none")
        if unknown := set(form) - {"image", *fields}:
            expected = ", ".join(["image", *fields])
            raise Problem(422, "unknown-field", f"expected the fields {expected}; got {min(unknown)!r}")
        yield form


@asynccontextmanager
async def any_form(request: Request, *, files: int, fields: int, field_size: int) -> AsyncIterator[FormData]:
    """The form, while the block runs: at most so many files and texts, the texts of at most `field_size` bytes. Raises
    Problem for one that cannot be read."""
    try:
        form = await request.form(max_files=files, max_fields=fields, max_part_size=field_size)
    except HTTPException as error:
        if isinstance(error.__cause__, Problem):
            raise
        raise Problem(400, "bad-form", f"The form cannot be read: {error.detail}") from error
    try:
        yield form
    finally:
        await form.close()


def words_of(form: FormData, fields: Collection[str]) -> dict[str, str]:
    """The texts of a form, without empty ones. Raises Problem for one that is too long."""
    words = {name: value for name in fields if isinstance(value := form.get(name), str) and value}
    for name, value in words.items():
        if len(value) > NAME:
            raise Problem(422, "invalid-request", f"{name}: expected at most {NAME} characters")
    return words
