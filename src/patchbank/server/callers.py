"""Who asks: a person with a session, a machine with a token, a program on this machine before there is an
administrator, or nobody."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.problems import Problem
from patchbank.server.service import Service, service_of
from patchbank.store import tokens, users
from patchbank.store.passwords import digest
from patchbank.store.schema import ROLES
from patchbank.store.tokens import Token
from patchbank.store.users import User
from patchbank.store.values import Actor

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
_EXTENDED_EVERY_S, _MOST_REMEMBERED = 300.0, 10_000
_USE_NOTED_AFTER = timedelta(minutes=1)
LOCAL = Actor("this machine")


@dataclass(frozen=True)
class Caller:
    """Who asks. kind: local = a program on this machine, as long as there is no administrator: it may do everything."""

    kind: Literal["person", "machine", "local", "nobody"]
    user: User | None = None
    token: Token | None = None

    @property
    def actor(self) -> Actor:
        """Returns who the audit log says it was."""
        return self.user.actor if self.user else self.token.actor if self.token else LOCAL

    @property
    def role(self) -> str | None:
        """Returns the role; machines have none."""
        return "admin" if self.kind == "local" else self.user.role if self.user else None

    @property
    def stream_id(self) -> int | None:
        """Returns the only stream that a machine may speak for; None = any."""
        return self.token.stream_id if self.token else None

    @property
    def key(self) -> str:
        """Returns what tells callers apart, for idempotency keys."""
        return f"user/{self.user.id}" if self.user else f"token/{self.token.id}" if self.token else self.kind

    def may(self, role: str) -> bool:
        """Says whether it has this role, or one above it."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(role)

    def has_scope(self, scope: str) -> bool:
        """Says whether it is a machine whose token has the scope."""
        return self.token is not None and scope in self.token.scopes.split()


NOBODY = Caller("nobody")


async def identify(request: Request) -> Caller:
    """Who sends the request. Raises Problem for a token that is none; an ended session is nobody's."""
    service = service_of(request)
    if authorization := request.headers.get("authorization"):
        return await _machine(service, authorization)
    if secret := session_secret(request):
        user = await service.read(users.of_session, secret)
        if user is not None:
            _extend(service, secret)
            return Caller("person", user=user)
    if from_this_machine(request) and not await has_admin(service):
        return Caller("local")
    return NOBODY


async def has_admin(service: Service) -> bool:
    """Says whether there is an administrator. The last one cannot be removed, so it is asked only until then."""
    if not service.has_admin:
        service.has_admin = await service.read(users.has_admin)
    return service.has_admin


async def _machine(service: Service, authorization: str) -> Caller:
    scheme, _, text = authorization.partition(" ")
    token = await service.read(tokens.of_text, text.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        raise Problem(
            401,
            "bad-token",
            "expected a header 'Authorization: Bearer pb_...' with a token that is valid; got one that is unknown, "
            "revoked or expired",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )
    if token.last_used_at is None or datetime.now(UTC) - token.last_used_at > _USE_NOTED_AFTER:
        service.write_aside(tokens.used, token.id)
    return Caller("machine", token=token)


def cookie_name(request: Request) -> str:
    """The cookie of sessions. With HTTPS its name keeps other hosts of the domain from setting it."""
    return "__Host-patchbank" if request.scope["scheme"] == "https" else "patchbank"


def session_secret(request: Request) -> str | None:
    """What the session's cookie holds, if it looks like one."""
    secret = request.cookies.get(cookie_name(request), "")
    return secret if re.fullmatch(r"[0-9A-Za-z]{43}", secret) else None


def set_cookie(request: Request, response: Response, secret: str) -> None:
    """Has the browser keep the session: for this host, no script, no other site's requests."""
    response.set_cookie(
        cookie_name(request),
        secret,
        max_age=round(3600 * service_of(request).preference("session.hours")),
        path="/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )


def drop_cookie(request: Request, response: Response) -> None:
    """Has the browser forget the session."""
    secure = request.scope["scheme"] == "https"
    response.delete_cookie(cookie_name(request), path="/", secure=secure, httponly=True, samesite="strict")


def expires(service: Service) -> datetime:
    """When a session that is used now ends."""
    return datetime.now(UTC) + timedelta(hours=service.preference("session.hours"))


def _extend(service: Service, secret: str) -> None:
    """A session goes on as long as it is used. That is written every five minutes."""
    seen, key, now = service.sessions_extended, digest(secret), time.monotonic()
    if now - seen.get(key, -_EXTENDED_EVERY_S) >= _EXTENDED_EVERY_S:
        if len(seen) >= _MOST_REMEMBERED:
            seen.clear()
        seen[key] = now
        service.write_aside(users.extend_session, secret, expires(service))


def from_this_machine(request: Request) -> bool:
    """Says whether the request comes from a program on this machine: not through a proxy that nobody has named, and not
    from a page whose host's name leads here (DNS rebinding)."""
    settings = service_of(request).settings
    if not settings.proxies and any(name in request.headers for name in _FORWARDED):
        return False
    return request.client is not None and _is_loopback(request.client.host) and _is_loopback(_hostname(request))


def address_of(request: Request) -> str:
    """The address of who asks."""
    return request.client.host if request.client else ""


def _hostname(request: Request) -> str:
    """The name that the caller has for this host, without the port."""
    name = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:[0-9]{0,5})?", request.headers.get("host", ""))
    return name[1] if name else ""


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]").removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
