"""The audit log: who did what, when and why. For administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request

from patchbank.server.access import needs
from patchbank.server.api.routing import Limit, Line, Time, Told, router
from patchbank.server.service import service_of
from patchbank.store import audit_log

routes = router("audit log")
_LARGEST_ID = 2**63 - 1


class Entry(Told):
    """A row of the audit log."""

    n: int
    at: Time
    actor: str
    action: str
    object: str
    old: Any
    new: Any
    reason: str
    prev_hash: str
    hash: str


class Entries(Told):
    """A part of the audit log, the newest first. next: `before` of what follows; null: that is all."""

    items: list[Entry]
    next: int | None


class Head(Told):
    """The last row."""

    n: int
    hash: str


class Verified(Told):
    """What a check found. problems: none, if all is well."""

    rows: int
    problems: list[str]
    head: Head


@routes.get("/audit", summary="The audit log", response_model=Entries)
@needs("admin")
async def page(
    request: Request,
    before: Annotated[int | None, Query(ge=1, le=_LARGEST_ID)] = None,
    action: Annotated[Line, Query()] = "",
    about: Annotated[Line, Query(alias="object")] = "",
    actor: Annotated[Line, Query()] = "",
    limit: Limit = 100,
) -> Entries:
    """Rows, the newest first."""
    found = await service_of(request).read(
        audit_log.page, before=before, action=action, about=about, actor=actor, limit=limit
    )
    items = [Entry.model_validate(each) for each in found]
    return Entries(items=items, next=items[-1].n if len(items) == limit and items[-1].n > 1 else None)


@routes.get("/audit/verified", summary="Check the audit log", response_model=Verified)
@needs("admin")
async def verified(request: Request) -> audit_log.Verified:
    """Computes every hash anew. An attacker who can write the whole table can do so too: keep `head` elsewhere."""
    return await service_of(request).read(audit_log.verify)
