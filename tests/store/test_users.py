"""People and tokens: who may do what, and that nothing secret is kept."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Connection, select

from patchbank import StoreBusyError, StoreConflictError, StoreNotFoundError, StoreValueError
from patchbank.store import audit_log, passwords, tokens, users, values
from patchbank.store.engine import Store
from patchbank.store.schema import ROLES, sessions
from patchbank.store.schema import tokens as token_table
from patchbank.store.users import User
from patchbank.store.values import Actor

ADMIN = Actor("root")
PASSWORD = "correct horse battery"


def test_a_person_signs_in_with_the_password_and_no_other(store: Store) -> None:
    anna = store.write(users.add, "Anna", "operator", argon2=passwords.hashed(PASSWORD), by=ADMIN)
    assert PASSWORD not in repr(store.read(users.stored_hash, "anna"))
    found = store.read(users.stored_hash, "anna")  # whatever the case
    signed_in = users.authenticate(found, PASSWORD)
    assert signed_in == anna
    assert users.authenticate(found, PASSWORD + "!") is None
    for nobody in ("nobody", "", "a\0b", "\ud800", "x" * 5000):
        assert users.authenticate(store.read(users.stored_hash, nobody), PASSWORD) is None
    store.write(users.disable, anna.id, by=ADMIN)
    assert users.authenticate(store.read(users.stored_hash, "Anna"), PASSWORD) is None
    store.write(users.enable, anna.id, by=ADMIN)
    assert users.authenticate(store.read(users.stored_hash, "Anna"), PASSWORD) is not None
    store.write(users.set_password, anna.id, passwords.hashed("another password"), by=ADMIN)
    assert users.authenticate(store.read(users.stored_hash, "Anna"), PASSWORD) is None


def test_names_are_taken_whatever_the_case(store: Store) -> None:
    store.write(users.add, "anna", "viewer")
    with pytest.raises(StoreConflictError, match="already"):
        store.write(users.add, "ANNA", "admin")
    store.write(users.add, "Jörg", "viewer")  # SQLite's lower() knows ASCII only
    for same in ("JÖRG", "Jo\u0308rg"):
        assert store.read(users.by_name, same).name == "Jörg"
        with pytest.raises(StoreConflictError, match="already"):
            store.write(users.add, same, "viewer")
    for wrong in ("", " anna", "a/b", "a\nb", "<b>", "x" * 201):
        with pytest.raises(StoreValueError):
            store.write(users.add, wrong, "viewer")
    with pytest.raises(StoreValueError, match="viewer, operator, engineer, admin"):
        store.write(users.add, "bert", "boss")


def test_roles_include_those_below(store: Store) -> None:
    people = [store.write(users.add, f"user {role}", role) for role in ROLES]
    allowed = [[person.may(role) for role in ROLES] for person in people]
    assert allowed == [[True] * (n + 1) + [False] * (3 - n) for n in range(4)]


def test_the_last_administrator_stays(store: Store) -> None:
    anna = store.write(users.add, "anna", "admin")
    for change in (
        lambda: store.write(users.disable, anna.id, by=ADMIN),
        lambda: store.write(users.set_role, anna.id, "viewer", by=ADMIN),
    ):
        with pytest.raises(StoreConflictError, match="last administrator"):
            change()
    assert store.read(users.has_admin)
    assert store.read(users.by_name, "anna").role == "admin"
    bert = store.write(users.add, "bert", "admin")
    both = [store.submit(users.disable, person.id, by=ADMIN) for person in (anna, bert)]
    assert sorted(future.exception() is None for future in both) == [False, True]
    assert store.read(users.has_admin)


def test_sessions_end(store: Store) -> None:
    anna = store.write(users.add, "anna", "admin")
    later, over = values.now() + timedelta(hours=1), values.now() - timedelta(seconds=1)
    secrets = [passwords.new_secret() for _ in range(4)]
    for secret, until in zip(secrets, (later, over, later, later), strict=True):
        store.write(users.begin_session, anna.id, secret, until, "127.0.0.1")

    def alive() -> list[bool]:
        return [store.read(users.of_session, secret) is not None for secret in secrets]

    assert alive() == [True, False, True, True]
    assert store.read(users.of_session, "guess") is None
    kept = store.read(lambda connection: connection.execute(select(sessions.c.token_sha256)).scalars().all())
    assert not set(kept) & set(secrets)
    assert store.write(users.sweep_sessions) == 1
    store.write(users.end_session, secrets[0])
    new = passwords.new_secret()
    store.write(users.rotate_session, secrets[2], new)
    assert alive() == [False, False, False, True]
    assert store.read(users.of_session, new) is not None
    store.write(users.extend_session, new, over)
    assert store.read(users.of_session, new) is None
    with pytest.raises(StoreNotFoundError):
        store.write(users.rotate_session, secrets[0], passwords.new_secret())
    store.write(users.set_role, store.write(users.add, "bert", "admin").id, "viewer", by=ADMIN)
    store.write(users.set_password, anna.id, passwords.hashed(PASSWORD), by=ADMIN)
    assert alive() == [False] * 4


def test_a_token_allows_its_scopes_and_its_stream(store: Store) -> None:
    from store import made

    stream = store.write(made.stream)
    secret = tokens.new_secret()
    token = store.write(tokens.add, "line 3", ["inspect"], secret.prefix, secret.sha256, stream_id=stream)
    assert store.read(tokens.of_text, secret.text) == token
    assert token.allows("inspect", stream)
    assert not token.allows("inspect", stream + 1)
    assert not token.allows("inspect")
    assert not token.allows("ingest", stream)
    assert secret.text.split("_")[2] not in repr(secret)

    def row(connection: Connection) -> str:
        return repr(connection.execute(select(token_table)).all())

    assert secret.text.split("_")[2] not in store.read(row)
    for wrong in ("", "pb_", secret.text[:-1], secret.text + "x", secret.text.swapcase(), tokens.new_secret().text):
        assert store.read(tokens.of_text, wrong) is None
    store.write(tokens.used, token.id)
    before = store.read(tokens.by_id, token.id).last_used_at
    store.write(tokens.used, token.id)
    assert store.read(tokens.by_id, token.id).last_used_at == before
    assert before is not None
    with pytest.raises(StoreConflictError, match="already"):
        store.write(tokens.add, "line 3", ["inspect"], *pair())
    store.write(tokens.revoke, token.id, by=ADMIN)
    assert store.read(tokens.of_text, secret.text) is None
    store.write(tokens.add, "line 3", ["inspect", "ingest"], *pair())
    assert [each.name for each in store.read(tokens.listed)] == ["line 3", "line 3"]


def pair() -> tuple[str, str]:
    secret = tokens.new_secret()
    return secret.prefix, secret.sha256


def test_a_token_expires_and_has_known_scopes(store: Store) -> None:
    secret = tokens.new_secret()
    over = values.now() - timedelta(seconds=1)
    store.write(tokens.add, "old", ["inspect"], secret.prefix, secret.sha256, expires_at=over)
    assert store.read(tokens.of_text, secret.text) is None
    for scopes in ([], ["everything"]):
        with pytest.raises(StoreValueError, match="scope"):
            store.write(tokens.add, "new", scopes, *pair())


def test_every_change_of_rights_is_in_the_audit_log(store: Store) -> None:
    anna = store.write(users.add, "anna", "admin", by=ADMIN, reason="first day")
    store.write(users.add, "bert", "admin", by=anna.actor)
    store.write(users.set_role, anna.id, "viewer", by=ADMIN, reason="left the team")
    token = store.write(tokens.add, "line 3", ["inspect"], *pair(), by=anna.actor)
    store.write(tokens.revoke, token.id, by=anna.actor)
    entries = store.read(audit_log.page)[::-1]
    told = [(each.action, each.object, each.actor, each.reason) for each in entries]
    assert told == [
        ("user.add", "user/anna", "root", "first day"),
        ("user.add", "user/bert", "anna", ""),
        ("user.role", "user/anna", "root", "left the team"),
        ("token.add", "token/line 3", "anna", ""),
        ("token.revoke", "token/line 3", "anna", ""),
    ]
    assert (entries[2].old, entries[2].new, entries[1].user_id) == ("admin", "viewer", anna.id)
    assert store.read(audit_log.verify).problems == ()


def test_hashes_are_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash takes 64 MiB: two at once, sixteen wait, and the rest is told to try again."""
    running, most, gate = [0], [0], threading.Event()

    class Slow:
        def hash(self, password: bytes) -> str:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            gate.wait(10)
            with lock:
                running[0] -= 1
            return ""

    lock = threading.Lock()
    monkeypatch.setattr(passwords, "_hasher", Slow)
    with ThreadPoolExecutor(40) as pool:
        futures = [pool.submit(passwords.hashed, PASSWORD) for _ in range(40)]
        until = time.monotonic() + 10
        while sum(future.done() for future in futures) < 22 and time.monotonic() < until:
            time.sleep(0.01)
        refused = [future for future in futures if future.done()]
        gate.set()
    assert most[0] == passwords.AT_ONCE
    assert len(refused) == 40 - passwords.AT_ONCE - passwords.WAITING
    assert all(isinstance(future.exception(), StoreBusyError) for future in refused)


def test_passwords_have_a_length() -> None:
    for wrong in ("short", "x" * 1001):
        with pytest.raises(StoreValueError, match="10 to 1000 characters"):
            passwords.hashed(wrong)
    assert not passwords.matches("x" * 5000, passwords.hashed(PASSWORD))
    assert not passwords.matches(PASSWORD, "no hash at all")
    assert passwords.matches("pässwörd \ud800 ok", passwords.hashed("pässwörd \ud800 ok"))
    assert "$argon2id$v=19$m=65536,t=3,p=4$" in passwords.hashed(PASSWORD)


def test_a_hash_of_other_costs_is_made_anew(store: Store) -> None:
    from argon2 import PasswordHasher

    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    anna: User = store.write(users.add, "anna", "viewer", argon2=old)
    assert passwords.is_outdated(old)
    assert users.authenticate(store.read(users.stored_hash, "anna"), PASSWORD) == anna
    new = passwords.hashed(PASSWORD)
    assert not passwords.is_outdated(new)
    store.write(users.rehash, anna.id, old, new)
    store.write(users.rehash, anna.id, old, "not this one")
    assert store.read(users.stored_hash, "anna")[1] == new
