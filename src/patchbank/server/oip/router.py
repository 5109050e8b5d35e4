"""The endpoints of the Open Inference Protocol, below /v2."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from patchbank.server.access import EVERYBODY, GuardedRoute, needs
from patchbank.server.oip import request as requests
from patchbank.server.oip import response as answers
from patchbank.server.problems import Problem, busy, render_as
from patchbank.server.service import service_of
from patchbank.version import __version__

_ERROR = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/OipError"}}}}
SCHEMA: dict[str, Any] = {
    "title": "OipError",
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}


def responses(**about: str) -> dict[int | str, dict[str, Any]]:
    """Statuses (s400="...") as OpenAPI documents them here."""
    return {int(name[1:]): {"description": text, **_ERROR} for name, text in about.items()}


_CALLER = {"s401": "A token is needed.", "s403": "The caller may not do this."}
_MODEL = responses(s404="There is no such model or version.", **_CALLER)
_READY = _MODEL | responses(s503="Not ready.")
_INFER = _MODEL | responses(
    s400="The request cannot be taken; the text says why.",
    s408="The body did not arrive in time.",
    s413="The body is too large, as it is or after inflating.",
    s415="The body has another compression than gzip or deflate.",
    s422="An image cannot be read.",
    s503="The model is busy; try again after Retry-After seconds.",
)

router = APIRouter(prefix="/v2", route_class=GuardedRoute, tags=["Open Inference Protocol"])


def install(app: FastAPI) -> None:
    """Adds the protocol to the application."""
    app.include_router(router)
    render_as(app, "/v2", _said)


def _said(problem: Problem) -> Response:
    """Errors as the protocol says them."""
    return JSONResponse({"error": problem.to_dict()["detail"]}, problem.status, problem.headers)


@router.get("", summary="The server", responses=responses(**_CALLER))
@needs("viewer", "inspect", "read")
async def server() -> dict[str, Any]:
    """The server's name, its version and the protocol's extensions."""
    return {"name": "patchbank", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", summary="Is the server alive?")
@needs(access=EVERYBODY)
async def live() -> dict[str, bool]:
    """200 as long as the server answers."""
    return {"live": True}


@router.get("/health/ready", summary="Is the server ready?", responses=responses(s503="Not ready."))
@needs(access=EVERYBODY)
async def ready(request: Request) -> dict[str, bool]:
    """200 if the server takes work."""
    if not service_of(request).ready:
        raise busy("not ready", kind="not-ready")
    return {"ready": True, "live": True}


@router.post("/repository/index", summary="The models", responses=responses(**_CALLER))
@needs("viewer", "inspect", "read")
async def index(request: Request) -> list[dict[str, str]]:
    """All models that can be asked."""
    return [
        {"name": each.name, "version": str(each.number), "state": "READY", "reason": ""}
        for each in service_of(request).stations.models()
    ]


@router.get("/models/{name}", summary="A model", responses=_MODEL)
@needs("viewer", "inspect", "read")
async def model(request: Request, name: str) -> dict[str, Any]:
    """The model's inputs and outputs."""
    return _metadata(request, name)


@router.get("/models/{name}/versions/{version}", summary="A model, by its version", responses=_MODEL)
@needs("viewer", "inspect", "read")
async def model_version(request: Request, name: str, version: str) -> dict[str, Any]:
    """The model's inputs and outputs."""
    return _metadata(request, name, version)


@router.get("/models/{name}/ready", summary="Is the model ready?", responses=_READY)
@needs("viewer", "inspect", "read")
async def model_ready(request: Request, name: str) -> dict[str, Any]:
    """200 if the model takes images."""
    return _readiness(request, name)


@router.get("/models/{name}/versions/{version}/ready", summary="Is that version ready?", responses=_READY)
@needs("viewer", "inspect", "read")
async def version_ready(request: Request, name: str, version: str) -> dict[str, Any]:
    """200 if the model takes images."""
    return _readiness(request, name, version)


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["inputs"]}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post("/models/{name}/infer", summary="Inspect images", responses=_INFER, openapi_extra=_BODY)
@needs("engineer", "inspect", large_body=True)
async def infer(request: Request, name: str) -> Response:
    """Inspects one image or a batch. Nothing is stored: `POST /api/v1/inspections` does that."""
    return await _infer(request, name)


@router.post("/models/{name}/versions/{version}/infer", summary="Inspect images", responses=_INFER, openapi_extra=_BODY)
@needs("engineer", "inspect", large_body=True)
async def infer_version(request: Request, name: str, version: str) -> Response:
    """As `infer`, if that version is in use."""
    return await _infer(request, name, version)


async def _infer(request: Request, name: str, version: str | None = None) -> Response:
    service = service_of(request)
    hosted = service.stations.model(name, version)
    service.models.check_room(hosted)
    body, limit = await request.body(), service.settings.max_body
    headers = request.headers

    def read() -> requests.InferRequest:
        plain = requests.inflate(body, headers.get("content-encoding", "").strip().lower(), limit)
        channels = hosted.model.config.channels or 3
        asked = requests.parse(plain, headers.get("inference-header-content-length"), channels)
        answers.wanted_of(hosted, asked)
        return asked

    try:
        asked = await run_in_threadpool(read)  # a large JSON takes a second
        results = await service.models.inspect_all(hosted, asked.images, asked.timeout)
        accepted = headers.get("accept-encoding", "")
        found = await run_in_threadpool(answers.answer, hosted, asked, results, accepted, version)
    except requests.Unreadable as error:
        raise Problem(error.status, "unreadable", str(error)) from error
    return _response(found)


def _response(found: answers.Answer) -> Response:
    response = Response(found.body, media_type="application/json")
    if found.json_length is not None:
        response.headers["Content-Type"] = "application/octet-stream"
        response.headers["Inference-Header-Content-Length"] = str(found.json_length)
    if found.encoding:
        response.headers["Content-Encoding"] = found.encoding
    response.headers["Vary"] = "Accept-Encoding"
    return response


def _metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    stations = service_of(request).stations
    hosted = stations.model(name, version)
    versions = [str(each.number) for each in stations.models() if each.name == name]
    channels = hosted.model.config.channels or 3
    outputs = answers.outputs_of(hosted).values()
    return {
        "name": hosted.name,
        "versions": versions,
        "platform": "patchbank",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, channels]},
            {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in outputs],
    }


def _readiness(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    service = service_of(request)
    hosted = service.stations.model(name, version)
    if not service.ready:
        raise busy(json.dumps({"ready": False}), kind="not-ready")
    return {"name": hosted.name, "ready": True, "live": True}
