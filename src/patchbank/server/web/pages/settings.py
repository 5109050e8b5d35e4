"""Settings: what people choose, streams, the audit log, backups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import audit, backup, settings, streams
from patchbank.server.api.routing import Line
from patchbank.server.problems import Problem
from patchbank.server.web.language import N_
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, form, given, like, pages
from patchbank.store.preferences import KNOWN

routes = pages()
GROUPS = {
    "retention": N_("How long images are kept"),
    "review": N_("Review"),
    "approval": N_("Approval"),
    "session": N_("Signing in"),
    "site": N_("Plant"),
    "": N_("Other"),
}
_LARGEST_ID = 2**63 - 1


@routes.get("/settings")
@like(settings.listed)
async def preferences(request: Request) -> Response:
    """What people choose while the service runs."""
    return await _preferences(request)


@routes.post("/settings/{key}")
@like(settings.put)
async def put(request: Request, key: settings.Key) -> Response:
    """Another value, or the default again."""
    fields = await form(request)
    try:
        if "reset" in fields:
            await settings.reset(request, key)
        else:
            await settings.put(request, key, given(settings.NewValue, value=_value(key, fields)))
    except Refused as error:
        return await _preferences(request, problem=error)
    return back("/settings", "saved")


@routes.get("/settings/streams")
@like(streams.listed)
async def all_streams(request: Request) -> Response:
    """All streams, and what decides on them."""
    return await _streams(request)


@routes.post("/settings/streams/add")
@like(streams.add)
async def add_stream(request: Request) -> Response:
    """A new stream."""
    fields = await form(request)
    try:
        await streams.add(
            request, given(streams.NewStream, name=fields.get("name", "").strip(), site=fields.get("site", "").strip())
        )
    except Refused as error:
        return await _streams(request, problem=error, fields=fields)
    return back("/settings/streams", "stream-added")


@routes.get("/settings/audit")
@like(audit.page)
async def audit_log(
    request: Request,
    before: Annotated[int | None, Query(ge=1, le=_LARGEST_ID)] = None,
    action: Annotated[Line, Query()] = "",
    about: Annotated[Line, Query(alias="object")] = "",
    actor: Annotated[Line, Query()] = "",
) -> Response:
    """Who did what, when and why."""
    found = await audit.page(request, before, action, about, actor, 50)
    filters = {"action": action, "object": about, "actor": actor}
    return await page(request, "audit.html", entries=found.items, next=found.next, filters=filters, verified=None)


@routes.get("/settings/audit/verified")
@like(audit.verified)
async def verified(request: Request) -> Response:
    """The log, computed anew."""
    found = await audit.page(request, None, "", "", "", 50)
    filters = {"action": "", "object": "", "actor": ""}
    result = await audit.verified(request)
    return await page(request, "audit.html", entries=found.items, next=found.next, filters=filters, verified=result)


@routes.get("/settings/backup")
@like(backup.listed)
async def backups(request: Request) -> Response:
    """The backups in the data folder."""
    return await page(request, "backup.html", backups=await backup.listed(request))


@routes.post("/settings/backup/make")
@like(backup.begin)
async def make_backup(request: Request) -> Response:
    """Begins a backup."""
    await backup.begin(request)
    return back("/settings/backup", "backup-begun")


@routes.post("/settings/backup/{name}/remove")
@like(backup.remove)
async def remove_backup(request: Request, name: backup.Name) -> Response:
    """Removes a backup."""
    await backup.remove(request, name)
    return back("/settings/backup", "backup-removed")


async def _preferences(request: Request, problem: Exception | None = None) -> Response:
    groups: dict[str, list[settings.Setting]] = {}
    for each in await settings.listed(request):
        group = each.key.partition(".")[0]
        groups.setdefault(group if group in GROUPS else "", []).append(each)
    return await page(
        request,
        "preferences.html",
        problem=problem,
        groups=[(GROUPS[name], rows) for name, rows in groups.items()],
        may_change=access_of(settings.put).admits(caller_of(request)),
    )


async def _streams(
    request: Request, problem: Exception | None = None, fields: Mapping[str, str] | None = None
) -> Response:
    return await page(
        request,
        "streams.html",
        problem=problem,
        fields=fields or {},
        streams=await streams.listed(request),
        may_add=access_of(streams.add).admits(caller_of(request)),
    )


def _value(key: str, fields: Mapping[str, str]) -> Any:
    """What a form says, as the setting's type. Raises Problem."""
    kind, text = type(KNOWN[key].default) if key in KNOWN else str, fields.get("value", "").strip()
    if kind is bool:
        return text == "true"
    if kind is str:
        return text
    try:
        return kind(text.replace(",", "."))
    except ValueError:
        raise Problem(422, "invalid-value", f"{key}: expected a number; got {text!r}") from None
