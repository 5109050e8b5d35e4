"""Lists of inspections: a gallery or a table, with all filters of the API in the address."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.api import reading
from patchbank.server.api.chosen import Chosen
from patchbank.server.api.routing import Cursor
from patchbank.server.service import service_of
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import PageRoute, address, by_script, like, pages
from patchbank.store import models, streams

if TYPE_CHECKING:
    from sqlalchemy import Connection

PER_PAGE = 48
_STATES = {
    "waiting": ("needs_review", "true"),
    "unlabelled": ("labelled", "false"),
    "good": ("label", "good"),
    "defect": ("label", "defect"),
    "unsure": ("label", "unsure"),
}
_OF_THE_PAGE = ("view", "cursor", "order", "done")  # what is no filter


class FilterRoute(PageRoute):
    """The filters' form, as the API names its fields: so lists, counts and exports have the same query."""

    def translated(self, query: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """`version_of` is a model and a version, `state` is one of several fields, times get a time zone."""
        found = []
        for name, value in query:
            if name == "version_of":
                model, _, version = value.rpartition("/")
                found += [("model", model), ("version", version)]
            elif name == "state" and value in _STATES:
                found.append(_STATES[value])
            elif name in ("since", "until"):
                found.append((name, _with_zone(value)))
            else:
                found.append((name, value))
        return found


routes = pages(FilterRoute)


@routes.get("/inspections")
@like(reading.listed)
async def listed(
    request: Request,
    chosen: Chosen,
    cursor: Cursor = None,
    order: Literal["newest", "oldest"] = "newest",
    view: Literal["gallery", "table"] = "gallery",
) -> Response:
    """A page of the list; with htmx, only what follows."""
    found = await reading.listed(request, chosen, cursor, PER_PAGE, order)
    query = request.query_params.multi_items()
    filters = [(name, value) for name, value in query if name not in _OF_THE_PAGE]
    values: dict[str, Any] = {
        "items": found.items,
        "view": view,
        "order": order,
        "cursor": cursor,
        "more": _next(query, found.next),
        "detail_query": _suffix(filters),
    }
    if by_script(request):
        return await page(request, "inspections_more.html", **values)
    options = await service_of(request).read(_options)
    return await page(
        request,
        "inspections.html",
        **values,
        **options,
        count=await reading.count(request, chosen),
        filters=dict(filters),
        verdicts=[value for name, value in filters if name == "verdict"],
        since=chosen.since,
        until=chosen.until,
        state=_state(dict(filters)),
        version_of="{model}/{version}".format_map({"model": "", "version": ""} | dict(filters)).strip("/"),
        gallery=_with(query, view=None, cursor=None),
        table=_with(query, view="table", cursor=None),
        first=_with(query, cursor=None),
        csv=address("/api/v1/inspections/export", [("format", "csv"), *filters]),
        parquet=address("/api/v1/inspections/export", [("format", "parquet"), *filters]),
    )


def _options(connection: Connection) -> dict[str, Any]:
    """What there is to choose from."""
    versions = [
        (f"{model.name}/{each.number}", f"{model.name} · {each.number}")
        for model in models.listed(connection, archived=True)
        for each in models.versions(connection, model.id)
    ]
    return {
        "stream_options": [(each.name, each.name) for each in streams.listed(connection, archived=True)],
        "versions": versions,
    }


def _state(filters: dict[str, str]) -> str:
    return next((state for state, (name, value) in _STATES.items() if filters.get(name) == value), "")


def _next(query: list[tuple[str, str]], cursor: str | None) -> str:
    return _with(query, cursor=cursor) if cursor else ""


def _with(query: list[tuple[str, str]], **changes: str | None) -> str:
    """The address of this list with other fields; None: without that field."""
    kept = [(name, value) for name, value in query if name not in changes]
    return address("/inspections", [*kept, *((name, value) for name, value in changes.items() if value is not None)])


def _suffix(filters: list[tuple[str, str]]) -> str:
    return address("", filters)


def _with_zone(value: str) -> str:
    """A time of a form, which is one of this place, with its time zone. Anything else stays, and is refused later."""
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return value
    return at.astimezone().isoformat() if at.tzinfo is None else value
