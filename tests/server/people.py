"""Callers of every kind, with what they send."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from patchbank.server.service import Service
from patchbank.store import passwords, tokens, users
from patchbank.store.schema import ROLES, SCOPES

PASSWORD = "correct horse battery"  # of all people here
HASH = passwords.hashed(PASSWORD)
ORIGIN = {"Origin": "http://127.0.0.1"}


def add_person(service: Service, name: str, role: str) -> users.User:
    return service.store.write(users.add, name, role, argon2=HASH)


def signed_in(service: Service, name: str) -> dict[str, str]:
    """The headers of a person with a new session, as a browser sends them."""
    user = service.store.read(users.by_name, name)
    secret = passwords.new_secret()
    end = datetime.now(UTC) + timedelta(hours=1)
    service.store.write(users.begin_session, user.id, secret, end, "127.0.0.1")
    return {"Cookie": f"patchbank={secret}", **ORIGIN}


def token(service: Service, *scopes: str, name: str = "", **rest) -> dict[str, str]:
    """The headers of a machine with a new token."""
    secret = tokens.new_secret()
    name = name or f"machine {secret.prefix}"
    service.store.write(tokens.add, name, scopes, secret.prefix, secret.sha256, **rest)
    return {"Authorization": f"Bearer {secret.text}"}


def everybody(service: Service) -> dict[str, Mapping[str, str]]:
    """One caller of every kind: roles, scopes, nobody."""
    for role in ROLES:
        add_person(service, role, role)
    people = {role: signed_in(service, role) for role in ROLES}
    return {"nobody": {}, **people, **{f"token {scope}": token(service, scope) for scope in SCOPES}}
