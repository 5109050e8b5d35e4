"""What the endpoints of the API share: their prefix, the errors that all of them have, the types of what they take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, StringConstraints

from patchbank.server.access import GuardedRoute, access_of
from patchbank.server.problems import responses
from patchbank.store.values import LINE, NAME, TEXT

PREFIX = "/api/v1"
_LARGEST_ID = 2**63 - 1

Id = Annotated[int, Path(ge=1, le=_LARGEST_ID)]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=500)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME)]
Line = Annotated[str, StringConstraints(max_length=LINE)]
Text = Annotated[str, StringConstraints(max_length=TEXT)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=TEXT)]
Time = datetime


class Given(BaseModel):
    """The body of a request. An unknown member is an error, and not left out without a word."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


class Told(BaseModel):
    """The body of an answer, made of a dataclass of the store or of a mapping."""

    model_config = ConfigDict(from_attributes=True)


class ApiRoute(GuardedRoute):
    """A route whose description has the errors that every endpoint may answer with."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **rest: Any) -> None:
        methods = {each.upper() for each in rest.get("methods") or ("GET",)}
        usual = {400, 422, 503}
        if not access_of(endpoint).everybody:
            usual |= {401, 403}
        if methods & {"POST", "PUT", "PATCH"}:
            usual |= {408, 413}
        if "{" in path:
            usual |= {404}
        given = rest.pop("responses", None) or {}
        super().__init__(path, endpoint, responses={**responses(*sorted(usual)), **given}, **rest)


def router(tag: str) -> APIRouter:
    """A router of the API. tag: what its endpoints are about."""
    return APIRouter(prefix=PREFIX, route_class=ApiRoute, tags=[tag])
