"""A store on both databases: what was acknowledged is there, what failed is not, and who may open it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select, text

from patchbank import StoreBusyError, StoreConflictError, StoreError, StoreUnavailableError, StoreValueError
from patchbank.store import databases, users, values
from patchbank.store.databases import postgres_url
from patchbank.store.engine import Store, open_store
from patchbank.store.events import Event, tell
from patchbank.store.folder import FolderInUseError, _mounted
from patchbank.store.schema import settings


def put(connection: Connection, key: str, value: Any = 1) -> str:
    connection.execute(insert(settings).values(key=key, value=value, at=values.now(), by="test"))
    return key


def keys(connection: Connection) -> list[str]:
    found = connection.execute(select(settings.c.key).where(settings.c.by == "test").order_by(settings.c.key))
    return list(found.scalars())


def test_a_write_is_there_when_its_future_is_done(store: Store, reopen: Callable[[], Store]) -> None:
    assert store.submit(put, "a").result() == "a"
    assert store.read(keys) == ["a"]
    store.close()
    assert reopen().read(keys) == ["a"]


def test_one_bad_write_of_a_group_fails_alone(store: Store) -> None:
    gate = threading.Event()
    blocked = store.submit(lambda connection: gate.wait(10))
    group = [store.submit(put, key) for key in ("a", "b", "a", "c")]
    wrong = store.submit(put, "d", object())
    gate.set()
    assert blocked.result()
    assert [future.exception() is None for future in group] == [True, True, False, True]
    assert isinstance(group[2].exception(), StoreConflictError)
    assert wrong.exception() is not None
    assert store.read(keys) == ["a", "b", "c"]


def test_a_group_is_one_transaction(store: Store) -> None:
    """Group commit is what makes durable writes quick: waiting writes share a commit."""
    number = "SELECT pg_current_xact_id()::text" if not store.is_embedded else "SELECT total_changes()"
    gate = threading.Event()
    store.submit(lambda connection: gate.wait(10))

    def transaction(connection: Connection) -> str:
        return str(connection.execute(text(number)).scalar())

    numbers = [store.submit(transaction) for _ in range(10)]
    gate.set()
    assert len({future.result() for future in numbers}) == 1


def test_the_queue_is_bounded(place: tuple[Path, str | None]) -> None:
    with open_store(*place, most_waiting=3) as store:
        gate, begun = threading.Event(), threading.Event()

        def block(connection: Connection) -> None:
            begun.set()
            gate.wait(10)

        blocked = store.submit(block)
        begun.wait(10)
        waiting = [store.submit(put, f"key{n}") for n in range(3)]
        with pytest.raises(StoreBusyError, match="try again") as caught:
            store.submit(put, "too much")
        assert caught.value.retry
        gate.set()
        blocked.result()
        assert len([future.result() for future in waiting]) == 3


def test_close_writes_what_waits_and_refuses_more(store: Store, reopen: Callable[[], Store]) -> None:
    futures = [store.submit(put, f"key{n}") for n in range(50)]
    store.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.submit(put, "late")
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.query(keys)
    assert len(reopen().read(keys)) == 50


def test_futures_are_awaited_and_cancelled(store: Store) -> None:
    async def work() -> list[str]:
        await asyncio.gather(*(asyncio.wrap_future(store.submit(put, f"key{n}")) for n in range(20)))
        return await asyncio.wrap_future(store.query(keys))

    assert len(asyncio.run(work())) == 20
    gate = threading.Event()
    store.submit(lambda connection: gate.wait(10))
    given_up: Future[str] = store.submit(put, "given up")
    assert given_up.cancel()
    gate.set()
    store.write(put, "after")
    assert "given up" not in store.read(keys)


def test_a_reader_cannot_write(store: Store) -> None:
    """Two connections that write can damage an embedded database."""
    with pytest.raises(Exception, match=r"readonly|read-only"):
        store.read(put, "a")
    assert store.read(keys) == []


def test_a_read_sees_one_state(store: Store) -> None:
    def twice(connection: Connection) -> tuple[int, int]:
        count = select(func.count()).select_from(settings)
        before = connection.execute(count).scalar_one()
        store.write(put, "between")
        return before, connection.execute(count).scalar_one()

    before, after = store.read(twice)
    assert before == after
    assert store.read(keys) == ["between"]


def test_a_write_does_not_wait_for_another_one(store: Store) -> None:
    with pytest.raises(RuntimeError, match="same connection"):
        store.write(lambda connection: store.write(put, "a"))


def test_an_embedded_database_has_one_process(template: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_store(data):
        with pytest.raises(FolderInUseError, match="another process"):
            open_store(data)
        code = f"from patchbank.store.engine import open_store; open_store({str(data)!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "FolderInUseError" in other.stderr
    open_store(data).close()


def test_several_processes_share_postgres(store: Store, reopen: Callable[[], Store]) -> None:
    if store.is_embedded:
        pytest.skip("an embedded database has one process")
    second = reopen()
    futures = [each.submit(put, f"key{n}") for n, each in enumerate([store, second] * 20)]
    assert len({future.result() for future in futures}) == 40
    assert len(second.read(keys)) == 40


def test_listeners_hear_what_was_committed_and_nothing_else(store: Store) -> None:
    heard: list[Event] = []
    arrived = threading.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind == "last":
            arrived.set()

    def fails(connection: Connection) -> None:
        tell(connection, "never")
        raise ValueError

    stop = store.events.subscribe(listen)
    store.events.subscribe(lambda event: 1 / 0)  # one that fails keeps nothing from the others
    store.write(lambda connection: tell(connection, "first", id=7))
    assert isinstance(store.submit(fails).exception(), ValueError)
    store.write(lambda connection: tell(connection, "last", text="x" * 9000))
    assert arrived.wait(10)
    stop()
    store.write(lambda connection: tell(connection, "unheard"))
    assert [event.kind for event in heard] == ["first", "last"]
    assert heard[0].about == {"id": 7}


def test_events_cross_processes_on_postgres(store: Store, reopen: Callable[[], Store]) -> None:
    if store.is_embedded:
        pytest.skip("an embedded database has one process")
    arrived = threading.Event()
    reopen().events.subscribe(lambda event: arrived.set())
    store.write(lambda connection: tell(connection, "inspection"))
    assert arrived.wait(10)


def test_a_folder_belongs_to_its_database(postgres_server: Any, tmp_path: Path) -> None:
    """`users add` without --database must not make a database that no server looks at."""
    url = postgres_server.make()
    with pytest.raises(StoreError, match="no data folder"):
        open_store(tmp_path / "missing", create=False)
    assert not (tmp_path / "missing").exists()
    open_store(tmp_path / "with postgres", url).close()
    with pytest.raises(StoreError, match="belongs to the database postgresql://"):
        open_store(tmp_path / "with postgres")
    with pytest.raises(StoreError, match="is empty; name that one"):
        open_store(tmp_path / "with postgres", postgres_server.make())
    open_store(tmp_path / "embedded").close()
    with pytest.raises(StoreError, match="database of its own"):
        open_store(tmp_path / "embedded", url)
    with pytest.raises(StoreError, match="pictures in another folder"):
        open_store(tmp_path / "new", url)
    open_store(tmp_path / "other", postgres_server.make()).close()
    with pytest.raises(StoreError, match="identities differ"):
        open_store(tmp_path / "other", url)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(StoreValueError) as caught:
        postgres_url("mysql://anna:secret@host/name")
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreValueError, match="no URL"):
        postgres_url("not a url")


def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        open_store(tmp_path / "data", "postgresql://nobody@127.0.0.1:1/none")


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "data").close()
    path = tmp_path / "data" / "patchbank.sqlite"
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        open_store(tmp_path / "data")
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        open_store(tmp_path / "data")


def test_a_large_database_opens_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service with gigabytes must start in seconds. What is damaged is noticed where it is read."""
    monkeypatch.setattr("patchbank.store.engine.CHECKED_BYTES", 1000)
    with open_store(tmp_path / "data") as store:
        store.write(users.add, "anna", "viewer")
    asked: list[str] = []
    real = databases.sqlite_writer

    def watched(path: Path) -> Any:
        engine = real(path)
        event.listen(engine, "before_cursor_execute", lambda *about: asked.append(about[2]))
        return engine

    monkeypatch.setattr(databases, "sqlite_writer", watched)
    with open_store(tmp_path / "data") as store:
        assert store.read(users.by_name, "anna").role == "viewer"
    assert asked
    assert [each for each in asked if "quick_check" in each or "foreign_key_check" in each] == []


