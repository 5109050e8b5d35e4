"""Drift: whether good parts look other than they did, since when, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.api import drift as api
from patchbank.server.api import streams
from patchbank.server.api.routing import Name
from patchbank.server.web.drift_chart import chart_of
from patchbank.server.web.language import N_
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import like, pages

routes = pages()
PARTS, POINTS = 20_000, 120
SPANS = {"day": 1, "week": 7, "month": 30}  # days
# What a test has asked; of scores that have shifted, which way.
TESTS = {
    "level": N_("Scores have risen or fallen"),
    "level up": N_("Scores have risen"),
    "level down": N_("Scores have fallen"),
    "flagged": N_("More parts are over the threshold"),
    "scene": N_("More images are not what the model knows"),
}


@routes.get("/drift")
@like(api.findings)
async def show(
    request: Request,
    stream: Annotated[Name | None, Query()] = None,
    span: Annotated[Literal["day", "week", "month"] | None, Query()] = None,
) -> Response:
    """The page of a stream; of the first one, if none is given. span: how far back; None: the newest parts."""
    names = [each.name for each in await streams.listed(request)]
    name = stream or (names[0] if names else None)
    if name is None:
        return await page(request, "drift.html", stream=None)
    since = datetime.now(UTC) - timedelta(days=SPANS[span]) if span else None
    series = await api.series(request, name, since, None, PARTS, POINTS)
    return await page(
        request,
        "drift.html",
        stream=name,
        span=span or "",
        stream_options=[(each, each) for each in names],
        findings=await api.findings(request, name),
        series=series,
        chart=chart_of(series),
        tests=TESTS,
    )
