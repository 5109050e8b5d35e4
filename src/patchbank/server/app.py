"""The application, put together. Whoever adds endpoints adds a router here, made of `GuardedRoute`s."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from patchbank.server import health, problems
from patchbank.server.access import EVERYBODY, GuardedRoute, needs
from patchbank.server.api import (
    audit,
    backup,
    datasets,
    drift,
    events,
    gathering,
    ingest,
    inspections,
    jobs,
    looking,
    quality,
    reading,
    registry,
    reviews,
    session,
    settings,
    shadow,
    streams,
    tokens,
    training,
    users,
    versions,
)
from patchbank.server.api.routing import PREFIX
from patchbank.server.edge import Edge
from patchbank.server.oip import router as oip
from patchbank.server.service import Service
from patchbank.server.web import site
from patchbank.version import __version__

OPENAPI = f"{PREFIX}/openapi.json"
API = (
    reading.routes,
    looking.routes,
    inspections.routes,
    ingest.routes,
    reviews.routes,
    streams.routes,
    registry.routes,
    versions.routes,
    shadow.routes,
    datasets.routes,
    training.routes,
    gathering.routes,
    jobs.routes,
    quality.routes,
    drift.routes,
    events.routes,
    settings.routes,
    session.routes,
    users.routes,
    tokens.routes,
    audit.routes,
    backup.routes,
)


def create_app(service: Service) -> FastAPI:
    """The application of a service. It owns the service: what that holds is released when the application ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
            yield
        finally:
            await service.end()

    app = FastAPI(
        title="patchbank",
        version=__version__,
        description="Visual inspection: images in, verdicts out. Errors are problems (RFC 9457).",
        lifespan=lifespan,
        openapi_url=None,  # served below; the interactive pages of FastAPI load scripts from other hosts
        redirect_slashes=False,
    )
    app.state.service = service
    problems.install(app)
    app.include_router(health.router)
    app.include_router(_description(app))
    for each in API:
        app.include_router(each)
    site.install(app)
    oip.install(app)
    app.add_middleware(Edge, app=app, service=service)
    return app


def _description(app: FastAPI) -> APIRouter:
    router = APIRouter(route_class=GuardedRoute)

    @router.get(OPENAPI, include_in_schema=False)
    @needs(access=EVERYBODY)
    async def description() -> dict[str, Any]:
        return openapi(app)

    return router


def openapi(app: FastAPI) -> dict[str, Any]:
    """The description of all endpoints, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= {"Problem": problems.SCHEMA, "OipError": oip.SCHEMA, **ingest.schemas()}
        app.openapi_schema = document
    return app.openapi_schema
