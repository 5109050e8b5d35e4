"""`patchbank users`: the people of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.options import command
from patchbank.cli.service_data import (
    FOLDER,
    AsJson,
    Data,
    Database,
    PasswordStdin,
    Reason,
    change,
    hash_of_new_password,
    reading,
)
from patchbank.cli.terminal import say, say_json

if TYPE_CHECKING:
    from patchbank.store.users import User

app = typer.Typer(help="The people of a service: add, list, disable, enable, role, password.", no_args_is_help=True)

_ROLES = "viewer|operator|engineer|admin"
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the person signs in with.")]


@command(app, "users add")
def add(
    name: Name,
    role: Annotated[str, typer.Option("--role", metavar=_ROLES, help="What the person may do.")],
    password_stdin: PasswordStdin = False,
    reason: Reason = "",
    data: Data = FOLDER,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Add a person, also while the service runs. Before the first administrator, the service answers its own machine
    only."""
    argon2 = hash_of_new_password(password_stdin)
    added = change(data, database, "add_user", {"name": name, "role": role, "argon2": argon2, "reason": reason})
    _told({"name": added, "role": role}, f"user {added} added, role {role}", as_json)


@command(app, "users list")
def list_all(data: Data = FOLDER, database: Database = None, as_json: AsJson = False) -> None:
    """List the people: name, role, last login, and who is disabled."""
    from patchbank.store import users

    with reading(data, database) as store:
        found = store.read(users.listed)
    if as_json:
        say_json({"users": [_facts(user) for user in found]})
        return
    for user in found:
        seen = f"last login {user.last_login_at:%Y-%m-%d %H:%M} UTC" if user.last_login_at else "never signed in"
        say(f"{user.name:<20} {user.role:<9} {seen}" + (", disabled" if user.disabled_at else ""))


@command(app, "users role")
def role(
    name: Name,
    to: Annotated[str, typer.Argument(metavar=_ROLES, help="What the person may do from now on.")],
    reason: Reason = "",
    data: Data = FOLDER,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Give a person another role. It holds from the next request on; the person has to sign in again."""
    found = change(data, database, "set_role", {"name": name, "role": to, "reason": reason})
    _told({"name": found, "role": to}, f"user {found} has the role {to}", as_json)


@command(app, "users password")
def password(
    name: Name,
    password_stdin: PasswordStdin = False,
    reason: Reason = "",
    data: Data = FOLDER,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Give a person another password. All sessions of the person end."""
    argon2 = hash_of_new_password(password_stdin)
    found = change(data, database, "set_password", {"name": name, "argon2": argon2, "reason": reason})
    _told({"name": found}, f"user {found} has another password", as_json)


@command(app, "users disable")
def disable(
    name: Name, reason: Reason = "", data: Data = FOLDER, database: Database = None, as_json: AsJson = False
) -> None:
    """Keep a person from signing in. All sessions end; what the person did stays in the audit log."""
    found = change(data, database, "disable_user", {"name": name, "reason": reason})
    _told({"name": found, "disabled": True}, f"user {found} is disabled", as_json)


@command(app, "users enable")
def enable(
    name: Name, reason: Reason = "", data: Data = FOLDER, database: Database = None, as_json: AsJson = False
) -> None:
    """Let a person sign in again."""
    found = change(data, database, "enable_user", {"name": name, "reason": reason})
    _told({"name": found, "disabled": False}, f"user {found} may sign in", as_json)


def _told(facts: dict[str, Any], sentence: str, as_json: bool) -> None:
    if as_json:
        say_json(facts)
    else:
        say(sentence)


def _facts(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role,
        "disabled": user.disabled_at is not None,
        "has_password": user.has_password,
        "created_at": user.created_at.isoformat(),
        "last_login_at": user.last_login_at and user.last_login_at.isoformat(),
    }