def test_network_file_systems_are_known() -> None:
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "23 22 0:50 / /mnt/with\\040space rw shared:1 - nfs4 host:/export rw\n"
        "24 23 8:2 / /mnt/with\\040space/disk rw - ext4 /dev/sdb1 rw\n"
        "malformed\n"
    )
    assert _mounted(mounts, Path("/srv/data")) == "ext4"
    assert _mounted(mounts, Path("/mnt/with space/data")) == "nfs4"
    assert _mounted(mounts, Path("/mnt/with space/disk/data")) == "ext4"
    assert _mounted("", Path("/srv")) == ""


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchbank.store.folder.file_system", lambda path: "cifs")
    with pytest.raises(StoreError, match=r"network file system \(cifs\)"):
        open_store(tmp_path / "data")


def test_commits_reach_the_disk(store: Store) -> None:
    """SQLite's synchronous=FULL (2), PostgreSQL's synchronous_commit: else a power cut loses what was answered."""
    asked = "PRAGMA synchronous" if store.is_embedded else "SHOW synchronous_commit"
    said = store.write(lambda connection: connection.execute(text(asked)).scalar())
    assert said == (2 if store.is_embedded else "on")
    if store.is_embedded:
        pragmas = ("journal_mode", "foreign_keys")
        found = store.write(lambda c: [c.execute(text(f"PRAGMA {name}")).scalar() for name in pragmas])
        assert found == ["wal", 1]
