"""Reads a journal: also while a line is running that writes it."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchbank import ConfigError, OutputError
from patchbank.line.images import Images
from patchbank.line.record import Record

LAYOUT = 1  # of the tables
_TOGETHER = 500


@dataclass(frozen=True)
class Owed:
    """A record that a sink has not confirmed yet. attempts: how often it failed."""

    record: Record
    attempts: int


def database_of(folder: Path) -> Path:
    """The database in a line's data folder."""
    return folder / "journal.sqlite3"


class JournalReader:
    """The records in a line's data folder. Raises ConfigError if there is no journal, or one of a later patchbank."""

    def __init__(self, folder: Path) -> None:
        """folder: the line's `data`."""
        path = database_of(folder)
        if not path.is_file():
            raise ConfigError(f"data: expected the data folder of a line, with {path.name}; got {folder} without one")
        self.images = Images(folder / "images")
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False, isolation_level=None, timeout=10.0
        )
        with self._reading() as connection:
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout != LAYOUT:
            self.close()
            raise ConfigError(f"{path}: expected a journal of layout {LAYOUT}; got {layout}: use that patchbank")

    def records(self, after: int = 0) -> Iterator[Record]:
        """All records, oldest first. Records that come meanwhile are among them."""
        for _, record in self.numbered(after):
            yield record

    def numbered(self, after: int = 0) -> Iterator[tuple[int, Record]]:
        """All records from after this number on, with their numbers in the journal."""
        while True:
            with self._reading() as connection:
                rows = connection.execute(
                    "SELECT n, json FROM records WHERE n > ? ORDER BY n LIMIT ?", (after, _TOGETHER)
                ).fetchall()
            for number, text in rows:
                yield number, Record.from_dict(json.loads(text))
            if len(rows) < _TOGETHER:
                return
            after = rows[-1][0]

    def last_number(self) -> int:
        """The number of the newest record; 0 if there is none."""
        with self._reading() as connection:
            return int(connection.execute("SELECT coalesce(max(n), 0) FROM records").fetchone()[0])

    def find(self, id: str) -> Record | None:
        """The record of this id; None if there is none."""
        with self._reading() as connection:
            row = connection.execute("SELECT json FROM records WHERE id = ?", (id,)).fetchone()
        return Record.from_dict(json.loads(row[0])) if row else None

    def pending(self, sink: str, limit: int = 100) -> list[Owed]:
        """What this sink is owed, oldest first; without what it has refused for good."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT r.json, o.attempts FROM outbox o JOIN records r ON r.id = o.id "
                "WHERE o.sink = ? AND o.refused = 0 ORDER BY o.n LIMIT ?",
                (sink, limit),
            ).fetchall()
        return [Owed(Record.from_dict(json.loads(text)), attempts) for text, attempts in rows]

    def backlogs(self) -> dict[str, tuple[int, int]]:
        """By sink: how many records it is owed, and how many it has refused for good."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT sink, count(*) - sum(refused), sum(refused) FROM outbox GROUP BY sink"
            ).fetchall()
        return {sink: (owed, refused) for sink, owed, refused in rows}

    def knows_source(self, station: str, key: str) -> bool:
        """Says whether a file has a record already."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM records WHERE station = ? AND source_key = ? LIMIT 1", (station, key)
            ).fetchone()
        return row is not None

    def close(self) -> None:
        """Ends. May be called twice."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One statement at a time. Errors of the database become OutputError."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise OutputError(f"the journal cannot be read: {error}") from error
