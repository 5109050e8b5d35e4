"""The tables of a journal, and the connection that writes them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from patchbank import OutputError
from patchbank.line.journal_reader import LAYOUT

_TABLES = """
CREATE TABLE records (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, station TEXT NOT NULL,
    verdict TEXT NOT NULL, source_key TEXT, image_sha256 TEXT, image_gone INTEGER NOT NULL DEFAULT 0, json TEXT NOT NULL
) STRICT;
CREATE INDEX records_source ON records (station, source_key) WHERE source_key IS NOT NULL;
CREATE INDEX records_image ON records (verdict, n) WHERE image_sha256 IS NOT NULL AND image_gone = 0;
CREATE INDEX records_digest ON records (image_sha256) WHERE image_sha256 IS NOT NULL AND image_gone = 0;
CREATE TABLE outbox (
    n INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, id TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', UNIQUE (sink, id)
) STRICT;
CREATE INDEX outbox_next ON outbox (sink, refused, n);
CREATE INDEX outbox_id ON outbox (id);
"""


def opened(path: Path) -> sqlite3.Connection:
    """The connection that writes. Raises OutputError."""
    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;")
    except sqlite3.Error as error:
        raise OutputError(f"the journal {path} cannot be opened: {error}") from error
    return connection
