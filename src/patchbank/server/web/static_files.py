"""Scripts, styles and icons: read once, and served under an address that changes when any of them does."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

from patchbank.server import web
from patchbank.server.access import EVERYBODY, GuardedRoute, needs
from patchbank.server.problems import Problem

routes = APIRouter(route_class=GuardedRoute, include_in_schema=False)
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@cache
def files() -> dict[str, bytes]:
    """Name -> content of all that is served."""
    found = (resources.files(web) / "static").iterdir()
    return {each.name: each.read_bytes() for each in sorted(found, key=lambda each: each.name)}


@cache
def folder() -> str:
    """The address below which the files lie: their digest is a part of it."""
    digest = hashlib.sha256()
    for name, data in files().items():
        digest.update(f"{name} {len(data)} ".encode() + data)
    return f"/static/{digest.hexdigest()[:12]}"


@routes.get("/static/{digest}/{name}")
@needs(access=EVERYBODY)
async def static(digest: str, name: str) -> Response:
    """One of the files. Browsers keep it; an old address has today's file, and is not kept."""
    data = files().get(name)
    if data is None:
        raise Problem(404, "not-found", "There is no such file")
    known = digest == folder().rpartition("/")[2]
    kept = "public, max-age=31536000, immutable" if known else "no-store"
    return Response(data, media_type=_TYPES["." + name.rpartition(".")[2]], headers={"Cache-Control": kept})
