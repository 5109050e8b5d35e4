"""Images in, verdicts out: an inspection is answered when it is on the disk."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from fastapi import Header
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from patchbank.server.access import caller_of, needs
from patchbank.server.api import bodies
from patchbank.server.api.routing import PREFIX, router
from patchbank.server.api.shown import Detail, details_of
from patchbank.server.inspecting import Part, inspect
from patchbank.server.policy import output_of, policy_of
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of
from patchbank.store import streams
from patchbank.store.values import LINE, NAME

routes = router("inspections")

_FIELDS = ("serial", "batch", "stream")
_BODY = bodies.described(_FIELDS)


class Answer(Detail):
    """The inspection of an image. output: what the part's way depends on."""

    output: Literal["ok", "ng"] = Field(description="ok: let it pass. By the verdict and the deployment's policy.")


_REPLAYED: dict[int | str, dict[str, Any]] = {
    200: {"model": Answer, "description": "The request with this Idempotency-Key was carried out before."}
}
_Word = Annotated[str | None, Header(min_length=1, max_length=NAME)]


@routes.post(
    "/inspections",
    summary="Inspect an image",
    status_code=201,
    response_model=Answer,
    responses=responses(404, 409, 415) | _REPLAYED,
    openapi_extra=_BODY,
)
@needs("engineer", "inspect", large_body=True)
async def post(
    request: Request,
    x_stream: _Word = None,
    x_serial: _Word = None,
    x_batch: _Word = None,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=LINE)] = None,
) -> Response:
    """Inspects an image file, and keeps the inspection: when this is answered, it is on the disk. The same
    Idempotency-Key again, with the same image, is the same inspection. 503: nothing was kept; send it again."""
    service, caller = service_of(request), caller_of(request)
    if x_stream is not None or caller.stream_id is not None:  # known before the body: refuse early
        service.models.check_room(service.stations.for_images(x_stream, caller.stream_id)[1])
    image, form = await _image(request)
    station, hosted = service.stations.for_images(x_stream or form.get("stream"), caller.stream_id)
    service.models.check_room(hosted)
    part = Part(image, caller.key, x_serial or form.get("serial"), x_batch or form.get("batch"), idempotency_key)
    inspection, is_new = await inspect(service, station, hosted, part)
    (detail,) = await details_of(service, [inspection])
    deployment = station.deployment
    if not is_new:  # as it was answered then
        about = (inspection.stream_id, inspection.model_version_id, inspection.at)
        deployment = await service.read(streams.that_decided, *about)
    output = output_of(inspection.verdict, inspection.threshold, policy_of(deployment))
    answer = Answer(**detail.model_dump(), output=output)
    location = f"{PREFIX}/inspections/{inspection.id}"
    return JSONResponse(answer.model_dump(mode="json"), 201 if is_new else 200, {"Location": location})


async def _image(request: Request) -> tuple[bytes, dict[str, str]]:
    """The image file of the body, and what a form says beside it. Raises Problem."""
    if not bodies.is_form(request):
        return await bodies.raw_image(request), {}
    async with bodies.form_of(request, _FIELDS) as form:
        words = bodies.words_of(form, _FIELDS)
        data = await cast(UploadFile, form["image"]).read()
        if not data:
            raise Problem(422, "no-image", "expected an image file; got 0 bytes")
        return data, words
