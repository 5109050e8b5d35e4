"""Settings: people and the tokens of machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.api import streams, tokens, users
from patchbank.server.api.routing import Id
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, choices, form, given, like, pages
from patchbank.store.passwords import SHORTEST
from patchbank.store.schema import ROLES, SCOPES

routes = pages()


@routes.get("/settings/users")
@like(users.listed)
async def all_users(request: Request) -> Response:
    """All people."""
    return await _users(request)


@routes.post("/settings/users/add")
@like(users.add)
async def add_user(request: Request) -> Response:
    """A new person."""
    fields = await form(request)
    try:
        await users.add(
            request,
            given(
                users.NewUser,
                name=fields.get("name", "").strip(),
                role=fields.get("role", ""),
                password=fields.get("password", ""),
            ),
        )
    except Refused as error:
        return await _users(request, error, fields)
    return back("/settings/users", "user-added")


@routes.post("/settings/users/{user_id}")
@like(users.change)
async def change_user(request: Request, user_id: Id) -> Response:
    """Another role or password, or no more entry."""
    fields = await form(request)
    try:
        change = given(
            users.UserChange,
            role=fields.get("role") or None,
            disabled={"true": True, "false": False}.get(fields.get("disabled", "")),
            password=fields.get("password") or None,
            reason=fields.get("reason", "").strip(),
        )
        await users.change(request, user_id, change)
    except Refused as error:
        return await _users(request, error)
    return back("/settings/users", "user-changed")


@routes.get("/settings/tokens")
@like(tokens.listed)
async def all_tokens(request: Request) -> Response:
    """All tokens."""
    return await _tokens(request)


@routes.post("/settings/tokens/add")
@like(tokens.add)
async def add_token(request: Request) -> Response:
    """Makes a token. This answer shows it, and nothing shows it again."""
    fields = await form(request)
    try:
        new = given(
            tokens.NewToken,
            name=fields.get("name", "").strip(),
            scopes=await choices(request, "scope"),
            stream_id=fields.get("stream_id") or None,
            days=fields.get("days") or None,
        )
        made = await tokens.add(request, new)
    except Refused as error:
        return await _tokens(request, problem=error, fields=fields)
    return await _tokens(request, made=made)


@routes.post("/settings/tokens/{token_id}/revoke")
@like(tokens.revoke)
async def revoke_token(request: Request, token_id: Id) -> Response:
    """From now on the token is worth nothing."""
    await tokens.revoke(request, token_id)
    return back("/settings/tokens", "token-revoked")


async def _users(
    request: Request, problem: Exception | None = None, fields: Mapping[str, str] | None = None
) -> Response:
    return await page(
        request,
        "users.html",
        problem=problem,
        users=await users.listed(request),
        fields=fields or {},
        roles=ROLES,
        shortest=SHORTEST,
    )


async def _tokens(request: Request, **values: Any) -> Response:
    return await page(
        request,
        "tokens.html",
        **{"problem": None, "fields": {}, "made": None}
        | values
        | {
            "tokens": await tokens.listed(request),
            "streams": {each.id: each.name for each in await streams.listed(request)},
            "scopes": SCOPES,
        },
    )
