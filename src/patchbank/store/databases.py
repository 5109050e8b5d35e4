"""Connections to the two databases, and what their errors mean.

SQLite has one writing connection and any number of read-only ones: two writing ones can damage the file (the WAL-reset
fault of SQLite 3.7.0 to 3.51.2), and a read-only one can neither write nor move the log into the database.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, QueuePool

from patchbank.errors import (
    MissingExtraError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    StoreValueError,
)
from patchbank.store.types import json_text

_WRITER = (  # synchronous=FULL: a commit is on the disk when it returns
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=5000",
    "PRAGMA journal_size_limit=67108864",
    "PRAGMA cache_size=-65536",
    "PRAGMA trusted_schema=OFF",
)
_READER = ("PRAGMA busy_timeout=5000", "PRAGMA cache_size=-16384", "PRAGMA trusted_schema=OFF")
_READ_SECONDS = 30
_FULL = {"53100", "53200", "54000"}  # PostgreSQL: disk full, out of memory, a limit of the program
_AGAIN = {"40001", "40P01", "55P03"}  # serialization, deadlock, lock not available


def postgres_url(url: str) -> URL:
    """The URL of a PostgreSQL database for SQLAlchemy and psycopg 3. Raises StoreValueError for any other."""
    try:
        made = make_url(url)
    except ArgumentError:
        made = None
    if made is None or made.get_backend_name() not in ("postgresql", "postgres") or not made.database:
        shown = made.render_as_string(hide_password=True) if made else "a text that is no URL"
        raise StoreValueError(
            f"--database: expected postgresql://user@host/name; got {shown}; without it, the service has its own"
        )
    return made.set(drivername="postgresql+psycopg")


def sqlite_writer(path: Path) -> Engine:
    """The engine of the one writing connection. Transactions begin with BEGIN IMMEDIATE."""
    engine = create_engine(
        "sqlite://", creator=lambda: _open(path, "rwc", _WRITER), poolclass=NullPool, json_serializer=json_text
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def sqlite_readers(path: Path, size: int) -> Engine:
    """The engine of read-only connections. A transaction reads one state of the database."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: _open(path, "ro", _READER),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=_READ_SECONDS,
        json_serializer=json_text,
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def postgres(url: URL, size: int) -> Engine:
    """The engine of a PostgreSQL database: a pool that notices when the server was away."""
    try:
        return create_engine(
            url,
            pool_size=size,
            max_overflow=0,
            pool_timeout=_READ_SECONDS,
            pool_pre_ping=True,
            json_serializer=json_text,
            connect_args={
                "connect_timeout": 5,
                "application_name": "patchbank",
                "options": f"-c TimeZone=UTC -c statement_timeout={_READ_SECONDS}s -c lock_timeout=10s "
                "-c idle_in_transaction_session_timeout=60s -c synchronous_commit=on "
                "-c random_page_cost=1.1",  # of an SSD; with the default, a turning disk's, it reads whole tables
            },
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError("PostgreSQL needs psycopg; run: pip install 'patchbank[serve,postgres]'") from error


def reading(engine: Engine) -> Engine:
    """The same pool for reading only: a transaction sees one state of the database, and cannot write."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def quick_check(connection: Connection) -> None:
    """Raises StoreError if SQLite finds the file damaged."""
    found = connection.execute(text("PRAGMA quick_check(3)")).scalars().all()
    if list(found) != ["ok"]:
        raise StoreError(f"the database is damaged ({'; '.join(map(str, found))}); restore it: patchbank restore")


@contextmanager
def errors_of_the_store() -> Iterator[None]:
    """Errors of the database, raised in the block, become what they mean (`translated`)."""
    try:
        yield
    except Exception as error:
        meaning = translated(error)
        if meaning is error:
            raise
        raise meaning from error


def translated(error: Exception) -> Exception:
    """What an error of the database or the disk means to those who asked; other errors as they are."""
    if isinstance(error, PoolTimeoutError):
        return StoreBusyError("all connections to the database are busy; try again")
    if isinstance(error, OSError) and not isinstance(error, StoreError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFullError("the disk is full; nothing of this request was kept; free some space")
    if not isinstance(error, DBAPIError):
        return error
    state = getattr(error.orig, "sqlstate", None) or ""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the rest says more than is asked here
    if state in _FULL or code == sqlite3.SQLITE_FULL:
        return StoreFullError("the database has no space left; nothing of this request was kept; free some space")
    if isinstance(error, IntegrityError):
        return StoreConflictError(f"the database refuses it: {_first_line(error)}")
    if state in _AGAIN or code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusyError("the database is busy with another change; try again")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(f"the database is damaged ({_first_line(error)}); restore it: patchbank restore")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return StoreUnavailableError(f"the database's file cannot be used: {_first_line(error)}")
    if error.connection_invalidated or isinstance(error, OperationalError):
        return StoreUnavailableError(f"the database does not answer: {_first_line(error)}")
    return error


def _first_line(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def _open(path: Path, mode: str, pragmas: tuple[str, ...]) -> Any:
    """A connection whose transactions are begun by us alone (isolation_level=None), not by Python's module."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=5
    )
    try:
        for pragma in pragmas:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection
