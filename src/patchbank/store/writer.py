"""The one thread that writes: it takes what is waiting, and commits it as one transaction (group commit).

A commit has to reach the disk, which takes milliseconds whatever it holds: together, fifty times as many writes a
second are durable. Each write has a savepoint, so that one that fails is undone alone. A future is done only when the
transaction that holds its write has been committed: what was answered is on the disk."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from patchbank.errors import StoreBusyError, StoreError, StoreFullError, StoreUnavailableError
from patchbank.store.databases import translated

logger = logging.getLogger("patchbank.store")
_T = TypeVar("_T")
EVENTS = "patchbank events"  # in `Connection.info`: what to tell others once it is committed


@dataclass(frozen=True)
class _Item:
    future: Future[Any]
    call: Callable[[Connection], Any]


class Writer:
    """Writes to one database in one thread of its own. most_waiting: how many writes may wait; most_together: how many
    become one transaction."""

    def __init__(
        self,
        engine: Engine,
        *,
        most_waiting: int = 1024,
        most_together: int = 128,
        committed: Callable[[list[Any]], None] | None = None,
    ) -> None:
        """committed: is told the events of each transaction, after its futures are done."""
        self._engine = engine
        self._queue: queue.Queue[_Item | None] = queue.Queue(most_waiting)
        self._most_together = most_together
        self._committed = committed
        self._closing = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="patchbank-writer", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., _T], *args: Any, **named: Any) -> Future[_T]:
        """Calls function(connection, ...) in the thread, as a part of a transaction. The future is done when that is on
        the disk, or raises what the function raised.

        Raises StoreBusyError if too many are waiting, StoreUnavailableError when the store is closed.
        """
        item = _Item(Future(), lambda connection: function(connection, *args, **named))
        with self._closing:
            if self._closed:
                raise StoreUnavailableError("the store is closed: the service is stopping")
            try:
                self._queue.put_nowait(item)
            except queue.Full:
                raise StoreBusyError(
                    f"{self._queue.maxsize} writes are waiting already; try again in a moment"
                ) from None
        return item.future

    @property
    def waiting(self) -> int:
        """Returns how many writes are waiting."""
        return self._queue.qsize()

    def is_this_thread(self) -> bool:
        """Says whether the caller runs in the writing thread, where waiting for a write would last for ever."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Writes what is waiting, and ends the thread."""
        with self._closing:
            already, self._closed = self._closed, True
        if not already:
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            items = [self._queue.get()]
            while len(items) < self._most_together and items[-1] is not None:
                try:
                    items.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            last = items[-1] is None
            group = [item for item in items if item and item.future.set_running_or_notify_cancel()]
            if group:
                self._write(group)
        self._disconnect()

    def _write(self, group: list[_Item]) -> None:
        """One transaction. If it fails because of others (a deadlock), each write is tried alone."""
        try:
            results, events = self._transaction(group)
        except Exception as error:
            self._disconnect()
            meaning = translated(error)
            if isinstance(meaning, StoreBusyError) and len(group) > 1:
                for item in group:
                    self._write([item])
                return
            if not isinstance(meaning, StoreError):
                logger.error("a transaction of %d writes failed", len(group), exc_info=error)
                meaning = StoreUnavailableError(f"the database failed: {type(error).__name__}: {error}")
            for item in group:
                _fail(item.future, meaning, error)
            return
        for item, (result, problem) in zip(group, results, strict=True):
            if problem is None:
                item.future.set_result(result)
            else:
                _fail(item.future, translated(problem), problem)
        if self._committed and events:
            self._committed(events)

    def _transaction(self, group: list[_Item]) -> tuple[list[tuple[Any, Exception | None]], list[Any]]:
        connection = self._connected()
        results: list[tuple[Any, Exception | None]] = []
        events: list[Any] = []
        with connection.begin():
            for item in group:
                told: list[Any] = []
                connection.info[EVENTS] = told
                savepoint = connection.begin_nested()
                try:
                    result = item.call(connection)
                    savepoint.commit()
                except Exception as problem:
                    if _ends_all(problem):
                        raise
                    savepoint.rollback()
                    results.append((None, problem))
                else:
                    results.append((result, None))
                    events += told
        return results, events

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        """Gives the connection back: the next one is sound, whatever happened to this one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:
                logger.debug("closing a connection failed", exc_info=True)


def _ends_all(problem: Exception) -> bool:
    """Says whether the database may have undone the whole transaction, not only what one write did."""
    if not isinstance(problem, DBAPIError):
        return False
    meaning = translated(problem)
    return isinstance(meaning, (StoreFullError, StoreUnavailableError, StoreBusyError)) or type(meaning) is StoreError


def _fail(future: Future[Any], meaning: Exception, cause: Exception) -> None:
    if meaning is not cause:
        meaning.__cause__ = cause
    future.set_exception(meaning)
