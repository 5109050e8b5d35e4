"""Who may do what. Every endpoint says it where it is declared (`@needs(...)`), and `GuardedRoute` holds it before a
byte of a body is read. An endpoint that does not say it cannot be added to the application.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.callers import NOBODY, Caller, from_this_machine, has_admin, identify
from patchbank.server.edge import allow_body
from patchbank.server.problems import Problem
from patchbank.server.service import service_of

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "patchbank_access"
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Access:
    """What an endpoint says of itself. role: that people need, at least. scopes: a machine's token needs one of them.
    local: programs on this machine need nothing. everybody: nobody needs anything. anybody: whoever is known may.
    large_body: its body may be as large as `max_body_mb` says, and not 1 MB."""

    role: str | None = None
    scopes: tuple[str, ...] = ()
    local: bool = False
    everybody: bool = False
    anybody: bool = False
    large_body: bool = False

    def admits(self, caller: Caller, *, is_local: bool = False) -> bool:
        """Says whether the caller may."""
        if self.everybody or (self.local and is_local) or (self.anybody and caller.kind != "nobody"):
            return True
        if self.role is not None and caller.may(self.role):
            return True
        return any(caller.has_scope(scope) for scope in self.scopes)

    def __str__(self) -> str:
        if self.everybody:
            return "everybody"
        words = ["whoever is signed in"] if self.anybody else []
        words += [self.role] if self.role else []
        words += [f"token {scope}" for scope in self.scopes]
        return ", ".join([*words, "this machine"] if self.local else words)


EVERYBODY = Access(everybody=True)
ANYBODY = Access(anybody=True)


def needs(
    role: str | None = None, *scopes: str, access: Access | None = None, local: bool = False, large_body: bool = False
) -> Callable[[F], F]:
    """Says of an endpoint who may use it: people with the role, or one above it, and tokens with one of the scopes."""

    def mark(endpoint: F) -> F:
        setattr(endpoint, _ATTRIBUTE, access or Access(role, scopes, local=local, large_body=large_body))
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
        extra = {**(rest.pop("openapi_extra", None) or {}), "x-access": str(self.access)}
        super().__init__(path, endpoint, openapi_extra=extra, **rest)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, behind its guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await admit(request, self.access)
            if self.access.large_body:
                allow_body(request, service_of(request).settings.max_body)
            return await handle(request)

        return guarded


async def admit(request: Request, access: Access) -> None:
    """Notes who asks (`caller_of`). Raises Problem if they may not do it."""
    if access.everybody:
        return
    is_local = from_this_machine(request)
    if access.local and is_local and "authorization" not in request.headers:
        return
    caller = await identify(request)
    request.state.caller, request.state.who = caller, caller.actor.name if caller is not NOBODY else ""
    if caller.kind in ("person", "local"):
        check_origin(request, caller)
    if access.admits(caller, is_local=is_local):
        return
    if caller is not NOBODY:
        raise Problem(403, "not-allowed", f"expected {access}; got {_described(caller)}")
    if not await has_admin(service_of(request)):
        raise Problem(
            403,
            "no-administrator",
            "Before there is an administrator, only programs on this machine are answered. Make one there: patchbank "
            "users add NAME --role admin --password-stdin --data DIR",
        )
    raise Problem(
        401, "who", "Sign in, or send a token: Authorization: Bearer pb_...", headers={"WWW-Authenticate": "Bearer"}
    )


def caller_of(request: Request) -> Caller:
    """Who sends the request."""
    return cast(Caller, getattr(request.state, "caller", NOBODY))


def check_origin(request: Request, caller: Caller) -> None:
    """Raises Problem for a change that the page of another site asks for: browsers say where a request comes from, and
    send cookies by themselves."""
    if request.method in _SAFE:
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None and origin.lower() not in _origins(request):
        raise Problem(
            403,
            "other-site",
            f"The page of another site may not change anything here: it is {origin}, this is "
            f"{' or '.join(_origins(request))}. Behind a proxy, set trusted_proxies or public_url",
        )
    if site not in (None, "same-origin", "none"):
        raise Problem(403, "other-site", "The page of another site may not change anything here")
    if caller.kind == "person" and origin is None and site is None:
        raise Problem(403, "no-origin", "expected a header Origin, as browsers send it; programs use a token")


def _origins(request: Request) -> tuple[str, ...]:
    """What this service is called, as an Origin."""
    here = f"{request.scope['scheme']}://{request.headers.get('host', '')}".lower()
    public = service_of(request).settings.public_url
    return (here, public.lower().rstrip("/")) if public else (here,)


def _described(caller: Caller) -> str:
    if caller.token:
        return f"a token with {caller.token.scopes}"
    return f"the role {caller.role}"
