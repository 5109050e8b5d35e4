"""Tokens of machines: `pb_<prefix>_<secret>`. The prefix finds the row, and only a digest of the secret is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, or_, select, update

from patchbank.errors import StoreConflictError, StoreValueError
from patchbank.store import audit_log, passwords, values
from patchbank.store.schema import SCOPES, tokens
from patchbank.store.values import SYSTEM, Actor

_FORM = re.compile(r"pb_([0-9A-Za-z]{8})_([0-9A-Za-z]{43})")
_USE_IS_KEPT = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, without its secret. scopes: what it allows, separated by spaces. stream_id: None = all streams."""

    id: int
    name: str
    prefix: str
    scopes: str
    stream_id: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    @property
    def actor(self) -> Actor:
        """Returns the token as one who does something."""
        return Actor(f"token {self.name}", token_id=self.id)

    def allows(self, scope: str, stream_id: int | None = None) -> bool:
        """Says whether it has the scope, for this stream."""
        return scope in self.scopes.split() and self.stream_id in (None, stream_id)


@dataclass(frozen=True, slots=True)
class Secret:
    """A new token. text: what the machine sends; it cannot be shown again."""

    text: str

    @property
    def prefix(self) -> str:
        """Returns what the row is found by."""
        return self.text.split("_")[1]

    @property
    def sha256(self) -> str:
        """Returns what is kept of the rest."""
        return passwords.digest(self.text.split("_")[2])

    def __repr__(self) -> str:
        return f"Secret(pb_{self.prefix}_...)"


def new_secret() -> Secret:
    """A token that nobody has."""
    return Secret(f"pb_{passwords.new_secret(8)}_{passwords.new_secret(43)}")


def add(
    connection: Connection,
    name: str,
    scopes: Sequence[str],
    prefix: str,
    secret_sha256: str,
    *,
    stream_id: int | None = None,
    expires_at: datetime | None = None,
    by: Actor = SYSTEM,
    reason: str = "",
) -> Token:
    """A new token; prefix and secret_sha256 are those of `new_secret`. Raises StoreConflictError if a token of this
    name is in use."""
    for scope in scopes:
        values.choice(scope, SCOPES, "scope")
    if not scopes:
        raise StoreValueError(f"scope: expected at least one of {', '.join(SCOPES)}; got none")
    used = select(tokens.c.id).where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
    if values.exists(connection, used.where(or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > values.now()))):
        raise StoreConflictError(f"there is a token {name} already; choose another name, or revoke that one first")
    row = {
        "name": values.name(name, "token"),
        "prefix": prefix,
        "secret_sha256": values.sha256(secret_sha256, "secret"),
        "scopes": " ".join(sorted(set(scopes))),
        "stream_id": stream_id,
        "created_at": values.now(),
        "created_by": by.name,
        "expires_at": expires_at,
    }
    number = connection.execute(insert(tokens).values(row).returning(tokens.c.id)).scalar_one()
    about = {"scopes": row["scopes"], "prefix": prefix}
    audit_log.append(connection, by, "token.add", f"token/{name}", new=about, reason=reason)
    return by_id(connection, number)


def by_id(connection: Connection, token_id: int) -> Token:
    """The token. Raises StoreNotFoundError."""
    query = select(*values.columns(Token, tokens)).where(tokens.c.id == token_id)
    return values.found(values.one_of(connection, Token, query), f"token {token_id}")


def listed(connection: Connection) -> list[Token]:
    """All tokens, the newest first."""
    return values.all_of(connection, Token, select(*values.columns(Token, tokens)).order_by(tokens.c.id.desc()))


def of_text(connection: Connection, text: str) -> Token | None:
    """The token that a machine has sent; None if there is none, or it is revoked or has expired."""
    form = _FORM.fullmatch(text)
    if not form:
        return None
    query = select(tokens.c.secret_sha256, *values.columns(Token, tokens)).where(tokens.c.prefix == form[1])
    row = connection.execute(query).first()
    if row is None or not passwords.same(row[0], passwords.digest(form[2])):
        return None
    token = Token(*row[1:])
    over = token.expires_at is not None and token.expires_at <= values.now()
    return None if over or token.revoked_at is not None else token


def used(connection: Connection, token_id: int) -> None:
    """Notes that the token was used; at most once a minute."""
    before = values.now() - _USE_IS_KEPT
    old = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < before)
    connection.execute(update(tokens).where(tokens.c.id == token_id, old).values(last_used_at=values.now()))


def revoke(connection: Connection, token_id: int, *, by: Actor, reason: str = "") -> None:
    """The token is worth nothing from now on."""
    token = by_id(connection, token_id)
    if token.revoked_at is None:
        connection.execute(update(tokens).where(tokens.c.id == token_id).values(revoked_at=values.now()))
        audit_log.append(connection, by, "token.revoke", f"token/{token.name}", reason=reason)
