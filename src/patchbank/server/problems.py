"""Errors as answers: every one is a problem (RFC 9457, application/problem+json) that says what was expected, what was
got and what to do. A part of the service that speaks another language (the Open Inference Protocol, web pages)
registers how it says them.
"""

from __future__ import annotations

import http
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from patchbank import ImageError
from patchbank.errors import (
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
    StoreUnavailableError,
    StoreValueError,
)
from patchbank.server.context import request_id
from patchbank.util.wording import printable

MEDIA_TYPE = "application/problem+json"
_LONGEST = 2000  # characters of a detail: what was sent may be quoted in it

Renderer = Callable[["Problem"], Response]


class Problem(Exception):  # noqa: N818  (the RFC's word for it)
    """An error that is an answer. kind: a word for programs, which names the problem. detail: a sentence for people.
    extra: further members of the answer. headers: of the answer."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.extra, self.headers = dict(extra or {}), dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        """The members of the answer."""
        return {
            "type": f"urn:patchbank:problem:{self.kind}",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": printable(self.detail)[:_LONGEST],
            "request_id": request_id(),
            **self.extra,
        }


def busy(detail: str, retry_after: int = 1, kind: str = "busy") -> Problem:
    """503 with Retry-After: the one server error that is part of the service."""
    return Problem(503, kind, detail, headers={"Retry-After": str(retry_after)})


def as_problem(error: Exception) -> Problem:
    """What to answer for an exception. Anything unforeseen is a 500 that says nothing of its insides."""
    if isinstance(error, Problem):
        return error
    if isinstance(error.__cause__, Problem):  # raised while FastAPI read a body, which makes a 400 of everything
        return error.__cause__
    if isinstance(error, RequestValidationError):
        return invalid(error.errors())
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, StoreError):
        return _of_store(error)
    if isinstance(error, ImageError):
        return Problem(422, "unusable-image", f"The image {error}")
    return _internal()


def install(app: FastAPI) -> None:
    """Makes all errors of the application's endpoints problems."""

    async def answer(request: Request, error: Exception) -> Response:
        return respond(app, request.scope["path"], as_problem(error))

    for kind in (Problem, HTTPException, RequestValidationError, ImageError, *(row[0] for row in _STORE)):
        app.add_exception_handler(kind, answer)


def render_as(app: FastAPI, prefix: str, renderer: Renderer) -> None:
    """Has problems below a path said in another way."""
    app.state.renderers = {**getattr(app.state, "renderers", {}), prefix: renderer}


def respond(app: FastAPI, path: str, problem: Problem) -> Response:
    """The answer, in the language of the part of the service that the path belongs to."""
    for prefix, renderer in getattr(app.state, "renderers", {}).items():
        if path == prefix or path.startswith(prefix + "/"):
            return renderer(problem)
    return Response(
        json.dumps(problem.to_dict()), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def invalid(errors: Sequence[Any]) -> Problem:
    """422 with a list of what is wrong where, from pydantic's errors. What was sent is not repeated."""
    found = [
        {"pointer": "/" + "/".join(str(part) for part in each["loc"]), "detail": printable(str(each["msg"]))[:_LONGEST]}
        for each in errors
    ]
    first = found[0] if found else {"pointer": "/", "detail": "unknown"}
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Problem(422, "invalid-request", f"{first['pointer']}: {first['detail']}{more}", extra={"errors": found[:50]})


_STORE: tuple[tuple[type[StoreError], int, str, int], ...] = (
    (StoreNotFoundError, 404, "not-found", 0),
    (StoreConflictError, 409, "conflict", 0),
    (StoreValueError, 422, "invalid-value", 0),
    (StoreBusyError, 503, "busy", 1),
    (StoreFullError, 503, "disk-full", 30),
    (StoreUnavailableError, 503, "database", 5),
)


def _of_store(error: StoreError) -> Problem:
    for cls, status, kind, retry_after in _STORE:
        if isinstance(error, cls):
            headers = {"Retry-After": str(retry_after)} if retry_after else {}
            return Problem(status, kind, str(error), headers=headers)
    return _internal()


def _internal() -> Problem:
    return Problem(
        500, "internal", f"Something went wrong inside of patchbank. Its log has the details: request {request_id()}"
    )


_HTTP = {
    400: ("bad-request", "The request cannot be read"),
    404: ("not-found", "There is nothing at this address"),
    405: ("method-not-allowed", "This address does not know that method; the header Allow lists those that it does"),
    413: ("too-large", "The body is too large"),
}


def _of_http(error: HTTPException) -> Problem:
    kind, detail = _HTTP.get(error.status_code, ("http", str(error.detail)))
    return Problem(error.status_code, kind, detail, headers=error.headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses as OpenAPI documents them."""
    about = {
        400: "The request cannot be read.",
        401: "Who are you? A token or a session is needed.",
        403: "You may not do this.",
        404: "There is no such thing.",
        405: "The address does not know the method.",
        408: "The body did not arrive in time.",
        409: "It clashes with what is there.",
        410: "It was there, and is gone.",
        411: "A length is needed.",
        412: "It has changed since you looked.",
        413: "The body or the image is too large.",
        415: "The body is of a type that is not taken.",
        422: "The request is understood, and cannot be carried out.",
        429: "Too many attempts; wait for Retry-After seconds.",
        503: "Busy, starting or stopping; try again after Retry-After seconds.",
    }
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": about[status], "content": {MEDIA_TYPE: reference}} for status in statuses
    }
    for status in (429, 503):
        if status in found:
            found[status]["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 0}, "required": True}}
    return found


SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "Names the problem for programs."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was expected, what was got, what to do."},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
