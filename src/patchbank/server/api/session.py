"""Signing in and out, and one's own password and language."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from patchbank.errors import StoreValueError
from patchbank.server.access import ANYBODY, EVERYBODY, caller_of, check_origin, needs
from patchbank.server.api.routing import Given, Name, Told, router
from patchbank.server.callers import (
    Caller,
    address_of,
    drop_cookie,
    expires,
    from_this_machine,
    has_admin,
    session_secret,
    set_cookie,
)
from patchbank.server.logs import event
from patchbank.server.problems import Problem, responses
from patchbank.server.service import Service, service_of
from patchbank.store import audit_log, passwords, users
from patchbank.store.passwords import LONGEST
from patchbank.store.users import User

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = router("session")


class Login(Given):
    """Who wants to sign in."""

    name: Name
    password: str = Field(max_length=LONGEST)


class Choice(Given):
    """A person's own choices."""

    locale: Literal["", "en", "de"]


class NewPassword(Given):
    """Another password for oneself."""

    password: str = Field(max_length=LONGEST, description="The present one.")
    new_password: str = Field(max_length=LONGEST)


class Who(Told):
    """Who sends the request."""

    kind: Literal["person", "machine", "local"] = Field(
        description="local: a program on the service's machine, before there is an administrator."
    )
    name: str
    role: str | None = Field(description="viewer, operator, engineer or admin; machines have none.")
    scopes: list[str]
    locale: str


@routes.get("/session", summary="Who am I?", response_model=Who)
@needs(access=ANYBODY)
async def who_am_i(request: Request) -> Who:
    """Who the service takes the caller for."""
    return _who(caller_of(request))


@routes.post("/session", summary="Sign in", status_code=201, response_model=Who, responses=responses(401, 403, 429))
@needs(access=EVERYBODY)
async def sign_in(request: Request, login: Login) -> Response:
    """Begins a session, which the answer's cookie holds."""
    service = service_of(request)
    if not from_this_machine(request) and not await has_admin(service):
        raise Problem(403, "no-administrator", "Before there is an administrator, only this machine is answered")
    check_origin(request, Caller("local"))
    user = await authenticated(request, login.name, login.password)
    response = JSONResponse(_who(Caller("person", user=user)).model_dump(), 201)
    await _begin_session(request, response, user)
    return response


@routes.delete("/session", summary="Sign out", status_code=204)
@needs(access=ANYBODY)
async def sign_out(request: Request) -> Response:
    """Ends the session; without one, nothing happens."""
    response = Response(status_code=204)
    if secret := session_secret(request):
        await service_of(request).write(users.end_session, secret)
        drop_cookie(request, response)
    return response


@routes.patch("/session", summary="Choose a language", response_model=Who)
@needs("viewer")
async def choose(request: Request, choice: Choice) -> Who:
    """Sets the language of the pages for the person."""
    service, person = service_of(request), _person(request)
    await service.write(users.set_locale, person.id, choice.locale)
    return _who(Caller("person", user=await service.read(users.by_id, person.id)))


@routes.post("/session/password", summary="Change one's password", status_code=204, responses=responses(429))
@needs("viewer")
async def change_password(request: Request, given: NewPassword) -> Response:
    """All of the person's sessions end; this one goes on with a new cookie."""
    service, person = service_of(request), _person(request)
    await confirmed(request, given.password)
    argon2 = await run_in_threadpool(passwords.hashed, given.new_password)
    await service.write(users.set_password, person.id, argon2, by=person.actor)
    response = Response(status_code=204)
    await _begin_session(request, response, person)
    return response


async def authenticated(request: Request, name: str, password: str) -> User:
    """The person, if the password is right. Raises Problem: 401, or 429 after too many attempts."""
    service, address = service_of(request), address_of(request)
    service.attempts.check(name, address)
    found = await service.read(users.stored_hash, name)
    user = await run_in_threadpool(users.authenticate, found, password)
    if user is None:
        service.attempts.failed(name, address)
        event(logging.WARNING, "a login was refused", name=name, address=address)
        if found[0] is not None:
            await service.write(_note, found[0], "session.refuse", address)
        raise Problem(
            401, "wrong-password", "The name or the password is wrong", headers={"WWW-Authenticate": "Session"}
        )
    service.attempts.succeeded(name, address)
    if found[1] is not None and passwords.is_outdated(found[1]):
        argon2 = await run_in_threadpool(passwords.hashed, password)
        service.write_aside(users.rehash, user.id, found[1], argon2)
    return user


async def confirmed(request: Request, password: str) -> None:
    """Has a person say the password again, before a step that must not be a slip or another's. Programs on this machine
    have none, before there is an administrator. Raises Problem."""
    caller = caller_of(request)
    if caller.kind == "local":
        return
    user = await authenticated(request, _person(request).name, password)
    if user.id != _person(request).id:
        raise Problem(401, "wrong-password", "The password is another person's")


async def _begin_session(request: Request, response: Response, user: User) -> None:
    """A new session, whatever cookie came along: that one's ends."""
    service, secret = service_of(request), passwords.new_secret()
    await service.write(_begin, user, secret, session_secret(request), service, address_of(request))
    set_cookie(request, response, secret)


def _begin(connection: Connection, user: User, secret: str, before: str | None, service: Service, address: str) -> None:
    if before:
        users.end_session(connection, before)
    users.begin_session(connection, user.id, secret, expires(service), address)
    _note(connection, user, "session.begin", address)


def _note(connection: Connection, user: User, action: str, address: str) -> None:
    audit_log.append(connection, user.actor, action, f"user/{user.name}", new={"address": address})


def _person(request: Request) -> User:
    user = caller_of(request).user
    if user is None:
        raise StoreValueError("expected a person who has signed in; got a program on this machine")
    return user


def _who(caller: Caller) -> Who:
    if caller.kind == "nobody":
        raise Problem(401, "who", "Sign in, or send a token")
    return Who(
        kind=caller.kind,
        name=caller.user.name if caller.user else caller.token.name if caller.token else caller.actor.name,
        role=caller.role,
        scopes=caller.token.scopes.split() if caller.token else [],
        locale=caller.user.locale if caller.user else "",
    )
