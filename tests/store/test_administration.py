"""Commands change a store before a service runs, while it runs, and when it is killed meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchbank import StoreConflictError, StoreError, StoreNotFoundError, StoreUnavailableError, StoreValueError
from patchbank.store import audit_log, passwords, requests, tokens, users
from patchbank.store.administration import administer, open_to_read
from patchbank.store.engine import open_store
from patchbank.store.folder import made as folder_of

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aaaa"
ANNA = {"name": "anna", "role": "admin", "argon2": HASH}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the data folder open."""
    code = "import sys, time; from patchbank.store.engine import open_store\n"
    code += "with open_store(sys.argv[1]): print('open', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_before_a_service_runs(tmp_path: Path) -> None:
    assert administer(tmp_path / "data", None, "root", "add_user", ANNA) == "anna"
    with open_store(tmp_path / "data") as store:
        assert store.read(users.by_name, "anna").role == "admin"
        (entry,) = store.read(audit_log.page)
        assert (entry.actor, entry.action) == ("root", "user.add")


def test_while_a_service_runs(tmp_path: Path, service: subprocess.Popen[str]) -> None:
    """The service does it, because a second process that writes could damage the database."""
    data = tmp_path / "data"
    secret = tokens.new_secret()
    assert administer(data, None, "root", "add_user", ANNA) == "anna"
    pair = {"prefix": secret.prefix, "secret_sha256": secret.sha256}
    assert administer(data, None, "root", "add_token", {"name": "line", "scopes": ["inspect"], **pair}) == "line"
    with open_to_read(data, None) as reading:
        assert reading.read(users.by_name, "anna").role == "admin"
        assert reading.read(tokens.of_text, secret.text) is not None
        with pytest.raises(Exception, match="readonly"):
            reading.read(users.add, "bert", "viewer")
    with pytest.raises(StoreConflictError, match="already"):
        administer(data, None, "root", "add_user", ANNA)
    with pytest.raises(StoreValueError, match="viewer, operator"):
        administer(data, None, "root", "add_user", ANNA | {"name": "bert", "role": "boss"})
    with pytest.raises(StoreNotFoundError, match="token"):
        administer(data, None, "root", "revoke_token", {"name": "no such"})
    assert list((data / "requests").iterdir()) == []
    assert service.poll() is None


def test_a_service_that_is_killed_meanwhile(tmp_path: Path, service: subprocess.Popen[str]) -> None:
    """The command notices, and does it itself."""
    data = tmp_path / "data"
    os.kill(service.pid, 19)  # SIGSTOP: it has the folder open, and does not answer
    done: list[str] = []
    command = threading.Thread(target=lambda: done.append(administer(data, None, "root", "add_user", ANNA)))
    command.start()
    time.sleep(0.5)
    assert done == []
    service.kill()
    service.wait()
    command.join(30)
    assert done == ["anna"]
    with open_to_read(data, None) as reading:
        assert [each.name for each in reading.read(users.listed)] == ["anna"]
    assert list((data / "requests").iterdir()) == []


def test_a_service_that_does_not_answer(
    tmp_path: Path, service: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(service.pid, 19)
    monkeypatch.setattr(requests, "_PATIENCE", 0.3)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        administer(tmp_path / "data", None, "root", "add_user", ANNA)
    assert list((tmp_path / "data" / "requests").iterdir()) == []
    os.kill(service.pid, 18)


def test_every_operation(place: tuple[Path, str | None]) -> None:
    data, database = place
    secret = tokens.new_secret()
    pair = {"prefix": secret.prefix, "secret_sha256": secret.sha256}

    def do(operation: str, **arguments: object) -> object:
        return administer(data, database, "root", operation, arguments)

    do("add_user", **ANNA)
    do("add_user", **ANNA | {"name": "bert"})
    do("set_role", name="bert", role="viewer")
    do("set_password", name="bert", argon2=passwords.hashed("another password"))
    do("disable_user", name="bert")
    do("add_token", name="line", scopes=["inspect"], expires_at="2999-01-01T00:00:00+00:00", **pair)
    with open_to_read(data, database) as reading:
        bert = reading.read(users.by_name, "bert")
        assert (bert.role, bert.disabled_at is None) == ("viewer", False)
        assert reading.read(tokens.of_text, secret.text) is not None
    do("enable_user", name="BERT")
    do("revoke_token", name="line")
    with open_to_read(data, database) as reading:
        assert users.authenticate(reading.read(users.stored_hash, "bert"), "another password") is not None
        assert reading.read(tokens.of_text, secret.text) is None
    for wrong, message in (
        (("fly", {}), "there is no operation"),
        (("add_user", {"name": "carl"}), "missing"),
        (("add_token", {"name": "x", "scopes": ["inspect"], **pair, "expires_at": "soon"}), "isoformat"),
    ):
        with pytest.raises(StoreValueError, match=message):
            administer(data, database, "root", *wrong)
    with pytest.raises(StoreNotFoundError, match="stream"):
        do("add_token", name="x", scopes=["inspect"], stream="nowhere", **pair)


def test_requests_are_not_trusted(tmp_path: Path) -> None:
    """Whatever lies in the folder: the service answers with an error, and goes on."""
    with open_store(tmp_path / "data"):
        place = folder_of(tmp_path / "data").requests
        contents = [b"", b"no json", b"[]", b'{"arguments": 1}', b"x" * 70_000, b"\xff", b'{"arguments": {"a": 1}}']
        for number, content in enumerate(contents):
            (place / f"{number}.request").write_bytes(content)
        (place / "old.answer").write_bytes(b"{}")
        os.utime(place / "old.answer", (1, 1))
        (place / "old.request").write_bytes(b"{}")
        os.utime(place / "old.request", (1, 1))
        until = time.monotonic() + 20
        expected = [place / f"{number}.answer" for number in range(len(contents))]
        while not all(path.exists() for path in expected) and time.monotonic() < until:
            time.sleep(0.05)
        answers = [json.loads(path.read_bytes()) for path in expected]
        assert all("error" in answer for answer in answers)
        assert not list(place.glob("*.request"))
        assert not (place / "old.answer").exists()


def test_requests_are_read_by_their_owner_only(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "data")
    requests.Asked(place, "root", "add_user", ANNA)
    (path,) = place.requests.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert place.path.stat().st_mode & 0o777 == 0o700


def test_reading_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no data folder"):
        open_to_read(tmp_path / "nothing", None)
    assert not (tmp_path / "nothing").exists()
