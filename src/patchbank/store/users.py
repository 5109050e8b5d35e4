"""People, and the tokens of machines: who they are, and what they may do. Every change stands in the audit log.

Hashing a password takes a tenth of a second: do it before a write (`passwords.hashed`, `authenticate`), not in it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from patchbank.errors import StoreConflictError, StoreNotFoundError, StoreValueError
from patchbank.store import audit_log, passwords, values
from patchbank.store.schema import ROLES, sessions, users
from patchbank.store.values import SYSTEM, Actor

LOCALES = ("", "en", "de")


@dataclass(frozen=True, slots=True)
class User:
    """A person. locale: "" = the browser's. has_password: False signs in elsewhere only."""

    id: int
    name: str
    role: str
    locale: str
    subject: str | None
    has_password: bool
    created_at: datetime
    last_login_at: datetime | None
    disabled_at: datetime | None

    @property
    def actor(self) -> Actor:
        """Returns the person as one who does something."""
        return Actor(self.name, user_id=self.id)

    def may(self, role: str) -> bool:
        """Says whether the person has this role, or one above it."""
        return self.disabled_at is None and ROLES.index(self.role) >= ROLES.index(role)


_COLUMNS = values.columns(User, users, has_password=users.c.argon2.is_not(None))


def add(
    connection: Connection,
    name: str,
    role: str,
    *,
    argon2: str | None = None,
    subject: str | None = None,
    locale: str = "",
    by: Actor = SYSTEM,
    reason: str = "",
) -> User:
    """A new person. argon2: `passwords.hashed` of the password. Raises StoreConflictError if the name is taken."""
    name = values.name(name, "user")
    row = {
        "name": name,
        "name_key": _key(name),
        "role": values.choice(role, ROLES, "role"),
        "locale": values.choice(locale, LOCALES, "locale"),
        "argon2": argon2,
        "subject": subject and values.text(subject, "subject"),
        "created_at": values.now(),
        "created_by": by.name,
        "password_at": values.now() if argon2 else None,
    }
    if not values.insert_new(connection, users, row):
        raise StoreConflictError(f"there is a user {name} already; choose another name, or change that one's password")
    user = by_name(connection, name)
    audit_log.append(connection, by, "user.add", f"user/{name}", new={"role": role}, reason=reason)
    return user


def by_name(connection: Connection, name: str) -> User:
    """The person of this name, whatever the case. Raises StoreNotFoundError."""
    query = select(*_COLUMNS).where(users.c.name_key == _key(name))
    return values.found(values.one_of(connection, User, query), f"user {name}")


def by_id(connection: Connection, user_id: int) -> User:
    """The person. Raises StoreNotFoundError."""
    return values.found(
        values.one_of(connection, User, select(*_COLUMNS).where(users.c.id == user_id)), f"user {user_id}"
    )


def by_subject(connection: Connection, subject: str) -> User | None:
    """The person with this identity at the OIDC provider."""
    return values.one_of(connection, User, select(*_COLUMNS).where(users.c.subject == subject))


def listed(connection: Connection) -> list[User]:
    """Everybody, by name."""
    return values.all_of(connection, User, select(*_COLUMNS).order_by(users.c.name_key))


def has_admin(connection: Connection) -> bool:
    """Says whether an administrator exists; before the first, the service answers its own machine only."""
    return values.exists(connection, select(users.c.id).where(users.c.role == "admin", users.c.disabled_at.is_(None)))


def stored_hash(connection: Connection, name: str) -> tuple[User | None, str | None]:
    """The person of this name and the hash of the password; for `authenticate`."""
    try:
        key = _key(name)
    except StoreValueError:  # a name that nobody can have
        return None, None
    query = select(users.c.argon2, *_COLUMNS).where(users.c.name_key == key)
    row = connection.execute(query).first()
    return (User(*row[1:]), row[0]) if row else (None, None)


def authenticate(found: tuple[User | None, str | None], password: str) -> User | None:
    """The person, if the password is right and the person is not disabled. Without a connection, because it takes a
    tenth of a second; just as long for a name that does not exist. found: `store.read(users.stored_hash, name)`."""
    user, stored = found
    right = passwords.matches(password, stored)
    return user if right and user is not None and user.disabled_at is None else None


def set_password(connection: Connection, user_id: int, argon2: str, *, by: Actor, reason: str = "") -> None:
    """Another password; all sessions of the person end. argon2: `passwords.hashed` of it."""
    user = by_id(connection, user_id)
    connection.execute(update(users).where(users.c.id == user_id).values(argon2=argon2, password_at=values.now()))
    end_sessions(connection, user_id)
    audit_log.append(connection, by, "user.password", f"user/{user.name}", reason=reason)


def rehash(connection: Connection, user_id: int, before: str, argon2: str) -> None:
    """The same password hashed with today's costs, unless it was changed meanwhile."""
    connection.execute(update(users).where(users.c.id == user_id, users.c.argon2 == before).values(argon2=argon2))


