"""People: who they are and what they may do. For administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from patchbank.server.access import caller_of, needs
from patchbank.server.api.routing import Given, Id, Name, Text, Time, Told, router
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of
from patchbank.store import passwords, users
from patchbank.store.passwords import LONGEST, SHORTEST
from patchbank.store.values import Actor

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = router("users")

Role = Literal["viewer", "operator", "engineer", "admin"]
Locale = Literal["", "en", "de"]
Password = Annotated[str, Field(min_length=SHORTEST, max_length=LONGEST)]


class NewUser(Given):
    """A person who is to be added."""

    name: Name
    role: Role
    password: Password
    locale: Locale = ""
    reason: Text = ""


class UserChange(Given):
    """What is to change; what is left out stays."""

    role: Role | None = None
    disabled: bool | None = None
    password: Password | None = None
    reason: Text = ""


class User(Told):
    """A person."""

    id: int
    name: str
    role: Role
    locale: str
    has_password: bool
    created_at: Time
    last_login_at: Time | None
    disabled_at: Time | None


@routes.get("/users", summary="All people", response_model=list[User])
@needs("admin")
async def listed(request: Request) -> list[users.User]:
    """Everybody, by name."""
    return await service_of(request).read(users.listed)


@routes.post("/users", summary="Add a person", status_code=201, response_model=User, responses=responses(409))
@needs("admin")
async def add(request: Request, new: NewUser) -> users.User:
    """Adds a person. The first administrator ends the time in which this machine needs no password."""
    service, by = service_of(request), caller_of(request).actor
    argon2 = await run_in_threadpool(passwords.hashed, new.password)
    return await service.write(
        users.add, new.name, new.role, argon2=argon2, locale=new.locale, by=by, reason=new.reason
    )


@routes.patch("/users/{user_id}", summary="Change a person", response_model=User, responses=responses(409))
@needs("admin")
async def change(request: Request, user_id: Id, given: UserChange) -> users.User:
    """Changes role or password, or whether the person may sign in. All of the person's sessions end."""
    if given.role is None and given.disabled is None and given.password is None:
        raise Problem(422, "invalid-request", "expected role, disabled or password; got none of them")
    argon2 = await run_in_threadpool(passwords.hashed, given.password) if given.password else None
    return await service_of(request).write(_change, user_id, given, argon2, caller_of(request).actor)


def _change(connection: Connection, user_id: int, given: UserChange, argon2: str | None, by: Actor) -> users.User:
    user = users.by_id(connection, user_id)
    if given.role is not None and given.role != user.role:
        users.set_role(connection, user_id, given.role, by=by, reason=given.reason)
    if given.disabled is not None and given.disabled != (user.disabled_at is not None):
        (users.disable if given.disabled else users.enable)(connection, user_id, by=by, reason=given.reason)
    if argon2 is not None:
        users.set_password(connection, user_id, argon2, by=by, reason=given.reason)
    return users.by_id(connection, user_id)
