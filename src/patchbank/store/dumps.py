"""A database copied while it is in use, and a database made of such a copy.

SQLite copies itself (VACUUM INTO); for PostgreSQL its own programs do it, pg_dump and pg_restore. A copy of SQLite can
also be read into an empty PostgreSQL database: that is how a service moves there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, Engine, insert, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from patchbank.errors import StoreConflictError, StoreError
from patchbank.store import databases
from patchbank.store.engine import Reading
from patchbank.store.schema import metadata
from patchbank.util.progress import Progress

Stop = Callable[[], bool]
_POLL = 0.2
_TOGETHER = 1000
_STEPS = 100_000  # of SQLite's machine between two looks at whether to stop


class StoppedError(StoreError):
    """A backup was stopped before it was whole."""


@dataclass(frozen=True)
class Copy:
    """A database as it was at one moment. path: its file. connection: reads that moment's rows."""

    path: Path
    kind: Literal["sqlite", "postgresql"]
    connection: Connection


@contextmanager
def copied(store: Reading, folder: Path, stop: Stop) -> Iterator[Copy]:
    """A copy of the store's database in the folder. stop: asked often; True ends it with StoppedError."""
    make = _sqlite if store.is_embedded else _postgres
    with databases.errors_of_the_store(), make(store, folder, stop) as copy:
        yield copy


@contextmanager
def opened(path: Path) -> Iterator[Connection]:
    """A copy of SQLite, to read from. Raises StoreError if it is damaged."""
    engine = databases.sqlite_readers(path, 1)
    try:
        with databases.errors_of_the_store(), engine.connect() as connection, connection.begin():
            yield connection
    finally:
        engine.dispose()


def check_sqlite(connection: Connection) -> None:
    """Reads the whole file. Raises StoreError if it is damaged, or has rows that refer to missing ones."""
    found = connection.execute(text("PRAGMA integrity_check(3)")).scalars().all()
    if list(found) != ["ok"]:
        raise StoreError(f"the copy of the database is damaged: {'; '.join(map(str, found))}")
    if connection.execute(text("PRAGMA foreign_key_check")).first():
        raise StoreError("the copy of the database is damaged: it has rows that refer to missing ones")


def check_empty(engine: Engine) -> None:
    """Raises StoreConflictError for a database that has tables."""
    with databases.errors_of_the_store(), engine.connect() as connection:
        if tables := inspect(connection).get_table_names():
            raise StoreConflictError(
                f"expected an empty database; got one with tables ({', '.join(sorted(tables)[:3])}, ...); make a new "
                "one: createdb NAME"
            )


def pg_restore(dump: Path, url: URL) -> None:
    """Fills an empty PostgreSQL database from a dump, in one transaction."""
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    _run(["pg_restore", *options, "--dbname", _shown(url), str(dump)], url, lambda: False)


def copy_rows(source: Connection, target: Connection, progress: Progress) -> None:
    """Copies all rows from one database to another with the same, empty, tables; numbers go on from the largest one."""
    done = 0
    for table in metadata.sorted_tables:
        rows = source.execution_options(yield_per=_TOGETHER).execute(select(table).order_by(*table.primary_key.columns))
        for part in rows.partitions():
            target.execute(insert(table), [dict(row._mapping) for row in part])
            done += len(part)
            progress("restore", done, 0)
        if target.dialect.name == "postgresql" and table.c.keys()[0] == "id" and table.c.id.autoincrement is True:
            target.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), max(id)) "  # noqa: S608  (our names)
                    f"FROM {table.name} HAVING max(id) IS NOT NULL"
                )
            )


@contextmanager
def _sqlite(store: Reading, folder: Path, stop: Stop) -> Iterator[Copy]:
    path = folder / "database.sqlite"
    raw = store.engine.raw_connection()
    try:
        driver: sqlite3.Connection = raw.driver_connection  # type: ignore[assignment]
        driver.set_progress_handler(lambda: 1 if stop() else 0, _STEPS)
        try:
            driver.execute("VACUUM INTO ?", (str(path),))
        except sqlite3.Error as error:
            if stop():
                raise StoppedError("the backup was stopped") from error
            raise OperationalError("VACUUM INTO", None, error) from error
        finally:
            driver.set_progress_handler(None, 0)
    finally:
        raw.close()
    with opened(path) as connection:
        yield Copy(path, "sqlite", connection)


@contextmanager
def _postgres(store: Reading, folder: Path, stop: Stop) -> Iterator[Copy]:
    """pg_dump sees what this transaction sees."""
    path, url = folder / "database.dump", store.engine.url
    reading = databases.reading(store.engine)
    with reading.connect() as connection, connection.begin():
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {name} = 0"))
        snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        options = ("--format=custom", "--compress=1", "--no-owner", "--no-privileges", f"--snapshot={snapshot}")
        _run(["pg_dump", *options, "--file", str(path), "--dbname", _shown(url)], url, stop)
        yield Copy(path, "postgresql", connection)


def _run(command: list[str], url: URL, stop: Stop) -> None:
    """Runs a program of PostgreSQL. A password goes by the environment, which other users cannot read."""
    program = shutil.which(command[0])
    if program is None:
        raise StoreError(
            f"{command[0]} is not on this machine; install PostgreSQL's client programs, of the server's version or a "
            "later one (Debian: postgresql-client)"
        )
    secret = {"PGPASSWORD": str(url.password)} if url.password else {}
    process = subprocess.Popen(  # noqa: S603  (no shell; the arguments are ours and the administrator's)
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | secret,
    )
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                _, said = process.communicate(timeout=_POLL)
                break
            if stop():
                raise StoppedError("the backup was stopped")
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise StoreError(f"{command[0]} failed: {lines[0]}")


def _shown(url: URL) -> str:
    """The URL for PostgreSQL's programs, without the password."""
    return url.set(drivername="postgresql", password=None).render_as_string()
