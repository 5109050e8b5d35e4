"""What the endpoints of all pages share: who may, forms, errors as pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from patchbank.errors import StoreError
from patchbank.server.access import GuardedRoute, access_of, needs
from patchbank.server.problems import Problem, as_problem
from patchbank.server.web.rendering import refusal

F = TypeVar("F", bound=Callable[..., Any])
_Given = TypeVar("_Given", bound=BaseModel)
Refused = (Problem, StoreError, RequestValidationError)  # what a form shows in its page
_MOST_FIELDS = 100


class PageRoute(GuardedRoute):
    """A route whose errors are pages. Without a session it is the page to sign in, at the same address."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, behind its guard."""
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            if request.method == "GET" and (tidy := self.tidied(request)) is not None:
                return RedirectResponse(tidy, 303)
            try:
                return await handle(request)
            except Exception as error:
                problem = as_problem(error)
                if problem.status == 500:
                    raise
                return await refusal(request, problem)

        return shown

    def tidied(self, request: Request) -> str | None:
        """Another address of the same page, to which the browser is sent; None: this one is right. Fields of forms that
        were left empty are no filters."""
        given = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        kept = self.translated([(name, value) for name, value in given if value.strip()])
        return None if kept == given else address(request.url.path, kept)

    def translated(self, query: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The fields of a form as the API names them."""
        return query


def pages(route_class: type[PageRoute] = PageRoute) -> APIRouter:
    """A router for pages, which the description of the API does not have."""
    return APIRouter(route_class=route_class, include_in_schema=False)


def like(endpoint: Callable[..., Any]) -> Callable[[F], F]:
    """Says of a page that who may use this endpoint of the API may use it."""
    return needs(access=replace(access_of(endpoint), large_body=False))


async def form(request: Request) -> dict[str, str]:
    """The fields of a form; of one that is there twice, the last. Raises Problem."""
    found = await request.form(max_files=0, max_fields=_MOST_FIELDS)
    return {name: value for name, value in found.items() if not isinstance(value, UploadFile)}


def by_script(request: Request) -> bool:
    """Says whether htmx asks, for a part of a page."""
    return request.headers.get("hx-request") == "true"


async def choices(request: Request, name: str) -> list[str]:
    """All values of a field that a form has several times. Raises Problem."""
    found = await request.form(max_files=0, max_fields=_MOST_FIELDS)
    return [value for value in found.getlist(name) if not isinstance(value, UploadFile)]


def given(cls: type[_Given], **values: Any) -> _Given:
    """The body that the API's endpoint takes. Raises RequestValidationError, as it does for JSON."""
    try:
        return cls(**values)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def back(path: str, done: str = "", **query: str) -> Response:
    """After a form was carried out: to the page that shows it. done: a key of `messages.DONE`."""
    fields = [*query.items(), *([("done", done)] if done else [])]
    return RedirectResponse(address(path, [(name, value) for name, value in fields if value]), 303)


def address(path: str, query: list[tuple[str, str]]) -> str:
    """A path of this service with a query."""
    return f"{path}?{urlencode(query)}" if query else path
