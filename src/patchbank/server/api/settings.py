"""Settings that people change while the service runs. For administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import Field
from starlette.requests import Request

from patchbank.server.access import caller_of, needs
from patchbank.server.api.routing import Given, Text, Time, Told, router
from patchbank.server.service import service_of
from patchbank.store import preferences
from patchbank.store.preferences import Present
from patchbank.store.values import LINE

routes = router("settings")

Value = bool | int | float | str
Key = Annotated[str, Path(min_length=1, max_length=LINE)]


class Setting(Told):
    """A setting as it is. by: empty = nobody has changed it."""

    key: str
    value: Value
    default: Value
    about: str
    low: float | None
    high: float | None
    at: Time | None
    by: str


class NewValue(Given):
    """Another value."""

    value: Value = Field(union_mode="left_to_right")
    reason: Text = ""


@routes.get("/settings", summary="All settings", response_model=list[Setting])
@needs("viewer")
async def listed(request: Request) -> list[Setting]:
    """With their defaults and limits."""
    return [_told(each) for each in await service_of(request).read(preferences.all_now)]


@routes.put("/settings/{key}", summary="Change a setting", response_model=Setting)
@needs("admin")
async def put(request: Request, key: Key, new: NewValue) -> Setting:
    """Takes effect at once."""
    service = service_of(request)
    await service.write(preferences.put, key, new.value, by=caller_of(request).actor, reason=new.reason)
    return await _one(request, key)


@routes.delete("/settings/{key}", summary="Back to the default", response_model=Setting)
@needs("admin")
async def reset(request: Request, key: Key, reason: Annotated[Text, Query()] = "") -> Setting:
    """The setting has its default again."""
    await service_of(request).write(preferences.reset, key, by=caller_of(request).actor, reason=reason)
    return await _one(request, key)


async def _one(request: Request, key: str) -> Setting:
    found = await service_of(request).read(preferences.all_now)
    return next(_told(each) for each in found if each.preference.key == key)


def _told(present: Present) -> Setting:
    about = present.preference
    return Setting(
        key=about.key,
        value=present.value,
        default=about.default,
        about=about.about,
        low=about.low,
        high=about.high,
        at=present.at,
        by=present.by,
    )
