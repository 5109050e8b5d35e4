"""Models: all that there are, and the upload of a model file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from fastapi import Query
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import registry
from patchbank.server.api.bodies import any_form
from patchbank.server.api.shown import version_told
from patchbank.server.edge import SMALL_BODY, stream_body
from patchbank.server.problems import Problem
from patchbank.server.service import service_of
from patchbank.server.uploading import SECONDS, upload
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, like, pages
from patchbank.store import values
from patchbank.store.values import LINE

if TYPE_CHECKING:
    from patchbank.store.models import ModelVersion

routes = pages()
_CHUNK = 1 << 20


@routes.get("/models")
@like(registry.listed)
async def listed(request: Request, archived: Annotated[bool, Query()] = False) -> Response:
    """All models. archived: with those that nobody uses any more."""
    return await _show(request, archived)


@routes.post("/models")
@like(registry.add)
async def add(request: Request) -> Response:
    """Takes a model file, as the API does: its version is a candidate."""
    try:
        version, is_new = await _uploaded(request)
    except Refused as error:
        return await _show(request, problem=error)
    name = (await service_of(request).read(version_told, version)).model
    return back(path_of(name), "uploaded" if is_new else "known", version=str(version.number))


def path_of(model: str) -> str:
    """The page of a model."""
    return f"/models/{quote(model, safe='')}"


async def _uploaded(request: Request) -> tuple[ModelVersion, bool]:
    service, by = service_of(request), caller_of(request).actor
    stream_body(request, service.settings.max_model + SMALL_BODY, SECONDS)
    async with any_form(request, files=1, fields=2, field_size=4 * values.TEXT) as form:
        file, name, reason = form.get("file"), form.get("name"), form.get("reason")
        if not isinstance(file, UploadFile) or not file.filename:
            raise Problem(422, "no-model", "expected a model file; got none")
        model = values.name(name if isinstance(name, str) else "", "name")
        why = values.text(reason if isinstance(reason, str) else "", "reason", values.TEXT)
        return await upload(service, _chunks(file), model, by=by, reason=why)


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk


async def _show(request: Request, archived: bool = False, problem: Exception | None = None) -> Response:
    return await page(
        request,
        "models.html",
        problem=problem,
        models=await registry.listed(request, archived),
        archived=archived,
        may_upload=access_of(registry.add).admits(caller_of(request)),
        largest=service_of(request).settings.max_model,
        longest_name=values.NAME,
        longest_reason=LINE,
    )
