# ruff: noqa: S608  (only texts of this module become SQL)
"""What leaves a journal, and when: images by verdict and age, and sooner if the disk gets full; records last of all."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from patchbank.line.images import Images, free_bytes

logger = logging.getLogger("patchbank.line")
FIRST_TO_GO = ("ok", "error", "review", "ng")  # when the disk gets full
_TOGETHER = 200
_KEPT = "image_sha256 IS NOT NULL AND image_gone = 0"
_OWED = "EXISTS (SELECT 1 FROM outbox WHERE outbox.id = records.id)"


@dataclass(frozen=True)
class Policy:
    """days: how many days the images of a verdict stay; 0 = not kept at all. record_days: how long a record stays that
    is owed to nobody. min_free: bytes of the disk that stay free."""

    days: Mapping[str, float] = field(default_factory=lambda: {"ok": 7, "ng": 365, "review": 365, "error": 30})
    record_days: float = 730
    min_free: int = 1_000_000_000


class Tidying:
    """Removes what the policy lets go of. Used by the writing thread alone.

    room: whether there is room for more images; if not, the alarm `disk` is on.
    """

    def __init__(self, policy: Policy, alarm: Callable[[str, str | None], None]) -> None:
        """alarm: is told of a disk that is getting full."""
        self.policy, self.room = policy, True
        self._alarm = alarm

    def run(self, connection: sqlite3.Connection, images: Images, folder: Path, now: datetime | None = None) -> None:
        """One round; each step is a transaction of its own. now: another time, for tests."""
        now = now or datetime.now(UTC)
        for verdict, days in self.policy.days.items():
            self._let_images_go(connection, images, "verdict = ? AND at < ?", (verdict, _text(now, days)))
        gone = 0
        while free_bytes(folder) < self.policy.min_free and (some := self._make_room(connection, images)):
            gone += some
        if gone:
            logger.warning("the disk is getting full: %d images went before their time", gone)
        self._let_records_go(connection, _text(now, self.policy.record_days))
        free = free_bytes(folder)
        self.room = free >= self.policy.min_free
        why = f"{free / 1e9:.2f} GB are free, less than min_free; no image is left to go, and no more are kept"
        self._alarm("disk", None if self.room else why)

    def _make_room(self, connection: sqlite3.Connection, images: Images) -> int:
        """Lets go of some images, of the kind that is missed least. Returns how many."""
        for owed in (f"NOT {_OWED}", _OWED):
            for verdict in FIRST_TO_GO:
                gone = self._some_images(connection, images, f"verdict = ? AND {owed}", (verdict,))
                if gone:
                    return gone
        return 0

    def _let_images_go(
        self, connection: sqlite3.Connection, images: Images, where: str, values: tuple[str, ...]
    ) -> None:
        while self._some_images(connection, images, f"{where} AND NOT {_OWED}", values):
            pass

    def _some_images(self, connection: sqlite3.Connection, images: Images, where: str, values: tuple[str, ...]) -> int:
        """First the records say that their image is gone, then the files go: a process may be killed in between."""
        query = f"SELECT n, image_sha256 FROM records WHERE {_KEPT} AND {where} ORDER BY n LIMIT {_TOGETHER}"
        found = connection.execute(query, values).fetchall()
        if found:
            with transaction(connection):
                connection.executemany("UPDATE records SET image_gone = 1 WHERE n = ?", [(n,) for n, _ in found])
        for digest in {digest for _, digest in found}:
            query = f"SELECT 1 FROM records WHERE image_sha256 = ? AND {_KEPT} LIMIT 1"
            if connection.execute(query, (digest,)).fetchone() is None:
                images.remove(digest)
        return len(found)

    def _let_records_go(self, connection: sqlite3.Connection, before: str) -> None:
        with transaction(connection):
            gone = connection.execute(
                f"DELETE FROM records WHERE n IN (SELECT n FROM records WHERE at < ? AND NOT {_OWED} AND NOT "
                f"({_KEPT}) ORDER BY n LIMIT 10000)",
                (before,),
            ).rowcount
        if gone:
            logger.info("%d records went: their time is over", gone)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All that is written in the block, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _text(now: datetime, days: float) -> str:
    """The time so many days ago, as the journal has it."""
    return (now - timedelta(days=days)).isoformat(timespec="microseconds")
