"""Tokens of machines. For administrators. A token is shown once, when it is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import caller_of, needs
from patchbank.server.api.routing import Given, Id, Name, Text, Time, Told, router
from patchbank.server.problems import responses
from patchbank.server.service import service_of
from patchbank.store import tokens
from patchbank.store.tokens import new_secret

routes = router("tokens")

Scope = Literal["inspect", "ingest", "read", "metrics"]
_LARGEST_ID = 2**63 - 1


class NewToken(Given):
    """A token that is to be made."""

    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    stream_id: int | None = Field(None, ge=1, le=_LARGEST_ID, description="For this stream only.")
    days: int | None = Field(None, ge=1, le=3650, description="After how many days it expires; null: never.")
    reason: Text = ""


class Token(Told):
    """A token, without its secret."""

    id: int
    name: str
    prefix: str = Field(description="The beginning of the token, to tell it from others.")
    scopes: str
    stream_id: int | None
    created_at: Time
    created_by: str
    expires_at: Time | None
    last_used_at: Time | None
    revoked_at: Time | None


class MadeToken(Told):
    """A new token."""

    token: str = Field(description="What the machine sends. It cannot be shown again.")
    about: Token


@routes.get("/tokens", summary="All tokens", response_model=list[Token])
@needs("admin")
async def listed(request: Request) -> list[tokens.Token]:
    """All tokens, the newest first, those that were revoked too."""
    return await service_of(request).read(tokens.listed)


@routes.post("/tokens", summary="Make a token", status_code=201, response_model=MadeToken, responses=responses(409))
@needs("admin")
async def add(request: Request, new: NewToken) -> MadeToken:
    """Makes a token, and shows it this once."""
    secret = new_secret()
    made = await service_of(request).write(
        tokens.add,
        new.name,
        new.scopes,
        secret.prefix,
        secret.sha256,
        stream_id=new.stream_id,
        expires_at=None if new.days is None else datetime.now(UTC) + timedelta(days=new.days),
        by=caller_of(request).actor,
        reason=new.reason,
    )
    return MadeToken(token=secret.text, about=Token.model_validate(made))


@routes.delete("/tokens/{token_id}", summary="Revoke a token", status_code=204)
@needs("admin")
async def revoke(request: Request, token_id: Id, reason: Annotated[Text, Query()] = "") -> Response:
    """From now on the token is worth nothing."""
    await service_of(request).write(tokens.revoke, token_id, by=caller_of(request).actor, reason=reason)
    return Response(status_code=204)
