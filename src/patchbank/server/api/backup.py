"""Backups of the service's data. For administrators: a backup holds everything, hashes of passwords too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from patchbank.server.access import caller_of, needs
from patchbank.server.api.routing import Text, Time, Told, router
from patchbank.server.backups import NAME, Kept
from patchbank.server.problems import responses
from patchbank.server.service import service_of
from patchbank.store import audit_log

routes = router("backup")

Name = Annotated[str, Path(pattern=f"^{NAME}$")]
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}
}


class Backup(Told):
    """A backup. size: bytes; 0 while it is made. error: why it failed, or what was missing."""

    name: str
    state: Literal["running", "done", "failed"]
    size: int
    made_at: Time
    error: str


@routes.get("/backup", summary="All backups", response_model=list[Backup])
@needs("admin")
async def listed(request: Request) -> list[Kept]:
    """The newest first. One that failed is listed until the next one begins."""
    return await run_in_threadpool(service_of(request).backups.listed)


@routes.post("/backup", summary="Make a backup", status_code=202, response_model=Backup, responses=responses(409))
@needs("admin")
async def begin(request: Request, reason: Annotated[Text, Query()] = "") -> Kept:
    """Begins to make one in the data folder, and answers at once: ask for the list to see when it is done."""
    service = service_of(request)
    begun = service.backups.begin()
    about = f"backup/{begun.name}"
    await service.write(audit_log.append, caller_of(request).actor, "backup.make", about, reason=reason)
    return begun


@routes.get("/backup/{name}", summary="Fetch a backup", response_class=FileResponse, responses=_FILE)
@needs("admin")
async def fetch(request: Request, name: Name) -> FileResponse:
    """The tar file, for 'patchbank restore'. That it was fetched stands in the audit log."""
    service = service_of(request)
    path = service.backups.path(name)
    await service.write(audit_log.append, caller_of(request).actor, "backup.fetch", f"backup/{name}")
    return FileResponse(path, media_type="application/x-tar", filename=name)


@routes.delete("/backup/{name}", summary="Remove a backup", status_code=204)
@needs("admin")
async def remove(request: Request, name: Name, reason: Annotated[Text, Query()] = "") -> Response:
    """Removes the file from the data folder."""
    service = service_of(request)
    await run_in_threadpool(service.backups.remove, name)
    await service.write(audit_log.append, caller_of(request).actor, "backup.remove", f"backup/{name}", reason=reason)
    return Response(status_code=204)
