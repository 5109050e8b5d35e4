"""Commands about people, tokens and the audit log: what scripts rely on, and what happens while a service runs."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from patchbank.store import passwords, tokens, users
from patchbank.store.administration import open_to_read
from patchbank.store.engine import open_store

from .conftest import failure, run

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch):
    """Hashes that cost nothing: many people are added here."""
    monkeypatch.setattr(passwords, "hashed", lambda password: f"hash of {password}")


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def open_elsewhere(data):
    """A process that has the data folder open, as a service has."""
    code = "import sys, time; from patchbank.store.engine import open_store\n"
    code += "with open_store(sys.argv[1]): print('open', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(data)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    yield
    process.kill()
    process.communicate()


def add(data, name="anna", role="admin", **rest):
    return run("users", "add", name, "--role", role, "--password-stdin", "--data", data, stdin=PASSWORD + "\n", **rest)


def listed(data, what):
    return json.loads(run(what, "list", "--json", "--data", data).stdout)[what]


def test_people_from_the_first_to_the_last(data):
    result = add(data)
    assert result.stdout == "user anna added, role admin\n"
    assert "is new" in result.stderr  # whoever has named another folder by mistake sees it
    assert "is new" not in add(data, "bert", "viewer").stderr
    run("users", "role", "bert", "engineer", "--reason", "promoted", "--data", data)
    run("users", "disable", "BERT", "--data", data)
    anna, bert = listed(data, "users")
    assert (anna["name"], anna["role"], anna["disabled"], anna["has_password"]) == ("anna", "admin", False, True)
    assert (bert["name"], bert["role"], bert["disabled"]) == ("bert", "engineer", True)
    lines = run("users", "list", "--data", data).stdout.splitlines()
    assert lines[0].split()[:2] == ["anna", "admin"]
    assert lines[1].endswith("disabled")
    assert json.loads(run("users", "enable", "bert", "--json", "--data", data).stdout) == {
        "name": "bert",
        "disabled": False,
    }
    with open_to_read(data, None) as store:
        before = store.read(users.stored_hash, "bert")
    run("users", "password", "bert", "--password-stdin", "--data", data, stdin="another password\r\n")
    with open_to_read(data, None) as store:
        assert before[1] == f"hash of {PASSWORD}"
        assert store.read(users.stored_hash, "bert")[1] == "hash of another password"


def test_a_token_stands_alone_on_stdout_and_works(data):
    result = run("tokens", "add", "line-3", "--scope", "inspect", "--scope", "read", "--days", "30", "--data", data)
    (text,) = result.stdout.splitlines()
    assert "cannot be shown again" in result.stderr
    assert text not in result.stderr
    with open_to_read(data, None) as store:
        token = store.read(tokens.of_text, text)
    assert (token.name, token.scopes) == ("line-3", "inspect read")
    made = json.loads(run("tokens", "add", "other", "--scope", "metrics", "--json", "--data", data).stdout)
    assert made["token"].startswith("pb_")
    other, first = listed(data, "tokens")
    assert (other["scopes"], other["stream"], first["scopes"]) == (["metrics"], None, ["inspect", "read"])
    assert text.split("_")[2] not in json.dumps([other, first])
    assert run("tokens", "revoke", "line-3", "--data", data).stdout == f"token line-3 revoked ({first['prefix']})\n"
    assert json.loads(run("tokens", "revoke", other["prefix"], "--json", "--data", data).stdout) == {
        "name": other["prefix"],
        "revoked": [other["prefix"]],
    }
    assert all(line.endswith("revoked") for line in run("tokens", "list", "--data", data).stdout.splitlines())
    with open_to_read(data, None) as store:
        assert store.read(tokens.of_text, text) is None


def test_all_of_it_while_a_service_has_the_folder_open(data, open_elsewhere):
    add(data)
    run("tokens", "add", "line", "--scope", "inspect", "--data", data)
    assert [each["name"] for each in listed(data, "users")] == ["anna"]
    assert [each["name"] for each in listed(data, "tokens")] == ["line"]
    assert run("audit-log", "verify", "--data", data).stdout.startswith("valid: 2 rows, head 2:")
    assert "already" in failure(*adding("anna"), "--data", data, code=8, stdin=PASSWORD)


def adding(name, role="viewer"):
    return ("users", "add", name, "--role", role, "--password-stdin")


def test_what_cannot_be_is_one_line_and_a_code(data, monkeypatch):
    add(data)
    here = ("--data", data)
    assert "no data folder" in failure("users", "list", "--data", data / "no", code=8)
    assert "already" in failure(*adding("Anna"), *here, code=8, stdin=PASSWORD)
    assert "viewer, operator" in failure(*adding("bert", "boss"), *here, code=2, stdin=PASSWORD)
    assert "got neither" in failure("users", "add", "bert", "--role", "viewer", *here, code=2)
    assert "expected one line" in failure(*adding("bert"), *here, code=2, stdin="two\nlines\n")
    assert "UTF-8" in failure(*adding("bert"), *here, code=2, stdin=b"\xff")
    assert "last administrator" in failure("users", "disable", "anna", *here, code=8)
    assert "no user bert" in failure("users", "role", "bert", "viewer", *here, code=8)
    assert "inspect, ingest" in failure("tokens", "add", "x", "--scope", "all", *here, code=2)
    assert "--days" in failure("tokens", "add", "x", "--scope", "read", "--days", "0", *here, code=2)
    assert "stream 'nowhere'" in failure("tokens", "add", "x", "--scope", "read", "--stream", "nowhere", *here, code=8)
    assert "could be revoked" in failure("tokens", "revoke", "x", *here, code=8)
    assert "--anchor" in failure("audit-log", "verify", "--anchor", "1", *here, code=2)
    assert "--limit" in failure("audit-log", "list", "--limit", "0", *here, code=2)
    monkeypatch.undo()
    assert "10 to 1000 characters" in failure(*adding("bert"), *here, code=2, stdin="short")
    assert [each["name"] for each in listed(data, "users")] == ["anna"]
    assert listed(data, "tokens") == []


def test_the_audit_log_is_listed_exported_and_checked(data):
    add(data)
    run("users", "password", "anna", "--password-stdin", "--reason", "=forgotten", "--data", data, stdin=PASSWORD)
    (row,) = json.loads(run("audit-log", "list", "--action", "user.add", "--json", "--data", data).stdout)["rows"]
    assert (row["n"], row["object"], row["new"]) == (1, "user/anna", {"role": "admin"})
    assert row["actor"].startswith("command line: ")
    assert len(run("audit-log", "list", "--limit", "1", "--data", data).stdout.splitlines()) == 1
    lines = run("audit-log", "export", "--json", "--data", data).stdout.splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["user.add", "user.password"]
    first, second = csv.DictReader(io.StringIO(run("audit-log", "export", "--data", data).stdout))
    assert (first["hash"], second["prev_hash"], first["new"]) == (row["hash"], row["hash"], '{"role":"admin"}')
    assert second["reason"] == "'=forgotten"  # no spreadsheet computes it
    found = json.loads(run("audit-log", "verify", "--json", "--data", data).stdout)
    assert (found["valid"], found["rows"], found["problems"]) == (True, 2, [])
    assert run("audit-log", "verify", "--anchor", found["head"], "--data", data).stdout.startswith("valid: 2 rows")


def test_a_changed_audit_log_ends_with_1(data):
    add(data)
    run("users", "password", "anna", "--password-stdin", "--data", data, stdin=PASSWORD)
    head = json.loads(run("audit-log", "verify", "--json", "--data", data).stdout)["head"]
    with sqlite3.connect(data / "patchbank.sqlite") as connection:
        connection.execute("DROP TRIGGER audit_log_no_delete")
        connection.execute("DELETE FROM audit_log WHERE n = 2")
    connection.close()
    assert run("audit-log", "verify", "--data", data).stdout.startswith("valid: 1 row")  # a whole chain, but shorter
    said = run("audit-log", "verify", "--anchor", head, "--data", data, code=1).stdout
    assert "its end was cut off" in said
    assert json.loads(run("audit-log", "verify", "--anchor", head, "--json", "--data", data, code=1).stdout)["problems"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_password_is_asked_for_twice(data):
    import pty

    def typed(*lines):
        parent, child = os.openpty()
        command = [sys.executable, "-m", "patchbank", "users", "add", "anna", "--role", "admin", "--data", str(data)]
        process = subprocess.Popen(
            command, stdin=child, stdout=subprocess.PIPE, stderr=child, text=True, start_new_session=True
        )
        os.close(child)
        shown = b""
        for line in lines:
            while not shown.endswith((b"Password: ", b"again: ")):
                shown += os.read(parent, 1000)
            os.write(parent, f"{line}\n".encode())
            shown += b" "
        out, _ = process.communicate(timeout=60)
        os.close(parent)
        assert PASSWORD.encode() not in shown
        return process.returncode, out

    assert pty
    assert typed(PASSWORD, PASSWORD + "x")[0] == 2
    assert not data.exists()
    assert typed(PASSWORD, PASSWORD) == (0, "user anna added, role admin\n")
    with open_to_read(data, None) as store:
        assert users.authenticate(store.read(users.stored_hash, "anna"), PASSWORD) is not None


def test_on_postgresql_too(tmp_path, postgres_url):
    here = ("--data", tmp_path / "data", "--database", postgres_url)
    with open_store(tmp_path / "data", postgres_url):  # while a service has it open
        run(*adding("anna", "admin"), *here, stdin=PASSWORD)
        (text,) = run("tokens", "add", "line", "--scope", "read", *here).stdout.splitlines()
        assert json.loads(run("users", "list", "--json", *here).stdout)["users"][0]["name"] == "anna"
        assert run("audit-log", "verify", *here).stdout.startswith("valid: 2 rows")
        assert "its database" not in text
    assert "--database" in failure("users", "list", "--data", tmp_path / "data", code=8)
