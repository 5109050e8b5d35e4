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


def add_user(connection: Connection, by: Actor, name: str, role: str, argon2: str, reason: str = "") -> str:
    """A new person. argon2: `passwords.hashed` of the password. Returns the name."""
    return users.add(connection, name, role, argon2=argon2, by=by, reason=reason).name


def set_password(connection: Connection, by: Actor, name: str, argon2: str, reason: str = "") -> str:
    """Another password for a person. Returns the name as it is kept, as all of these do."""
    user = users.by_name(connection, name)
    users.set_password(connection, user.id, argon2, by=by, reason=reason)
    return user.name


def set_role(connection: Connection, by: Actor, name: str, role: str, reason: str = "") -> str:
    """Another role for a person."""
    user = users.by_name(connection, name)
    users.set_role(connection, user.id, role, by=by, reason=reason)
    return user.name


def disable_user(connection: Connection, by: Actor, name: str, reason: str = "") -> str:
    """A person cannot sign in any more."""
    user = users.by_name(connection, name)
    users.disable(connection, user.id, by=by, reason=reason)
    return user.name


def enable_user(connection: Connection, by: Actor, name: str, reason: str = "") -> str:
    """A person can sign in again."""
    user = users.by_name(connection, name)
    users.enable(connection, user.id, by=by, reason=reason)
    return user.name


def add_token(
    connection: Connection,
    by: Actor,
    name: str,
    scopes: list[str],
    prefix: str,
    secret_sha256: str,
    stream: str | None = None,
    expires_at: str | None = None,
    reason: str = "",
) -> str:
    """A new token; prefix and secret_sha256 are those of `tokens.new_secret`. expires_at: ISO 8601. Returns the
    name."""
    stream_id = None if stream is None else streams.by_name(connection, stream).id
    until = None if expires_at is None else datetime.fromisoformat(expires_at)
    return tokens.add(
        connection, name, scopes, prefix, secret_sha256, stream_id=stream_id, expires_at=until, by=by, reason=reason
    ).name


def revoke_token(connection: Connection, by: Actor, name: str, reason: str = "") -> list[str]:
    """A token is worth nothing any more. name: also its prefix. Returns the prefixes of what was revoked."""
    found = [each for each in tokens.listed(connection) if name in (each.name, each.prefix) and not each.revoked_at]
    if not found:
        raise StoreNotFoundError(f"there is no token {name!r} that could be revoked")
    for each in found:
        tokens.revoke(connection, each.id, by=by, reason=reason)
    return [each.prefix for each in found]


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
