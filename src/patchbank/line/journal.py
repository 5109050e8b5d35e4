"""The journal: every answered part in an embedded database (SQLite), with what each sink is still owed.

One thread writes, in groups: a record and the rows that owe it to the sinks are one transaction, on the disk when its
future is done. So a part that was journaled is delivered, whatever ends the program in between.

What happens when the disk gets full (`Policy`): images whose time is over go; then, below `min_free`, the oldest images
of OK parts, then of ERROR, REVIEW, NG; those that a sink is still owed go last. If that is not enough, images are no
longer kept, and an alarm says so. Records wait in memory and are tried again every second, with an alarm; if too many
wait, the next one goes to the log in place of the journal, as an error, and is counted.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from patchbank import OutputError
from patchbank.line.images import free_bytes
from patchbank.line.journal_reader import JournalReader, database_of
from patchbank.line.journal_tables import opened
from patchbank.line.record import Record
from patchbank.line.retention import Policy, Tidying, transaction
from patchbank.util.files import claimed, make_folder

logger = logging.getLogger("patchbank.line")
Alarm: TypeAlias = Callable[[str, str | None], None]  # what, and why; None: it is over
MOST_WAITING = 10_000  # records
MOST_BYTES = 256 << 20  # of images that wait
_TOGETHER = 128
_RETRY = 1.0  # seconds
_TIDY = 30.0


def _silent(what: str, why: str | None) -> None:
    """An alarm that nobody hears."""


@dataclass(eq=False)
class _Work:
    """Something to write. image: is kept before, and named by the record."""

    change: Callable[[sqlite3.Connection], Any]
    future: Future[None] = field(default_factory=Future)
    record: Record | None = None
    image: bytes | None = None
    image_format: str | None = None


class Journal(JournalReader):
    """The journal of a running line; one process at a time has it. `close` it.

    wake: notified when records have been added. alarm: is told what is wrong, and when it is over (any thread).
    """

    def __init__(
        self, folder: Path, sinks: Sequence[str] = (), *, policy: Policy | None = None, alarm: Alarm = _silent
    ) -> None:
        """folder: made where it is missing. sinks: the names of those that each record is owed to from now on. Raises
        OutputError if another process has the journal, or the disk cannot be written."""
        self.folder, self.sinks, self.alarm = folder, tuple(sinks), alarm
        self.wake = threading.Condition()
        self.lost = 0  # records that could not be kept
        self.policy = policy or Policy()
        self._tidying = Tidying(self.policy, alarm)
        self._changed = threading.Condition()
        self._waiting: deque[_Work] = deque()
        self._bytes = 0
        self._closed, self._given_up, self._failing = False, False, False
        self._tidied = 0.0
        self._claim = ExitStack()
        make_folder(folder)
        with self._claim as claim:
            lock = folder / "line.lock"
            try:
                lock.touch()
                claim.enter_context(claimed(lock))
            except OSError as error:
                raise OutputError(f"data: {folder} is used by another line, or cannot be written: {error}") from error
            self._writing = opened(database_of(folder))
            super().__init__(folder)
            self._claim = claim.pop_all()
        self.images.sweep()
        self._thread = threading.Thread(target=self._run, name="patchbank-journal", daemon=True)
        self._thread.start()

    def add(self, record: Record, image: bytes | None = None, image_format: str | None = None) -> Future[None]:
        """Keeps a record, and owes it to every sink. image: the content of an image file, kept with it if there is
        room; the kept record then has its digest. The future is done when all of it is on the disk (do not cancel it:
        `withdraw`), and raises OutputError if that will never be. Raises OutputError after `close`."""

        def change(connection: sqlite3.Connection) -> None:
            self._insert(connection, work)

        work = _Work(change, record=record, image=image, image_format=image_format)
        with self._changed:
            if self._closed:
                raise OutputError("the journal is closed")
            if len(self._waiting) >= MOST_WAITING:
                self._lose(work, f"{MOST_WAITING} records wait to be written")
                return work.future
            if image and self._bytes + len(image) > MOST_BYTES:
                work.image = None
                self.alarm("images", "the disk is too slow: images are not kept")
            self._bytes += len(work.image or b"")
            self._waiting.append(work)
            self._changed.notify_all()
        return work.future

    def withdraw(self, future: Future[None]) -> bool:
        """Takes back a record that still waits. False: it is too late, the record is being written or is kept."""
        with self._changed:
            for work in self._waiting:
                if work.future is future:
                    self._waiting.remove(work)
                    self._bytes -= len(work.image or b"")
                    return True
        return False

    def delivered(self, sink: str, ids: Collection[str]) -> None:
        """The sink has confirmed these: nothing is owed any more. Returns when that is on the disk. Raises OutputError
        if it cannot be."""
        rows = [(sink, id) for id in ids]
        self._now(lambda connection: connection.executemany("DELETE FROM outbox WHERE sink = ? AND id = ?", rows))

    def failed(self, sink: str, id: str, reason: str, *, final: bool = False) -> None:
        """The sink could not take a record. final: it never will; the record is set aside, stays in the journal, and
        is not pending any more (`retry` brings it back). Raises OutputError if that cannot be written."""
        row = (int(final), reason[:500], sink, id)
        query = "UPDATE outbox SET attempts = attempts + 1, refused = ?, reason = ? WHERE sink = ? AND id = ?"
        self._now(lambda connection: connection.execute(query, row))
        if final:
            logger.error("sink %s refuses record %s for good: %s", sink, id, reason)

    def retry(self, sink: str) -> None:
        """What the sink has refused for good is pending again."""
        self._now(lambda connection: connection.execute("UPDATE outbox SET refused = 0 WHERE sink = ?", (sink,)))
        self._tell()

    def wait_pending(self, sink: str, timeout: float) -> bool:
        """Waits until something is pending for a sink. False if that takes longer than `timeout` seconds."""
        with self.wake:
            return self.wake.wait_for(lambda: bool(self.pending(sink, 1)), timeout)

    @property
    def healthy(self) -> bool:
        """Whether the last write succeeded."""
        return not self._failing

    @property
    def waiting(self) -> int:
        """Returns how many writes wait."""
        return len(self._waiting)

    def flush(self, timeout: float = 30.0) -> bool:
        """Waits until all that was added is on the disk. False if that takes longer."""
        with suppress(OutputError, TimeoutError):
            self._later(lambda _: None).result(timeout)
            return True
        return False

    def close(self, timeout: float = 10.0) -> None:
        """Writes what waits, and ends. What cannot be written in that time goes to the log. May be called twice."""
        with self._changed:
            already, self._closed = self._closed, True
            self._changed.notify_all()
        if already:
            return
        self._thread.join(timeout)
        with self._changed:
            self._given_up = True
            left = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._changed.notify_all()
        for work in left:
            self._lose(work, "the journal was closed")
        self._thread.join(timeout)
        super().close()
        self._claim.close()

    # --- the writing thread ---

    def _run(self) -> None:
        while group := self._next():
            try:
                self._write(group)
            except sqlite3.Error as error:
                self._wait(group, error)
            except Exception as error:  # noqa: BLE001  (a record that cannot be written takes no other one with it)
                self._each_alone(group, error)
            else:
                self._done(group)
        self._writing.close()

    def _next(self) -> list[_Work]:
        """What to write together; [] at the end. Tidies when nothing is to be done, and every half a minute."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed, _TIDY)
                group = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
                if not group and self._closed:
                    return []
            self._tidy()
            if group:
                return group

    def _tidy(self) -> None:
        low = free_bytes(self.folder) < self._tidying.policy.min_free
        if time.monotonic() - self._tidied < (_RETRY if low else _TIDY) and self._tidied:
            return
        try:
            self._tidying.run(self._writing, self.images, self.folder)
        except (sqlite3.Error, OSError) as error:
            logger.warning("the journal could not be tidied: %s", error)
        self._tidied = time.monotonic()

    def _write(self, group: list[_Work]) -> None:
        """One transaction, after the images."""
        for work in group:
            self._keep_image(work)
        with transaction(self._writing) as connection:
            for work in group:
                work.change(connection)

    def _keep_image(self, work: _Work) -> None:
        image, work.image = work.image, None
        self._bytes -= len(image or b"")
        if image is None or work.record is None or not self._tidying.room:
            return
        try:
            digest = self.images.put(image)
        except OutputError as error:
            self.alarm("images", f"images cannot be kept: {error}")
            return
        self.alarm("images", None)
        work.record = replace(work.record, image_sha256=digest, image_format=work.image_format)

    def _insert(self, connection: sqlite3.Connection, work: _Work) -> None:
        record = work.record
        assert record is not None
        text = json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        row = (
            record.id,
            record.at.isoformat(timespec="microseconds"),
            record.station,
            record.verdict,
            record.source_key,
        )
        added = connection.execute(
            "INSERT INTO records (id, at, station, verdict, source_key, image_sha256, json) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (*row, record.image_sha256, text),
        ).rowcount
        if added:
            owed = [(sink, record.id) for sink in self.sinks]
            connection.executemany("INSERT INTO outbox (sink, id) VALUES (?, ?)", owed)

    def _done(self, group: list[_Work]) -> None:
        if self._failing:
            self._failing = False
            self.alarm("journal", None)
        for work in group:
            work.future.set_result(None)
        if any(work.record for work in group):
            self._tell()

    def _wait(self, group: list[_Work], error: Exception) -> None:
        """Puts the records back, in order, and waits a little. Other writes are an error for who waits for them."""
        self._failing = True
        self.alarm("journal", f"records cannot be written, and wait: {error}")
        for work in group:
            if work.record is None:
                work.future.set_exception(OutputError(f"the journal cannot be written: {error}"))
        again = [work for work in group if work.record is not None]
        with self._changed:
            if not self._given_up:
                self._waiting.extendleft(reversed(again))
                self._changed.wait_for(lambda: self._given_up, _RETRY)
                return
        for work in again:
            self._lose(work, str(error))

    def _each_alone(self, group: list[_Work], error: Exception) -> None:
        if len(group) == 1:
            self._lose(group[0], f"{type(error).__name__}: {error}")
            return
        for number, work in enumerate(group):
            try:
                self._write([work])
            except sqlite3.Error as problem:
                self._wait(group[number:], problem)
                return
            except Exception as problem:  # noqa: BLE001  (the same)
                self._lose(work, f"{type(problem).__name__}: {problem}")
            else:
                self._done([work])

    def _lose(self, work: _Work, why: str) -> None:
        self.lost += 1
        self.alarm("records", f"{self.lost} records could not be kept: they are in the log")
        if work.record is not None:
            logger.error("record not kept (%s): %s", why, json.dumps(work.record.to_dict()))
        if not work.future.done():
            work.future.set_exception(OutputError(f"the record was not kept: {why}"))

    # --- waiting for it ---

    def _later(self, change: Callable[[sqlite3.Connection], Any]) -> Future[None]:
        work = _Work(change)
        with self._changed:
            if self._closed:
                raise OutputError("the journal is closed")
            self._waiting.append(work)
            self._changed.notify_all()
        return work.future

    def _now(self, change: Callable[[sqlite3.Connection], Any]) -> None:
        self._later(change).result()

    def _tell(self) -> None:
        with self.wake:
            self.wake.notify_all()
