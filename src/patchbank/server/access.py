"""Who may ask for what. Every endpoint says it where it is declared (`@needs(...)`), and `GuardedRoute` holds it before
a byte of a body is read. An endpoint that does not say it cannot be added to the application.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.edge import allow_body
from patchbank.server.problems import Problem
from patchbank.server.service import service_of

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "patchbank_access"
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class Who(Enum):
    """Who may use an endpoint."""

    EVERYBODY = "everybody"
    THIS_MACHINE = "this machine"


@dataclass(frozen=True)
class Access:
    """What an endpoint says of itself. large_body: its body may be as large as `max_body_mb` says, and not 1 MB."""

    who: Who
    large_body: bool = False


def needs(who: Who, *, large_body: bool = False) -> Callable[[F], F]:
    """Says of an endpoint who may use it."""

    def mark(endpoint: F) -> F:
        setattr(endpoint, _ATTRIBUTE, Access(who, large_body))
        return endpoint

    return mark


def access_of(endpoint: Callable[..., Any]) -> Access:
    """Returns what an endpoint has said. Raises TypeError for one that has said nothing."""
    found = getattr(endpoint, _ATTRIBUTE, None)
    if not isinstance(found, Access):
        name = getattr(endpoint, "__qualname__", endpoint)
        raise TypeError(f"{name} does not say who may use it: decorate it with @needs(...)")
    return found


class GuardedRoute(APIRoute):
    """A route that lets in whom its endpoint wants."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **rest: Any) -> None:
        self.access = access_of(endpoint)
        extra = {**(rest.pop("openapi_extra", None) or {}), "x-access": self.access.who.value}
        super().__init__(path, endpoint, openapi_extra=extra, **rest)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, behind its guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            check(request, self.access)
            if self.access.large_body:
                allow_body(request, service_of(request).settings.max_body)
            return await handle(request)

        return guarded


def check(request: Request, access: Access) -> None:
    """Raises Problem if the caller may not do it."""
    if access.who is Who.EVERYBODY:
        return
    if not from_this_machine(request):
        raise Problem(403, "not-local", "This is for programs on the same machine only")
    check_origin(request)


def from_this_machine(request: Request) -> bool:
    """Says whether the request comes from a program on this machine: not through a proxy that nobody has named, and not
    from a page whose host's name leads here (DNS rebinding)."""
    settings = service_of(request).settings
    if not settings.proxies and any(name in request.headers for name in _FORWARDED):
        return False
    return request.client is not None and _is_loopback(request.client.host) and _is_loopback(_hostname(request))


def check_origin(request: Request) -> None:
    """Raises Problem for a change that the page of another site asks for: browsers say where a request comes from."""
    if request.method in _SAFE:
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    here = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
    if (origin is not None and origin.lower() != here.lower()) or site not in ("same-origin", "none"):
        raise Problem(403, "other-site", "The page of another site may not change anything here")


def _hostname(request: Request) -> str:
    """The name that the caller has for this host, without the port."""
    host = request.headers.get("host", "")
    name = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:[0-9]{0,5})?", host)
    return name[1] if name else ""


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]").removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
