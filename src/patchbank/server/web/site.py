"""All pages."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.api.routing import PREFIX
from patchbank.server.problems import as_problem, respond
from patchbank.server.web import static_files
from patchbank.server.web.pages import (
    dataset,
    drift,
    entry,
    inspection,
    inspections,
    jobs,
    line,
    model,
    models,
    people,
    review,
    settings,
    train,
)
from patchbank.server.web.rendering import refusal

ROUTES = (
    static_files.routes,
    entry.routes,
    line.routes,
    inspections.routes,
    inspection.routes,
    review.routes,
    models.routes,
    model.routes,
    settings.routes,
    people.routes,
    drift.routes,
    train.routes,
    dataset.routes,
    jobs.routes,
)


def install(app: FastAPI) -> None:
    """Adds the pages; and who asks for an address that is none in a browser gets a page, too."""
    for each in ROUTES:
        app.include_router(each)

    async def answer(request: Request, error: Exception) -> Response:
        problem, path = as_problem(error), request.scope["path"]
        if "text/html" in request.headers.get("accept", "") and not path.startswith((PREFIX, "/v2")):
            return await refusal(request, problem)
        return respond(app, path, problem)

    app.add_exception_handler(HTTPException, answer)