def set_role(connection: Connection, user_id: int, role: str, *, by: Actor, reason: str = "") -> None:
    """Another role; all sessions of the person end. Raises StoreConflictError for the last administrator."""
    user = by_id(connection, user_id)
    values.choice(role, ROLES, "role")
    connection.execute(update(users).where(users.c.id == user_id).values(role=role))
    _keep_an_admin(connection, user)
    end_sessions(connection, user_id)
    audit_log.append(connection, by, "user.role", f"user/{user.name}", old=user.role, new=role, reason=reason)


def set_locale(connection: Connection, user_id: int, locale: str) -> None:
    """Another language; a person's own choice, and not in the audit log."""
    values.choice(locale, LOCALES, "locale")
    connection.execute(update(users).where(users.c.id == user_id).values(locale=locale))


def disable(connection: Connection, user_id: int, *, by: Actor, reason: str = "") -> None:
    """The person can no longer sign in, and all sessions end. Raises StoreConflictError for the last administrator."""
    user = by_id(connection, user_id)
    connection.execute(update(users).where(users.c.id == user_id).values(disabled_at=values.now()))
    _keep_an_admin(connection, user)
    end_sessions(connection, user_id)
    audit_log.append(connection, by, "user.disable", f"user/{user.name}", reason=reason)


def enable(connection: Connection, user_id: int, *, by: Actor, reason: str = "") -> None:
    """The person may sign in again."""
    user = by_id(connection, user_id)
    connection.execute(update(users).where(users.c.id == user_id).values(disabled_at=None))
    audit_log.append(connection, by, "user.enable", f"user/{user.name}", reason=reason)


def begin_session(connection: Connection, user_id: int, secret: str, expires_at: datetime, address: str) -> None:
    """A session. secret: what the cookie holds (`passwords.new_secret`); only its digest is kept. Make a new one at
    each login, whatever cookie came with it."""
    row = {
        "token_sha256": passwords.digest(secret),
        "user_id": user_id,
        "created_at": values.now(),
        "expires_at": expires_at,
        "last_seen_at": values.now(),
        "address": values.text(address, "address"),
    }
    connection.execute(insert(sessions).values(row))
    connection.execute(update(users).where(users.c.id == user_id).values(last_login_at=values.now()))


def of_session(connection: Connection, secret: str) -> User | None:
    """The person whose session this is; None if it has ended, or the person is disabled."""
    query = (
        select(*_COLUMNS)
        .join(sessions, sessions.c.user_id == users.c.id)
        .where(sessions.c.token_sha256 == passwords.digest(secret))
        .where(sessions.c.expires_at > values.now(), users.c.disabled_at.is_(None))
    )
    return values.one_of(connection, User, query)


def extend_session(connection: Connection, secret: str, expires_at: datetime) -> None:
    """The session was used; it ends at this time."""
    chosen = sessions.c.token_sha256 == passwords.digest(secret)
    connection.execute(update(sessions).where(chosen).values(expires_at=expires_at, last_seen_at=values.now()))


def rotate_session(connection: Connection, secret: str, new: str) -> None:
    """Another secret for the same session: after a change of what it may do. Raises StoreNotFoundError."""
    chosen = sessions.c.token_sha256 == passwords.digest(secret)
    if connection.execute(update(sessions).where(chosen).values(token_sha256=passwords.digest(new))).rowcount != 1:
        raise StoreNotFoundError("the session has ended; sign in again")


def end_session(connection: Connection, secret: str) -> None:
    """The session ends now."""
    connection.execute(delete(sessions).where(sessions.c.token_sha256 == passwords.digest(secret)))


def end_sessions(connection: Connection, user_id: int) -> None:
    """All sessions of a person end."""
    connection.execute(delete(sessions).where(sessions.c.user_id == user_id))


def sweep_sessions(connection: Connection) -> int:
    """Removes sessions that have ended. Returns how many."""
    return connection.execute(delete(sessions).where(sessions.c.expires_at <= values.now())).rowcount


def _key(name: str) -> str:
    """Names that people take for the same one are the same. Raises StoreValueError for what no database keeps."""
    return unicodedata.normalize("NFKC", values.text(name, "user")).casefold()


def _keep_an_admin(connection: Connection, user: User) -> None:
    """Called after the change, which is undone by the error. In PostgreSQL, two such changes wait for each other."""
    if user.role == "admin" and user.disabled_at is None:
        rest = select(users.c.id).where(users.c.role == "admin", users.c.disabled_at.is_(None))
        if connection.dialect.name == "postgresql":
            connection.execute(select(users.c.id).where(users.c.role == "admin").order_by(users.c.id).with_for_update())
        if connection.execute(rest.limit(1)).first() is None:
            raise StoreConflictError(f"{user.name} is the last administrator; make another one first")
