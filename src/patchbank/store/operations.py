"""What commands change in a store: by themselves, or by asking the service that has it open (`requests`).

Arguments and answers are JSON values without secrets: a password comes as its hash, a token as its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from patchbank.errors import StoreNotFoundError, StoreValueError
from patchbank.store import streams, tokens, users
from patchbank.store.values import Actor


def add_user(connection: Connection, by: Actor, name: str, role: str, argon2: str) -> str:
    """A new person. argon2: `passwords.hashed` of the password. Returns the name."""
    return users.add(connection, name, role, argon2=argon2, by=by).name


def set_password(connection: Connection, by: Actor, name: str, argon2: str) -> None:
    """Another password for a person."""
    users.set_password(connection, users.by_name(connection, name).id, argon2, by=by)


def set_role(connection: Connection, by: Actor, name: str, role: str) -> None:
    """Another role for a person."""
    users.set_role(connection, users.by_name(connection, name).id, role, by=by)


def disable_user(connection: Connection, by: Actor, name: str) -> None:
    """A person cannot sign in any more."""
    users.disable(connection, users.by_name(connection, name).id, by=by)


def enable_user(connection: Connection, by: Actor, name: str) -> None:
    """A person can sign in again."""
    users.enable(connection, users.by_name(connection, name).id, by=by)


def add_token(
    connection: Connection,
    by: Actor,
    name: str,
    scopes: list[str],
    prefix: str,
    secret_sha256: str,
    stream: str | None = None,
    expires_at: str | None = None,
) -> str:
    """A new token; prefix and secret_sha256 are those of `tokens.new_secret`. expires_at: ISO 8601. Returns the
    name."""
    stream_id = None if stream is None else streams.by_name(connection, stream).id
    until = None if expires_at is None else datetime.fromisoformat(expires_at)
    made = tokens.add(connection, name, scopes, prefix, secret_sha256, stream_id=stream_id, expires_at=until, by=by)
    return made.name


def revoke_token(connection: Connection, by: Actor, name: str) -> None:
    """A token is worth nothing any more. name: also its prefix."""
    found = [each for each in tokens.listed(connection) if name in (each.name, each.prefix) and not each.revoked_at]
    if not found:
        raise StoreNotFoundError(f"there is no token {name!r} that could be revoked")
    for each in found:
        tokens.revoke(connection, each.id, by=by)


OPERATIONS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (add_user, set_password, set_role, disable_user, enable_user, add_token, revoke_token)
}


def perform(connection: Connection, by: Actor, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Does one of OPERATIONS. Raises StoreValueError for an unknown one, or wrong arguments."""
    if operation not in OPERATIONS:
        raise StoreValueError(f"there is no operation {operation!r}; there are {', '.join(OPERATIONS)}")
    try:
        return OPERATIONS[operation](connection, by, **arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, StoreValueError):
            raise
        raise StoreValueError(f"{operation}: {error}") from error
